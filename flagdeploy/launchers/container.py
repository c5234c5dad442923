"""A ContainerSpec as the body of POST /containers/create (Docker Engine API 1.41)."""

import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from flagdeploy.config.launch import ContainerSpec, EnvValue, File, UntrustedSpec
from flagdeploy.config.secret import Secret

# An engine writes a line per request; unbounded, weeks of serving would fill the host's disk.
LOG_CONFIG = {"Type": "json-file", "Config": {"max-size": "100m", "max-file": "3"}}

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def create_body(spec: ContainerSpec) -> dict[str, Any]:
    """The whole request; secrets are revealed here and nowhere else.

    `Mounts` rather than `Binds`: the engine then refuses a source that is missing, where `Binds`
    would make an empty folder of root's.
    """
    host: dict[str, Any] = {
        "NetworkMode": spec.network,
        "IpcMode": spec.ipc,
        "PidMode": "" if spec.pid == "private" else spec.pid,
        "Privileged": spec.privileged,
        "Init": spec.init,
        "Mounts": [
            {"Type": "bind", "Source": m.source, "Target": m.target, "ReadOnly": m.read_only}
            for m in spec.mounts
        ],
        "Devices": [_device(device) for device in spec.devices],
        "Ulimits": [
            {"Name": name, "Soft": value, "Hard": value}
            for name, value in sorted(spec.ulimits.items())
        ],
        "CapAdd": list(spec.cap_add),
        "SecurityOpt": list(spec.security_opt),
        "GroupAdd": list(spec.group_add),
        "LogConfig": LOG_CONFIG,
        # An engine that crashes on start would go round for ever and hide its first error.
        "RestartPolicy": {"Name": "no"},
    }
    if isinstance(spec, UntrustedSpec):
        host = _confined(host, spec)
    if spec.gpus:
        host["DeviceRequests"] = [{"Count": -1, "Capabilities": [["gpu"]]}]
    if spec.runtime:
        host["Runtime"] = spec.runtime
    if spec.shm_size:
        host["ShmSize"] = byte_count(spec.shm_size)
    body: dict[str, Any] = {
        "Image": spec.image,
        "Cmd": list(spec.argv),
        "Env": environment(spec.env),
        "Labels": dict(spec.labels),
        "StopTimeout": spec.stop_timeout,
        "HostConfig": host,
    }
    if spec.entrypoint is not None:
        body["Entrypoint"] = list(spec.entrypoint)
    if spec.user:
        body["User"] = spec.user
    if spec.workdir:
        body["WorkingDir"] = spec.workdir
    return body


def _confined(host: dict[str, Any], spec: UntrustedSpec) -> dict[str, Any]:
    # The root is read-only, so files come in by a volume; nobody but root may write there.
    inbox = {"Type": "volume", "Target": spec.inbox}
    return host | {
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": [*spec.security_opt, "no-new-privileges"],
        "Memory": byte_count(spec.memory),
        "MemorySwap": byte_count(spec.memory),
        "PidsLimit": spec.pids,
        "NanoCpus": int(spec.cpus * 1e9),
        "Tmpfs": {"/tmp": f"size={byte_count(spec.scratch)},mode=1777,nosuid,nodev,noexec"},
        "Mounts": [*host["Mounts"], inbox],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": spec.log, "max-file": "1"}},
    }


def environment(env: dict[str, EnvValue]) -> list[str]:
    return [
        f"{name}={value.reveal() if isinstance(value, Secret) else value}"
        for name, value in sorted(env.items())
    ]


def byte_count(text: str) -> int:
    """``64m``, ``10.24g``, ``1024`` as `docker run --shm-size` reads them: powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([bkmg]?)(?:i?b)?", text.lower())
    if not match:
        raise ValueError(f"{text!r} is not a size such as 16g")
    return int(float(match[1]) * _UNITS[match[2]])


def archive(files: Iterable[File], folder: str = "/") -> bytes:
    """A tar to be unpacked in `folder`: files owned by root, readable by everybody (0444)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            content = file.content.encode()
            member = tarfile.TarInfo(str(PurePosixPath(file.path).relative_to(folder)))
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _device(device: str) -> dict[str, str]:
    """``/dev/a``, ``/dev/a:/dev/b`` or ``/dev/a:/dev/b:rwm``, as `docker run --device` takes it."""
    source, _, rest = device.partition(":")
    target, _, permissions = rest.partition(":")
    return {
        "PathOnHost": source,
        "PathInContainer": target or source,
        "CgroupPermissions": permissions or "rwm",
    }
