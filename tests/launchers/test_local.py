"""The local launcher with real processes of this machine."""

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_RANK,
    LABEL_SPEC,
    ContainerSpec,
    Host,
    ProcessSpec,
    Running,
)
from flagdeploy.config.secret import Secret
from flagdeploy.errors import HostError, UsageError
from flagdeploy.launchers.local import LocalLauncher
from flagdeploy.launchers.session import Session, boot_id, stat

CANARY = "hf_canary_0123456789"


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(Host("127.0.0.1"), tmp_path / "local")
    yield launcher
    for rank in launcher.running():
        launcher.stop(rank.id, 0)


def spec(script: str, spec_hash: str = "a", **env: str | Secret) -> ProcessSpec:
    labels = {LABEL_DEPLOYMENT: "tiny", LABEL_RANK: "0", LABEL_SPEC: spec_hash}
    return ProcessSpec("tiny-0", ("sh", "-c", script), dict(env), labels)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def text(launcher: LocalLauncher) -> str:
    return b"".join(launcher.logs("tiny-0")).decode()


def only(launcher: LocalLauncher) -> Running:
    (rank,) = launcher.running("tiny")
    return rank


def session_of(launcher: LocalLauncher, tmp_path: Path) -> Session:
    state = json.loads((tmp_path / "local/tiny-0/state.json").read_text())
    log = tmp_path / "local/tiny-0/log"
    return Session(state["pid"], state["start"], state["boot"], state["token"], log)


