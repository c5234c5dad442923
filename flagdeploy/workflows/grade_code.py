"""Run generated code in containers of a host, one for each program, and grade what comes out.

Nothing runs outside a container: a launcher without them refuses. Before any program a known one
is run, so that an image without Python is an error and not a hundred wrong answers.
"""

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from flagdeploy.config.launch import LABEL_DEPLOYMENT, LABEL_RANK, LABEL_RANKS, Mount, Running
from flagdeploy.errors import EvalError, HostError
from flagdeploy.evals.grading.code_job import CodeJob, Ended, describe, judge
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.launchers.base import Launcher
from flagdeploy.records.events import Event, Report, silent

LOOK_EVERY_S = 0.1
# Creating and starting a container is not the program's fault.
START_GRACE_S = 20.0

KNOWN = CodeJob("print(int(input()) + 1)", ("1",), ("2",), seconds=20)


def grade_code(
    jobs: Sequence[CodeJob],
    launcher: Launcher,
    image: str,
    *,
    mounts: Sequence[Mount] = (),
    at_once: int = 2,
    report: Report = silent,
) -> list[Grade]:
    """Grades of `jobs` in their order; `image` holds python3 and is on the launcher's host.

    `mounts` are read-only folders that the image needs. Raises EvalError when the image cannot
    run Python, HostError when the host fails or cannot confine a container, UsageError when the
    launcher runs no containers. Whatever is raised, no container is left running.
    """
    with _containers(launcher) as containers:
        sandbox = _Sandbox(launcher, image, tuple(mounts), containers)
        (known,) = sandbox.run([KNOWN], 1, silent)
        if known.score != 1.0:
            raise EvalError(
                f"{launcher.host}: image {image} cannot run generated code: {known.message}",
                hint="name an image that holds python3, for example python:3.12-slim",
            )
        return sandbox.run(jobs, at_once, report)


@dataclass
class _Containers:
    """The containers of one call, under one name: what runs, and until when it may."""

    launcher: Launcher
    name: str = field(default_factory=lambda: f"grading-{secrets.token_hex(4)}")
    deadlines: dict[str, float] = field(default_factory=dict)

    def stop(self, id: str) -> None:
        self.launcher.stop(id, 0)
        self.deadlines.pop(id, None)


@contextmanager
def _containers(launcher: Launcher) -> Iterator[_Containers]:
    containers = _Containers(launcher)
    try:
        yield containers
    finally:
        for id in list(containers.deadlines):
            with contextlib.suppress(HostError):  # the first error is the one to tell
                containers.stop(id)


@dataclass(frozen=True)
class _Sandbox:
    launcher: Launcher
    image: str
    mounts: tuple[Mount, ...]
    containers: _Containers

    def run(self, jobs: Sequence[CodeJob], at_once: int, report: Report) -> list[Grade]:
        waiting = deque(enumerate(jobs))
        running: dict[str, int] = {}
        grades: dict[int, Grade] = {}
        while len(grades) < len(jobs):
            while waiting and len(running) < at_once:
                number, job = waiting.popleft()
                running[self._start(number, len(jobs), job)] = number
            for id, ended in self._ended(running):
                number = running.pop(id)
                grades[number] = judge(jobs[number], ended)
                report(_progress(len(grades), len(jobs)))
            time.sleep(LOOK_EVERY_S)
        return [grades[number] for number in range(len(jobs))]

    def _start(self, number: int, total: int, job: CodeJob) -> str:
        labels = {
            LABEL_DEPLOYMENT: self.containers.name,
            LABEL_RANK: str(number),
            LABEL_RANKS: str(total),
        }
        name = f"flagdeploy-{self.containers.name}-{number}"
        id = self.launcher.start(describe(job, name, self.image, labels, self.mounts))
        self.containers.deadlines[id] = time.monotonic() + job.patience + START_GRACE_S
        return id

    def _ended(self, running: dict[str, int]) -> Iterator[tuple[str, Ended]]:
        """Those that came to their end or to their deadline; each is removed."""
        found = {rank.id: rank for rank in self.launcher.running(self.containers.name)}
        for id in list(running):
            rank = found.get(id)
            late = time.monotonic() >= self.containers.deadlines[id]
            if rank is not None and rank.state != "exited" and not late:
                continue
            ended = _how(self.launcher, rank)
            self.containers.stop(id)
            yield id, ended


def _how(launcher: Launcher, rank: Running | None) -> Ended:
    if rank is None:  # somebody else removed it
        return Ended(b"")
    if rank.state != "exited":
        return Ended(b"", out_of_time=True)
    log = b"".join(launcher.logs(rank.id))
    return Ended(log, rank.exit_code, rank.oom_killed)


def _progress(done: int, total: int) -> Event:
    return Event("grade", "generated programs", done=done, total=total, unit="programs")
