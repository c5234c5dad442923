"""Generated code on a real Docker engine: right, wrong and out to do harm."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet
from proving_ground.image import Image

from flagdeploy.config.launch import Host, Mount
from flagdeploy.errors import EvalError, HostError, UsageError
from flagdeploy.evals.grading.code_job import CodeJob
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.launchers.local import LocalLauncher
from flagdeploy.launchers.ssh import SshLauncher
from flagdeploy.records.events import Event
from flagdeploy.workflows import grade_code as workflow
from flagdeploy.workflows.grade_code import grade_code

fleet_only = pytest.mark.fleet
Run = Callable[..., list[Grade]]


@pytest.fixture
def launcher(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SshLauncher]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLAGDEPLOY_SSH_KEY", str(fleet.key_path))
    node = fleet[0]
    host = Host(node.address, user=node.user, port=node.port)
    launcher = SshLauncher(host, fleet.known_hosts_path)
    yield launcher
    launcher.close()
    node.remove_containers()


@pytest.fixture
def run(fleet: Fleet, launcher: SshLauncher, python_environment: Image) -> Iterator[Run]:
    """Grades jobs on the first host; afterwards nothing may be left of them there."""
    parts = [mount.split(":") for mount in python_environment.mounts]
    mounts = [Mount(source, target, True) for source, target, _ in parts]

    def run(*jobs: CodeJob, image: str = python_environment.tag, **more: object) -> list[Grade]:
        return grade_code(jobs, launcher, image, mounts=mounts, **more)

    yield run
    assert fleet[0].docker("ps", "--all", "--quiet") == ""
    assert fleet[0].docker("volume", "ls", "--quiet") == ""


@fleet_only
def test_programs_are_graded_in_their_order(run: Run) -> None:
    double = "print(2 * int(input()))"
    events: list[Event] = []
    found = run(
        CodeJob(double, ("1", "2"), ("2", "4")),
        CodeJob(double, ("1", "2"), ("2", "5")),
        CodeJob("def f(x): return x + x", ("1", '"a"'), ("2", '"aa"'), function="f"),
        report=events.append,
    )
    assert [grade.score for grade in found] == [1.0, 0.0, 1.0]
    assert found[1].message == "test 2 of 2: wrong answer"
    assert [(event.done, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]


def says(program: str, *answer: str) -> CodeJob:
    """A program that tells what it could do; it is right when that is `answer`."""
    return CodeJob(program, ("",), ("\n".join(answer),), seconds=20)


COUNT_CHILDREN = """
import posix, time
children = 0
try:
    while children < 300:
        if posix.fork() == 0:
            time.sleep(60)
            posix._exit(0)
        children += 1
except OSError as error:
    print(type(error).__name__, 0 < children < 64)
"""
NETWORK = """
import socket
print([name for _, name in socket.if_nameindex()])
try:
    socket.create_connection(("{address}", {port}), 3)
except OSError as error:
    print(type(error).__name__)
"""
FILL = """
for path in ("/x", "/job/x", "/job/job.json", "/etc/x", "/usr/x", "/dev/x", "/dev/shm/x"):
    try:
        io.open(path, "a").write("x")
        print(path)
    except OSError:
        pass
written = 0
try:
    with io.open("/tmp/x", "wb", 0) as file:
        while written < 1 << 30:
            written += file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror, written <= 64 << 20)
"""
PRIVILEGE = """
import posix
print(posix.getuid(), posix.geteuid(), posix.getgid())
for number in (0, 1000):
    try:
        posix.setuid(number)
        print("became", number)
    except PermissionError:
        print("refused")
