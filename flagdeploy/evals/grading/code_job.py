"""Generated code as a job for a container: what to run, how it is confined, what it is worth.

The container gets the program and its inputs; the expected outputs stay here, so a program that
takes its runner over can forge nothing but an answer. (A `check`, as HumanEval has it, has to
run beside the program and can be forged: that is HumanEval's design.)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagdeploy.config.launch import File, Mount, UntrustedSpec
from flagdeploy.evals.grading.grade import Grade, Status
from flagdeploy.evals.grading.mlperf.code_tests import same_output, same_value
from flagdeploy.evals.grading.run_tests import MARK

RUNNER = Path(__file__).with_name("run_tests.py")
INBOX = "/job"
SECONDS = 60  # per test: LiveCodeBench's limit in MLPerf's reference


@dataclass(frozen=True)
class CodeJob:
    """One program and its tests: the i-th input should give the i-th output.

    With `function` an input is one JSON argument a line and an output is JSON; without, they are
    what goes in by stdin and comes out by stdout. `check` instead of both is code that is run
    after the program and raises when that is wrong.
    """

    program: str
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    function: str | None = None
    check: str | None = None
    seconds: int = SECONDS

    @property
    def patience(self) -> float:
        """Seconds for all of it, the reference's sum."""
        return (self.seconds + 1.0) * max(1, len(self.inputs)) + 5.0


@dataclass(frozen=True)
class Ended:
    """How the container of a job ended: the log's tail is where the result stands."""

    log: bytes
    exit_code: int | None = None
    out_of_memory: bool = False
    out_of_time: bool = False


def describe(
    job: CodeJob, name: str, image: str, labels: dict[str, str], mounts: Sequence[Mount] = ()
) -> UntrustedSpec:
    """The container of `job`: `image` holds python3; see UntrustedSpec for its limits."""
    content = {
        "program": job.program,
        "inputs": list(job.inputs),
        "function": job.function,
        "check": job.check,
        "seconds": job.seconds,
    }
    return UntrustedSpec(
        name=name,
        image=image,
        argv=("python3", "-I", f"{INBOX}/run_tests.py", f"{INBOX}/job.json"),
        env={},
        labels=labels,
        files=(
            File(f"{INBOX}/run_tests.py", RUNNER.read_text(encoding="utf-8")),
            File(f"{INBOX}/job.json", json.dumps(content)),
        ),
        mounts=tuple(replace(mount, read_only=True) for mount in mounts),
        # The hard end, should nobody be left to stop it.
        ulimits={"cpu": int(job.patience) + 1, "nproc": 512, "core": 0},
        inbox=INBOX,
    )


def judge(job: CodeJob, ended: Ended) -> Grade:
    """1.0 when every test gave what it should, else 0.0 and why in `message`."""
    failure = _failure(job, _results(ended.log), ended)
    return Grade(job.program, 0.0 if failure else 1.0, Status.PARSED, failure)


def _failure(job: CodeJob, results: list[dict[str, Any]] | None, ended: Ended) -> str:
    if results is None:
        return _without_result(job, ended)
    total = max(1, len(job.inputs)) if job.check is not None else len(job.inputs)
    for number, result in enumerate(results, 1):
        why = result.get("failed") or _wrong(job, number - 1, result)
        if why:
            return f"test {number} of {total}: {why}"
    return "" if len(results) == total else f"only {len(results)} of {total} tests ran"


def _without_result(job: CodeJob, ended: Ended) -> str:
    if ended.out_of_time:
        return f"time limit exceeded: stopped after {job.patience:g} s"
    if ended.out_of_memory:
        return "memory limit exceeded"
    return f"ended without a result (exit code {ended.exit_code})"


def _wrong(job: CodeJob, index: int, result: dict[str, Any]) -> str:
    if job.check is not None:
        return ""
    if index >= len(job.outputs):
        return "there is no such test"
    expected = job.outputs[index]
    if job.function is not None:
        right = "value" in result and same_value(result["value"], expected)
    else:
        right = same_output(str(result.get("output", "")), expected)
    return "" if right else "wrong answer"


def _results(log: bytes) -> list[dict[str, Any]] | None:
    """The last line that looks like a result, in the form that the runner writes it."""
    _, found, rest = log.rpartition(b"\n" + MARK.encode())
    if not found:
        return None
    try:
        results = json.loads(rest.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    well_formed = isinstance(results, list) and all(isinstance(one, dict) for one in results)
    return results if well_formed else None
