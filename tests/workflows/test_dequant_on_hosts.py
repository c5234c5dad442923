"""dequant --on hosts: real hosts over SSH convert their shares in a folder they share."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint.deepseek_layout import deepseek
from proving_ground.hosts import Fleet

import flagdeploy
from flagdeploy.config.launch import Host
from flagdeploy.errors import HostError, HostsFailed
from flagdeploy.launchers.base import Result
from flagdeploy.launchers.connection import Connection
from flagdeploy.records.events import Event
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.dequant import dequant
from flagdeploy.workflows.dequant_on_hosts import dequant_on_hosts

pytestmark = pytest.mark.fleet

BF16 = Conversion("bf16")
SOURCES = Path(flagdeploy.__file__).parent.parent
# Python with flagdeploy; remembers its pid, writes slowly once there is a file `slow`.
PYTHON = """#!/bin/sh
echo $$ > {folder}/pids/$$
[ "$(hostname)" = "$(cat {folder}/broken 2>/dev/null)" ] && export FLAGDEPLOY_KERNEL=gold
PYTHONPATH={sources} exec {python} "$@"
"""
SLOW = """#!/bin/sh
echo $$ > {folder}/pids/$$
case "$*" in *--version*) ;; *) shift 2; set -- {folder}/slowly.py "$@" ;; esac
PYTHONPATH={sources} exec {python} "$@"
"""
SLOWLY = """
import time
import flagdeploy.checkpoint.shard as shard
from flagdeploy.__main__ import main
writing = shard.write_at
def slowly(*arguments):
    time.sleep(0.5)
    writing(*arguments)
