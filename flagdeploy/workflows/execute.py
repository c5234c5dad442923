"""Carry out a plan: stages in order, the hosts of one stage at once.

All or nothing for what is started: when any rank fails, the logs of all ranks are kept, the first
one that failed is found and explained, and what this run started is stopped again.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from flagdeploy.config.launch import LABEL_RUN, ContainerSpec, Spec
from flagdeploy.errors import EngineError, FlagdeployError
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import (
    ApplyPatches,
    CheckCheckpoint,
    CompareNative,
    Convert,
    Plan,
    ProveSwap,
    PullImage,
    RecordNative,
    Skip,
    Start,
    Step,
    Stop,
    WaitReady,
)
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.run import Run
from flagdeploy.workflows.checkpoint_on_host import verify_on_host
from flagdeploy.workflows.fanout import each
from flagdeploy.workflows.group import Group
from flagdeploy.workflows.native import FOLDER, compare_native, record_native
from flagdeploy.workflows.operators import prove
from flagdeploy.workflows.patch import apply_on_host
from flagdeploy.workflows.ready import wait_ready
from flagdeploy.workflows.stages import run_stage


@dataclass(frozen=True)
class StepResult:
    """What became of one step."""

    step: str
    host: str
    why: str
    state: Literal["done", "skipped", "failed"]
    seconds: float
    error: str = ""
    evidence: str = ""
    """What the step found, where finding out is what it is for."""


@dataclass(frozen=True)
class Outcome:
    """One result per step that was reached, in the order of finishing."""

    results: tuple[StepResult, ...]

    @property
    def changed(self) -> bool:
        return any(result.state == "done" for result in self.results)


def execute(
    plan: Plan, launchers: Mapping[str, Launcher], run: Run, report: Report = silent
) -> Outcome:
    """Carry out `plan` on `launchers` (by host) and record results and events in `run`.

    Raises EngineError when a rank died, stalled or refused, with the first rank that failed, its
    last lines, the cause and the remedy; HostError, HostsFailed and CheckpointError for what else
    fails. Whatever is raised, KeyboardInterrupt included, nothing that this run started is left
    running, or the error names it.
    """
    return Execution(plan, launchers, run, report).carry_out()


class Execution:
    """One plan under way."""

    def __init__(
        self, plan: Plan, launchers: Mapping[str, Launcher], run: Run, report: Report
    ) -> None:
        self.plan = plan
        self.launchers = launchers
        self.run = run
        self.results: list[StepResult] = []
        self.group = Group(plan.deployment, launchers, run, self.tell)
        self._listener = report
        self._cancelled = threading.Event()

    def carry_out(self) -> Outcome:
        try:
            for _, steps in groupby(self.plan.steps, key=lambda step: step.stage):
                self._stage(list(steps))
        except FlagdeployError as error:
            self._cancelled.set()
            raise self.group.failed(error) from error
        except BaseException:  # Ctrl-C, or a fault of ours: nothing is left running either way
            self._cancelled.set()
            self.group.give_up()
            raise
        finally:
            self.run.write_json("steps.json", [vars(result) for result in self.results])
        return Outcome(tuple(self.results))

    def tell(self, event: Event) -> None:
        """To the listener and, except for the many events that only count, to the record."""
        event = replace(event, message=self.run.mask(event.message))
        if event.total is None:
            self.run.event(event)
        self._listener(event)

    def _stage(self, steps: Iterable[Step]) -> None:
        by_host: dict[str, list[Step]] = {}
        for step in steps:
            by_host.setdefault(step.host, []).append(step)
        each(by_host, self._in_turn)

    def _in_turn(self, steps: list[Step]) -> None:
        for step in steps:
            if self._cancelled.is_set():
                return
            with self._recorded(step) as found:
                found += self._carry_out(step) or ()

    def _carry_out(self, step: Step) -> list[str] | None:
        """What was found out, if that is what the step is for."""
        launcher = self.launchers[step.host]
        match step:
            case PullImage():
                launcher.pull(step.image, self.tell)
            case CheckCheckpoint():
                verify_on_host(launcher, step.path)
            case ApplyPatches():
                apply_on_host(step, launcher)
            case Stop():
                launcher.stop(step.id, step.timeout)
            case Convert():

                def start(spec: ContainerSpec) -> str:
                    return self._start(step.host, spec, launcher)

                run_stage(step, launcher, start, self.run, self.tell)
            case Start():
                self._start(step.host, step.spec, launcher)
            case WaitReady():
                wait_ready(step, self.launchers, self.plan.deployment, self.tell)
            case RecordNative():
                return [record_native(step, launcher, self.plan.deployment, self._native)]
            case ProveSwap():
                return [prove(step, launcher, self.plan.deployment)]
            case CompareNative():
                return [compare_native(step, launcher, self.plan.deployment, self._native)]
            case Skip():
                pass
            case _:
                raise NotImplementedError(type(step).__name__)
        return None

    @property
    def _native(self) -> Path:
        return self.run.folder.parent / FOLDER

    def _start(self, host: str, spec: Spec, launcher: Launcher) -> str:
        labels = {**spec.labels, LABEL_RUN: self.run.id}
        with self.group.starting(host):
            # A group that is given up waits for what is in flight: from here on nothing starts.
            if self._cancelled.is_set():
                raise EngineError(f"{host}: {spec.name} was not started: the run is given up")
            return launcher.start(replace(spec, labels=labels))

    @contextmanager
    def _recorded(self, step: Step) -> Iterator[list[str]]:
        began = time.monotonic()
        skipped = isinstance(step, Skip)
        self.tell(Event(step.stage, f"skip: {step.why}" if skipped else step.why, step.host))
        state: Literal["done", "skipped", "failed"] = "skipped" if skipped else "done"
        message = ""
        found: list[str] = []
        try:
            yield found
        except FlagdeployError as error:
            state, message = "failed", self.run.mask(str(error))
            raise
        finally:
            seconds = round(time.monotonic() - began, 3)
            name, evidence = type(step).__name__, "; ".join(found)
            if evidence:
                self.tell(Event(step.stage, evidence, step.host))
            self.results.append(
                StepResult(name, step.host, step.why, state, seconds, message, evidence)
            )
