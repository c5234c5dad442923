"""What heartbeats say of a trial, by a clock of the test's own; and one real process."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flagdeploy.operators.watch import Limits, Progress, end, watch

LIMITS = Limits(silent=100, whole=300)


def said(stage: str, compiled: int = 0, cpu_s: float = 0.0) -> dict[str, Any]:
    return {"stage": stage, "compiled": compiled, "cpu_s": cpu_s}


def verdict(*beats: tuple[float, dict[str, Any]]) -> tuple[str, str] | None:
    """Of the last look; none before it ends the trial."""
    progress = Progress(LIMITS, 0.0)
    *before, last = [progress.late(now, heard) for now, heard in beats]
    assert not any(before)
    return (last.kind, last.evidence) if last else None


def test_without_progress_it_hangs() -> None:
    first = (1, said("pass 1 of 3", cpu_s=1.0))
    assert verdict(first, (101, said("pass 1 of 3", cpu_s=2.0))) is None
    idle = verdict(first, (102, said("pass 1 of 3", cpu_s=2.0)))
    assert idle == ("hung", "no progress for 100 s in pass 1 of 3, idle")
    busy = verdict(first, (102, said("pass 1 of 3", cpu_s=90.0)))
    assert busy == ("hung", "no progress for 100 s in pass 1 of 3, computing")


def test_a_kernel_or_another_stage_is_progress() -> None:
    beats = [(0, said("pass 1 of 3")), (90, said("pass 1 of 3", 1)), (180, said("pass 2 of 3", 1))]
    assert verdict(*beats, (279, said("pass 2 of 3", 1))) is None


def test_the_first_pass_compiles() -> None:
    beats = [(90 * number, said("pass 1 of 3", number)) for number in range(4)]
    late = verdict(*beats, (301, said("pass 1 of 3", 4)))
    assert late == ("compiling", "in pass 1 of 3 after 300 s, making progress")


def test_a_pass_is_slow_where_nothing_was_compiled_before_it() -> None:
    stages = [said(f"pass 2 of 3, sequence {number}", 7) for number in range(4)]
    beats = [(90 * number, heard) for number, heard in enumerate(stages)]
    late = verdict(*beats, (301, said("pass 3 of 3", 7)))
    assert late == ("slow", "in pass 3 of 3 after 300 s, making progress")


def test_a_pass_that_began_late_because_kernels_were_compiled_is_not_slow_yet() -> None:
    beats = [(90 * number, said("pass 1 of 3", number)) for number in range(4)]
    late = verdict(*beats, (301, said("pass 2 of 3", 4)))
    assert late == ("compiling", "in pass 2 of 3 after 300 s, making progress")


def test_before_an_operator_is_on_nothing_is_said_of_it() -> None:
    hung = verdict((1, said("load")), (102, said("load")))
    assert hung == ("untried", "no progress for 100 s in load, idle")
    assert verdict((101, {})) == ("untried", "no progress for 100 s in start, idle")


def test_a_real_process_that_hangs_is_asked_for_its_stacks_and_ended(tmp_path: Path) -> None:
    beats = tmp_path / "a.beat"
    program = f"""
import faulthandler, pathlib, signal, time
faulthandler.register(signal.SIGUSR1)
beats = pathlib.Path({str(tmp_path / "part")!r})
beats.write_text({json.dumps(said("pass 1 of 3"))!r})
beats.replace({str(beats)!r})
time.sleep(600)
"""
    with (tmp_path / "a.err").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stderr=stderr, start_new_session=True
        )
    try:
        while not beats.exists():
            assert process.poll() is None
            time.sleep(0.02)
        late = watch(process, beats, Limits(0.1, 600))
        assert late is not None and late.kind == "hung"
    finally:
        end(process)
    assert process.returncode == -9
    end(process)  # nothing is left of it


def test_what_a_trial_started_ends_with_it(tmp_path: Path) -> None:
    """Also when the trial itself has ended: its id stays its own until then."""
    program = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        compiler = Path("/proc", process.stdout.readline().strip(), "cmdline")
        assert watch(process, tmp_path / "no.beat", Limits(600, 600)) is None
        assert _runs(compiler)
        end(process)
    assert process.returncode == 0
    deadline = time.monotonic() + 60
    while _runs(compiler):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(command_line: Path) -> bool:
    """Of a process that ended, and that nobody waited for, it is empty."""
    try:
        return bool(command_line.read_bytes())
    except OSError:
        return False
