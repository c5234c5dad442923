"""The wires of the proving ground: a bridge with a /24 of its own, and machines joined to it.

A machine (`Node`) is a folder and four namespaces: network, hostname, System V IPC and mounts,
the last for a /dev/shm of its own. Without that, engines on two hosts with `--ipc=host` would
find each other's shared memory and take themselves for one host.

The network namespace is also the record of ownership: every process in it, and every
descendant of such a process, was started by this node, so ending a node needs no names and
no pid files.
"""

import fcntl
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATE_ROOT = Path("/tmp/flagdeploy-proving-ground")
OWNER = "owner.json"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("net", "uts", "ipc", "mount")


def command(*argv: str | Path) -> str:
    """Run argv to its end and return its stdout; a failure carries its stderr."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(str(a) for a in argv)}: {done.stderr.strip()}")
    return done.stdout


def program(name: str) -> Path:
    """The system's own program of that name, whatever else is first on PATH."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise RuntimeError(f"{name} is not installed: run tests/proving_ground/setup.sh")
    return Path(found)


def process_start(pid: int) -> int | None:
    """The start time of a process in clock ticks since boot (proc(5), field 22).

    None if it is gone or a zombie that its parent has yet to collect. A pid alone may have been
    given to another process; pid and start time together may not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@contextmanager
def state_lock() -> Iterator[None]:
    """One at a time: choosing a subnet, creating a bridge, clearing away leftovers."""
    STATE_ROOT.mkdir(mode=0o755, exist_ok=True)
    with (STATE_ROOT / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Network:
    """One bridge. The controller has address .254 on it, machines take .1 upwards."""

    name: str
    prefix: str
    folder: Path

    @property
    def subnet(self) -> str:
        return f"{self.prefix}.0/24"

    @property
    def hosts_file(self) -> Path:
        """/etc/hosts of every machine."""
        return self.folder / "hosts"

    @property
    def controller_address(self) -> str:
        return f"{self.prefix}.254"


def open_network() -> Network:
    """Create a bridge on a free /24 under 10.77. Call it with `state_lock` held."""
    suffix = secrets.token_hex(3)
    network = Network(f"fd{suffix}", _free_prefix(), STATE_ROOT / suffix)
    network.folder.mkdir(mode=0o755)
    owner = {"pid": os.getpid(), "start": process_start(os.getpid()), "bridge": network.name}
    (network.folder / OWNER).write_text(json.dumps(owner))
    network.hosts_file.write_text("127.0.0.1 localhost\n")
    command("ip", "link", "add", network.name, "type", "bridge")
    command("ip", "addr", "add", f"{network.controller_address}/24", "dev", network.name)
    command("ip", "link", "set", network.name, "up")
    return network


def _free_prefix() -> str:
    in_use = command("ip", "-4", "-o", "addr") + command(
        "ip", "-4", "route", "show", "table", "all"
    )
    return next(p for p in (f"10.77.{x}" for x in range(256)) if f" {p}." not in in_use)


class Node:
    """One machine: its namespaces, with interface eth0 on the bridge."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.network = network
        self.name = name
        self.address = f"{network.prefix}.{number}"
        self.folder = network.folder / name
        self.namespace = self.folder / "namespaces" / "net"
        self._bridge_side = f"{network.name}-{number}"
        self._started: list[subprocess.Popen[bytes]] = []
        self._create_namespaces()
        self._plug_in()

    def _create_namespaces(self) -> None:
        """Pin new namespaces to files, so that they live without a process in them."""
        files = self.folder / "namespaces"
        files.mkdir(parents=True, mode=0o755)
        # A mount namespace can be pinned only below a mount that does not propagate.
        command("mount", "--bind", files, files)
        command("mount", "--make-private", files)
        flags = [f"--{kind}={files / kind}" for kind in NAMESPACES]
        for kind in NAMESPACES:
            (files / kind).touch()
        command("unshare", *flags, "mount", "-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm")
        self._enter = ("nsenter", *flags, "--")
        self.run("hostname", self.name)
        with self.network.hosts_file.open("a") as hosts:
            hosts.write(f"{self.address} {self.name}\n")
        self.run("mount", "--bind", self.network.hosts_file, "/etc/hosts")

    def _plug_in(self) -> None:
        command(
            *("ip", "link", "add", self._bridge_side, "type", "veth"),
            *("peer", "name", "eth0", "netns", self.namespace),
        )
        command("ip", "link", "set", self._bridge_side, "master", self.network.name, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def run(self, *argv: str | Path) -> str:
        """Run a short command on this machine."""
        return command(*self._enter, *argv)

    def start(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        """Start a daemon on this machine; its output goes to <folder>/<program>.log.

        It gets a session of its own, so that a Ctrl-C at the terminal does not reach it
        before the tear-down does.
        """
        with self.log(Path(argv[0]).name).open("ab") as log:
            process = subprocess.Popen(
                [*self._enter, *(str(a) for a in argv)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, program: str) -> Path:
        return self.folder / f"{program}.log"

    def down(self) -> None:
        """Pull the cable: nothing reaches this machine, what runs on it goes on running."""
        command("ip", "link", "set", self._bridge_side, "down")

    def up(self) -> None:
        """Plug the cable in again."""
        command("ip", "link", "set", self._bridge_side, "up")

    def reap(self) -> None:
        """Collect the exit statuses of the daemons, which have to be dead or dying."""
        for process in self._started:
            process.wait(timeout=30)