shard.write_at = slowly
main()
"""


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def hosts(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    monkeypatch.setenv("FLAGDEPLOY_KNOWN_HOSTS", str(fleet.known_hosts_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return [Host(node.address, user=node.user, port=node.port) for node in fleet]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek(layers=5).write(tmp_path / "R1")


def python(folder: Path, text: str = PYTHON) -> str:
    (folder / "pids").mkdir(exist_ok=True)
    (folder / "slowly.py").write_text(SLOWLY)
    path = folder / "python"
    path.write_text(text.format(folder=folder, sources=SOURCES, python=sys.executable))
    path.chmod(0o755)
    return str(path)


def running(folder: Path) -> list[int]:
    """The ranks that live."""
    pids = [int(path.name) for path in (folder / "pids").iterdir()]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_the_hosts_leave_what_one_machine_would(
    hosts: list[Host], source: Path, tmp_path: Path
) -> None:
    expected = contents(dequant(source, out=tmp_path / "alone").folder)
    events: list[Event] = []
    done = dequant_on_hosts(source, BF16, hosts, python=python(tmp_path), report=events.append)
    assert contents(Path(f"{source}-bf16")) == expected
    assert sum(rank["shards_written"] for rank in done.ranks.values()) == 6
    assert str(done).endswith(f"\n{source}-bf16: complete, verified")
    assert {event.host for event in events} == {host.address for host in hosts}
    assert any(event.message.startswith("to bf16 ") for event in events)
    assert not list(tmp_path.glob(".flagdeploy-probe-*"))
    again = dequant_on_hosts(source, BF16, hosts, python=python(tmp_path))
    assert {rank["outcome"] for rank in again.ranks.values()} == {"already done"}


def test_a_dry_run_prints_the_commands_and_connects_nowhere(source: Path) -> None:
    nowhere = [Host("192.0.2.1"), Host("192.0.2.2")]
    done = dequant_on_hosts(
        source, Conversion("w4afp8", act_scales="scales"), nowhere, python="python3", dry_run=True
    )
    assert str(done).splitlines()[1] == (
        f"192.0.2.2: python3 -m flagdeploy dequant --ckpt {source} --out {source}-w4afp8 "
        f"--to w4afp8 --act-scales {Path.cwd()}/scales --rank 1 --world-size 2 --json"
    )


def test_hosts_without_flagdeploy(hosts: list[Host], source: Path) -> None:
    with pytest.raises(HostsFailed) as caught:
        dequant_on_hosts(source, BF16, hosts, python="/usr/bin/true")
    assert str(caught.value).splitlines()[0] == (
        f"{hosts[0]}: /usr/bin/true has no flagdeploy {flagdeploy.__version__}: exit code 0"
    )
    assert "pip install flagdeploy==" in str(caught.value.hint)
    assert not Path(f"{source}-bf16").exists()


def test_a_folder_that_is_not_shared(hosts: list[Host], source: Path, tmp_path: Path) -> None:
    """Each host has a /dev/shm of its own."""
    with pytest.raises(HostError) as caught:
        dequant_on_hosts(source, BF16, hosts, out="/dev/shm/R1-bf16", python=python(tmp_path))
    assert str(caught.value) == f"{hosts[1]}: does not share /dev/shm with {hosts[0]}"


def test_the_host_that_fails_is_named_and_the_others_go_on(
    fleet: Fleet, hosts: list[Host], source: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").write_text(fleet[1].name)
    with pytest.raises(HostError) as caught:
        dequant_on_hosts(source, BF16, hosts, python=python(tmp_path))
    assert str(caught.value) == f"{hosts[1]}: FLAGDEPLOY_KERNEL=gold: no such kernel"
    assert caught.value.hint == "there are numpy and native"
    assert len(list(Path(f"{source}-bf16").glob("*.safetensors"))) == 3
    (tmp_path / "broken").unlink()
    done = dequant_on_hosts(source, BF16, hosts, python=python(tmp_path))
    assert sum(rank["shards_written"] for rank in done.ranks.values()) == 3


@pytest.fixture
def command(
    fleet: Fleet, hosts: list[Host], source: Path, tmp_path: Path
) -> Iterator[subprocess.Popen[str]]:
    """`flagdeploy dequant --on hosts` under way, writing slowly on both."""
    (tmp_path / "hosts.txt").write_text(fleet.hostfile())
    arguments = ["dequant", "--ckpt", str(source), "--on", "hosts"]
    arguments += ["--hosts", str(tmp_path / "hosts.txt"), "--python", python(tmp_path, SLOW)]
    process = subprocess.Popen(
        [sys.executable, "-m", "flagdeploy", *arguments],
        cwd=SOURCES,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = Path(f"{source}-bf16")
    wait_until(lambda: len({path.parent for path in out.glob(".flagdeploy-ranks/*/*.part")}) == 2)
    yield process
    process.kill()
    process.communicate()


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_ends_the_ranks(
    command: subprocess.Popen[str], source: Path, tmp_path: Path
) -> None:
    assert len(running(tmp_path)) == 2
    command.send_signal(signal.SIGINT)
    stdout, stderr = command.communicate(timeout=60)
    assert (command.returncode, stdout) == (130, "")
    assert stderr.endswith("interrupted\n")
    assert running(tmp_path) == []
    assert not list(Path(f"{source}-bf16").glob(".flagdeploy-ranks/*/*.part"))


def test_ctrl_c_waits_for_every_rank(
    hosts: list[Host], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for one that takes its time; Python's own wait would take it for ended."""
    begun: list[str] = []
    ended: list[str] = []

    def attend(
        connection: Connection, argv: list[str], tell: object, stop: threading.Event
    ) -> Result:
        begun.append(connection.name)
        if len(begun) == len(hosts):
            time.sleep(0.2)  # by now it is waited for
            os.kill(os.getpid(), signal.SIGINT)
        stop.wait()
        time.sleep(2 if connection.name == str(hosts[0]) else 0)
        ended.append(connection.name)
        return Result(143, b"", b"")

    monkeypatch.setattr("flagdeploy.workflows.dequant_on_hosts.attend", attend)
    with pytest.raises(KeyboardInterrupt):
        dequant_on_hosts(source, BF16, hosts, python=python(tmp_path))
    assert sorted(ended) == sorted(begun) == sorted(map(str, hosts))


def test_ranks_end_with_the_one_who_started_them(
    command: subprocess.Popen[str], tmp_path: Path
) -> None:
    command.kill()
    wait_until(lambda: not running(tmp_path))
