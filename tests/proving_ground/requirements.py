"""What a machine needs before it can hold a fleet."""

import os
import shutil
import subprocess
from pathlib import Path

from proving_ground.network import SYSTEM_PATH

PROGRAMS = ("ip", "ssh", "sshd", "dockerd", "containerd", "docker", "docker-registry")

TRIAL = (
    "mount -t tmpfs shm /dev/shm && hostname trial"
    " && ip link add name trial type bridge && ip link add name left type veth peer name right"
)


def missing() -> str | None:
    """Why no fleet can be built here, or None."""
    if os.geteuid() != 0:
        return "a fleet of hosts needs root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    if absent:
        return f"a fleet of hosts needs {', '.join(absent)} (tests/proving_ground/setup.sh)"
    trial = subprocess.run(
        ["unshare", "--net", "--uts", "--ipc", "--mount", "sh", "-c", TRIAL],
        capture_output=True,
        text=True,
    )
    if trial.returncode != 0:
        return f"a fleet of hosts needs namespaces, bridges and mounts: {trial.stderr.strip()}"
    if not _cgroups_writable():
        return "a fleet of hosts needs control groups that can be created in /sys/fs/cgroup"
    return None


def _cgroups_writable() -> bool:
    # Version 1 has a folder for each controller, version 2 one tree.
    controller = Path("/sys/fs/cgroup/memory")
    tree = controller if controller.is_dir() else controller.parent
    group = tree / f"flagdeploy-trial-{os.getpid()}"
    try:
        group.mkdir()
        group.rmdir()
    except OSError:
        return False
    return True