def test_a_rank_runs_in_a_session_of_its_own_and_outlives_the_launcher(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    launcher.start(spec("echo to stdout; echo to stderr >&2; sleep 300"))
    eventually(lambda: text(launcher) == "to stdout\nto stderr\n")
    again = LocalLauncher(Host("127.0.0.1"), tmp_path / "local")
    assert only(again).state == "running"
    assert only(again).exit_code is None
    session = session_of(launcher, tmp_path)
    assert os.getsid(session.pid) == session.pid != os.getsid(0)


def test_the_exit_code_is_kept(launcher: LocalLauncher) -> None:
    launcher.start(spec("echo dying; exit 7"))
    eventually(lambda: only(launcher).state == "exited")
    assert only(launcher).exit_code == 7
    assert only(launcher).finished_at


def test_a_killed_engine_is_seen(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start(spec("echo $$; exec sleep 300"))
    eventually(lambda: text(launcher).strip().isdigit())
    os.kill(int(text(launcher)), signal.SIGKILL)
    eventually(lambda: only(launcher).state == "exited")
    assert only(launcher).exit_code == 137


def test_a_program_that_is_not_there_exits_with_127(launcher: LocalLauncher) -> None:
    launcher.start(dataclasses.replace(spec(""), argv=("no-such-engine",)))
    eventually(lambda: only(launcher).exit_code == 127)
    assert "no-such-engine" in text(launcher)


def test_stop_ends_every_member_also_those_that_left_the_session(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    launcher.start(
        spec("setsid sleep 301 & (sleep 302 &) ; trap '' TERM; sleep 303 & echo up; wait; wait")
    )
    eventually(lambda: text(launcher) == "up\n")
    session = session_of(launcher, tmp_path)
    eventually(lambda: len(session.members()) == 5)
    launcher.stop("tiny-0", timeout=1)
    assert session.members() == []
    assert launcher.running() == ()
    assert list((tmp_path / "local").iterdir()) == []
    launcher.stop("tiny-0", timeout=1)


def test_stop_finds_orphans_whose_leader_was_killed(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    launcher.start(spec("echo up; sleep 304 & sleep 305"))
    session = session_of(launcher, tmp_path)
    eventually(lambda: len(session.members()) == 4)
    os.kill(session.pid, signal.SIGKILL)
    eventually(lambda: len(session.members()) == 3)
    assert only(launcher).state == "running"
    launcher.stop("tiny-0", timeout=1)
    assert session.members() == []


def test_a_pid_that_went_to_another_process_is_not_touched(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    launcher.start(spec("exit 0"))
    eventually(lambda: only(launcher).state == "exited")
    time.sleep(0.05)  # start times count in ticks of 10 ms, and a pid is not reused within one
    stranger = subprocess.Popen(["sleep", "306"], start_new_session=True)
    try:
        path = tmp_path / "local/tiny-0/state.json"
        state = json.loads(path.read_text())
        path.write_text(json.dumps(state | {"pid": stranger.pid}))
        (tmp_path / "local/tiny-0/exit").write_text("")
        assert only(launcher).state == "exited"
        launcher.stop("tiny-0", timeout=0)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_child_of_the_caller_keeps_its_exit_status(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    """Its pid once was a rank's: looking at that rank must not collect the child."""
    launcher.start(spec("exit 0"))
    eventually(lambda: only(launcher).state == "exited")
    child = subprocess.Popen(["sh", "-c", "exit 5"])
    eventually(lambda: getattr(stat(child.pid), "state", "") == "Z")
    path = tmp_path / "local/tiny-0/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": child.pid, "start": 1}))
    assert only(launcher).state == "exited"
    assert child.wait() == 5


def test_a_start_that_is_impossible_leaves_nothing(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pytest.raises(HostError) as raised:
        launcher.start(spec("x" * 4_000_000))
    assert str(raised.value) == "127.0.0.1: start tiny-0: Argument list too long"
    assert list((tmp_path / "local").iterdir()) == []


def test_a_leader_of_an_earlier_boot_is_not_ours(tmp_path: Path) -> None:
    me = stat(os.getpid())
    assert me is not None
    here = Session(os.getpid(), me.start, boot_id(), "no token", tmp_path / "no log")
    assert here.leader_lives
    assert not dataclasses.replace(here, boot="another boot").leader_lives
    assert not dataclasses.replace(here, start=me.start + 1).leader_lives


def test_starting_twice_starts_once(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start(spec("sleep 307"))
    first = session_of(launcher, tmp_path)
    assert launcher.start(spec("sleep 307")) == "tiny-0"
    assert session_of(launcher, tmp_path) == first


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "r"}', '{"version": 2}'])
def test_state_of_another_version_is_named(
    launcher: LocalLauncher, tmp_path: Path, content: str
) -> None:
    launcher.start(spec("-c", "pass"))
    (path,) = tmp_path.rglob("state.json")
    written = path.read_text()
    newer = json.dumps(json.loads(written) | {"version": 2})
    path.write_text(newer if "version" in content else content)
    with pytest.raises(HostError) as error:
        launcher.running()
    path.write_text(written)
    assert str(error.value).endswith(f"{path} was not written by this version of flagdeploy")
    assert f"remove {path.parent}" in str(error.value.hint)


def test_other_settings_do_not_replace_what_runs(launcher: LocalLauncher) -> None:
    launcher.start(spec("sleep 308"))
    with pytest.raises(HostError) as raised:
        launcher.start(spec("sleep 308", spec_hash="b"))
    assert str(raised.value) == "127.0.0.1: tiny-0 runs already with other settings"
    assert raised.value.hint == "flagdeploy stop tiny"


def test_secrets_reach_the_process_and_no_file(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start(spec('echo "${#HF_TOKEN}"; sleep 309', HF_TOKEN=Secret(CANARY)))
    eventually(lambda: text(launcher) == f"{len(CANARY)}\n")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert CANARY not in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert CANARY.encode() not in command.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


def test_logs_follow_to_the_end(launcher: LocalLauncher) -> None:
    launcher.start(spec("echo one; sleep 0.3; echo two; sleep 0.3; printf three"))
    assert b"".join(launcher.logs("tiny-0", follow=True)) == b"one\ntwo\nthree"
    assert b"".join(launcher.logs("tiny-0", tail=2)) == b"two\nthree"


def test_progress_shows_the_last_line(launcher: LocalLauncher) -> None:
    launcher.start(spec("echo loading 1/2; sleep 300"))
    assert launcher.progress("no such rank") == ()
    eventually(lambda: launcher.progress("tiny-0")[0] == b"loading 1/2")


def test_ports_and_devices_are_probed(launcher: LocalLauncher) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        facts = launcher.probe("tiny", ["/dev/nul[l]", "/dev/no-such*"], [port, 1])
    assert facts.ports_in_use == {port}
    assert facts.device_nodes == ("/dev/null",)
    assert facts.running == ()


def test_containers_are_not_for_this_launcher(launcher: LocalLauncher) -> None:
    container = ContainerSpec("n", "i", (), {}, {})
    with pytest.raises(UsageError, match="^the local launcher starts processes"):
        launcher.start(container)


def test_a_command_beside_a_rank_knows_its_folder(launcher: LocalLauncher) -> None:
    launcher.start(spec('echo made >"$FLAGDEPLOY_RANK_FOLDER/note"; sleep 300'))
    script = 'cat "$FLAGDEPLOY_RANK_FOLDER/note"'
    eventually(lambda: launcher.inside("tiny-0", ["sh", "-c", script]).stdout == b"made\n")
    folder = launcher.inside("tiny-0", ["printenv", "FLAGDEPLOY_RANK_FOLDER"]).text
    launcher.stop("tiny-0", 0)
    assert not Path(folder).exists()


def test_a_program_that_takes_too_long_is_not_printed(launcher: LocalLauncher) -> None:
    with pytest.raises(HostError) as raised:
        launcher.run(["sh", "-c", "sleep 5; : the text of a program"], timeout=0.2)
    assert str(raised.value) == "127.0.0.1: `sh`: not done after 0.2 seconds"
