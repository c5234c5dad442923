"""Taking a network down to the last process, mount, cgroup and file.

The same code ends a run that finishes and clears up after one that was killed: it works from
the run's folder alone.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from proving_ground.network import OWNER, STATE_ROOT, command, process_start

CGROUPS = Path("/sys/fs/cgroup")


def clear_abandoned() -> list[str]:
    """Take down the networks whose test process is gone; call it with the state lock held.

    Returns the names of the folders cleared.
    """
    abandoned = [f for f in STATE_ROOT.iterdir() if f.is_dir() and not _owner_lives(f)]
    for folder in abandoned:
        take_down(folder)
    return [folder.name for folder in abandoned]


def _owner_lives(folder: Path) -> bool:
    if not (folder / OWNER).exists():
        return False
    owner = json.loads((folder / OWNER).read_text())
    return bool(process_start(owner["pid"]) == owner["start"])


def take_down(folder: Path) -> None:
    """End every process of every machine under folder, then remove what they left behind."""
    for namespace in folder.glob("*/namespaces/net"):
        end_processes(namespace)
    for socket in _shim_sockets(folder):
        socket.unlink(missing_ok=True)
    for mount in reversed(mounts_under(folder)):
        command("umount", "--lazy", mount)
    _remove_cgroups(cgroup_parent(folder))
    _remove_links(f"fd{folder.name}")
    _remove(folder)


def _remove(folder: Path) -> None:
    """A program that was just killed may have had something to delete in there itself."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def cgroup_parent(folder: Path) -> str:
    """The cgroup above all containers of the machines under folder."""
    return f"flagdeploy-{folder.name}"


def end_processes(namespace: Path) -> None:
    """Kill every process in a network namespace, and their descendants, until none is left.

    Descendants count because a container without `--network host` has a namespace of its own,
    yet its shim is a process of the machine.
    """
    if namespace.stat().st_dev != Path("/proc/self/ns/net").stat().st_dev:
        return  # the file is there, the namespace was never mounted on it or is gone
    deadline = time.monotonic() + 30
    while members := processes_in(namespace):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(members)} of {namespace} do not end")
        time.sleep(0.05)


def processes_in(namespace: Path) -> set[int]:
    """The pids in a network namespace and of their descendants, zombies left out."""
    inode = namespace.stat().st_ino
    parents: dict[int, int] = {}
    members: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state in "ZX":
                continue
            parents[int(entry.name)] = int(parent)
            if (entry / "ns/net").stat().st_ino == inode:
                members.add(int(entry.name))
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def mounts_under(folder: Path) -> list[str]:
    """The mount points under folder in the order of mounting (proc(5), mountinfo field 5)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return [point for point in points if Path(point).is_relative_to(folder)]


def _shim_sockets(folder: Path) -> list[Path]:
    """Sockets of containerd's shims: they lie outside containerd's own state folder."""
    files = folder.glob("*/containerd/state/io.containerd.runtime.v2.task/*/*/address")
    return [Path(file.read_text().removeprefix("unix://")) for file in files]


def _remove_cgroups(name: str) -> None:
    # cgroup v1 has one hierarchy for each controller, v2 one for all.
    for top in [*CGROUPS.glob(f"*/{name}"), *CGROUPS.glob(name)]:
        for directory, _, _ in os.walk(top, topdown=False):
            _remove_cgroup(Path(directory))


def _remove_cgroup(directory: Path) -> None:
    # A cgroup stays busy for a moment after its last process has gone.
    for _ in range(100):
        try:
            directory.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the cgroup {directory} cannot be removed")


def _remove_links(prefix: str) -> None:
    for line in command("ip", "-o", "link").splitlines():
        name = line.split(": ")[1].partition("@")[0]
        if name == prefix or name.startswith(f"{prefix}-"):
            # The kernel removes a veth with its namespace, maybe while this loop runs.
            subprocess.run(["ip", "link", "del", name], capture_output=True)
