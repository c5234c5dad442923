"""A Slurm cluster of one node on this machine, with its own munge: real jobs, steps and tasks."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from proving_ground.network import SYSTEM_PATH

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
START_TIMEOUT_S = 60.0


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    if absent:
        return f"a Slurm cluster needs {', '.join(absent)} (tests/proving_ground/setup.sh)"
    return None


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run the cluster; gives the environment in which `srun` and the others find it."""
    environment = {**os.environ, "PATH": SYSTEM_PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    _write_configuration(folder)
    running: list[subprocess.Popen[bytes]] = []

    def start(*command: str | Path) -> None:
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            running.append(process)

    try:
        start("munged", "--foreground", "--force", *_munge_files(folder))
        _wait(folder, (folder / "munge.sock").exists)
        start("slurmctld", "-D")
        start("slurmd", "-D")

        def idle() -> bool:
            command = ["sinfo", "--noheader", "--format=%T"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            return done.stdout.strip() == "idle"

        _wait(folder, idle)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _munge_files(folder: Path) -> list[str]:
    names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid"}
    names |= {"log-file": "munged.log", "seed-file": "munge.seed"}
    return [f"--{option}={folder / name}" for option, name in names.items()]


def _write_configuration(folder: Path) -> None:
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    folder.chmod(0o755)
    node, ports = socket.gethostname().partition(".")[0], _free_ports(2)
    # Without IgnoreSystemd the step daemon waits for a systemd that containers do not have.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n")
    (folder / "slurm.conf").write_text(
        f"ClusterName=test\nSlurmctldHost={node}(127.0.0.1)\nSlurmctldPort={ports[0]}\n"
        f"SlurmdPort={ports[1]}\nAuthType=auth/munge\nAuthInfo=socket={folder}/munge.sock\n"
        f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool\n"
        f"SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/slurmd.pid\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n"
        "JobAcctGatherType=jobacct_gather/none\nSlurmUser=root\nSlurmdUser=root\n"
        "ReturnToService=2\nMailProg=/bin/true\nMpiDefault=none\n"
        "SlurmdParameters=config_overrides\n"
        f"NodeName={node} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN\n"
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
    )


def _free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports


def _wait(folder: Path, ready) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Slurm did not start:\n{(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.1)
