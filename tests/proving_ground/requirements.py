"""What a machine needs before it can hold a fleet."""

import os
import shutil
from pathlib import Path

from proving_ground.network import SYSTEM_PATH

PROGRAMS = ("ip", "ssh", "sshd", "dockerd", "containerd", "docker", "docker-registry")
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21


def missing() -> str | None:
    """Why no fleet can be built here, or None."""
    if os.geteuid() != 0:
        return "a fleet of hosts needs root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    if absent:
        return f"a fleet of hosts needs {', '.join(absent)} (tests/proving_ground/setup.sh)"
    effective = _effective_capabilities()
    if not all(effective >> bit & 1 for bit in (CAP_NET_ADMIN, CAP_SYS_ADMIN)):
        return "a fleet of hosts needs the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN"
    if not Path("/sys/fs/cgroup").is_mount():
        return "a fleet of hosts needs control groups mounted at /sys/fs/cgroup"
    return None


def _effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("CapEff:")).split()[1], 16)