status = io.open("/proc/self/status").read()
print([line for line in status.split("\\n") if line.startswith("CapEff") and int(line[7:], 16)])
print([name for name in posix.environ if b"TOKEN" in name])
"""


@fleet_only
def test_what_a_hostile_program_can_do(
    run: Run, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary_0123456789")
    network = NETWORK.format(address=fleet[0].address, port=fleet[0].port)
    found = run(
        says(COUNT_CHILDREN, "BlockingIOError True"),
        says(network, "['lo']", "OSError"),
        says(FILL, "No space left on device True"),
        says(PRIVILEGE, "65534 65534 65534", "refused", "refused", "[]", "[]"),
    )
    assert [(grade.score, grade.message) for grade in found] == [(1.0, "")] * 4


UNALARMED = "import signal, time\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
FORK_BOMB = """
import posix
while True:
    try:
        posix.fork()
    except OSError:
        pass
"""
FLOOD = """
import posix
for descriptor in range(3, 9):
    try:
        while True:
            posix.write(descriptor, b"x" * (1 << 16))
    except OSError:
        pass
"""
HOARD = """
hoard = [bytearray(1 << 26) for _ in range(64)]
for block in hoard:
    block[:] = b"x" * len(block)
"""


def wrong(program: str, seconds: int = 1) -> CodeJob:
    return CodeJob(program, ("",), ("1",), seconds=seconds)


@fleet_only
def test_what_does_not_end_by_itself_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "START_GRACE_S", 3.0)
    found = run(
        wrong("while True:\n    pass"),
        wrong(f"{UNALARMED}time.sleep(10**6)"),
        wrong(FORK_BOMB),
        wrong(FLOOD),
    )
    assert [grade.score for grade in found] == [0.0] * 4
    assert found[0].message == "test 1 of 1: time limit exceeded"
    assert found[1].message == "time limit exceeded: stopped after 7 s"
    assert run(says("print(1)", "1"))[0].score == 1.0  # the host is as well as before


@fleet_only
def test_the_kernel_ends_what_nobody_stops(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time and memory are limits of the container, whoever watches it."""
    monkeypatch.setattr(workflow, "START_GRACE_S", 300.0)
    busy, hoard = run(wrong(f"{UNALARMED}while True:\n    pass"), wrong(HOARD, 60))
    assert busy.message == "ended without a result (exit code 137)"
    assert (hoard.score, hoard.message) == (0.0, "memory limit exceeded")


@fleet_only
def test_an_image_without_python_is_an_error_and_not_a_wrong_answer(
    run: Run, launcher: SshLauncher, python_environment: Image
) -> None:
    with pytest.raises(HostError, match="create flagdeploy-grading-.*No such image"):
        run(says("print(1)", "1"), image="no/such:image")
    with pytest.raises(HostError, match="start flagdeploy-grading-.*python3.*not found"):
        grade_code([says("print(1)", "1")], launcher, python_environment.tag)


@fleet_only
def test_an_image_with_another_python3_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, launcher: SshLauncher, python_environment: Image
) -> None:
    monkeypatch.setattr(workflow, "KNOWN", says("raise ValueError(1)", "1"))
    with pytest.raises(EvalError) as raised:
        run(says("print(1)", "1"))
    assert str(raised.value) == (
        f"{launcher.host}: image {python_environment.tag} cannot run generated code: "
        "test 1 of 1: runtime error: ValueError: 1"
    )
    assert raised.value.hint == "name an image that holds python3, for example python:3.12-slim"


@fleet_only
def test_an_interrupted_run_leaves_no_container(
    run: Run, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(event: Event) -> None:
        assert fleet[0].docker("ps", "--quiet") != ""
        raise KeyboardInterrupt

    loop = CodeJob("import time\ntime.sleep(60)", ("",), ("",))
    with pytest.raises(KeyboardInterrupt):
        run(says("print(1)", "1"), loop, report=interrupt)


def test_without_containers_nothing_runs(tmp_path: Path) -> None:
    launcher = LocalLauncher(Host("127.0.0.1"), tmp_path)
    with pytest.raises(UsageError, match="--launcher ssh for containers"):
        grade_code([says("print(1)", "1")], launcher, "python:3.12-slim")
    assert launcher.running() == ()
