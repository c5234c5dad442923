"""What one trial showed, and whether that is good enough."""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PASSED = "passed"
FAILED = ("crashed", "corrupt", "diverged", "slow", "hung", "compiling")
UNTRIED = "untried"
"""It ended before an operator was on, and so says nothing of any."""
BEFORE = ("start", "import", "load")  # stages of a trial without the library
_ERROR = re.compile(r"^[\w.]*(Error|Exception|Assertion|Interrupt|Failure)\b.*")
_ASSERT = re.compile(r".*[Aa]ssert(ion)?\b.*failed.*")
_NO_MEMORY = re.compile(r"out ?of ?memory\b|ALLOC_FAILED|SIGKILL", re.IGNORECASE)
_FRAME = re.compile(r'^File ".*", line \d+ in .*')  # of faulthandler, the innermost first
_LOGPROB_ERROR = 1e-3  # nats; float32 rounds a hundred times finer
_LONGEST = 300  # characters of evidence


@dataclass(frozen=True)
class Bounds:
    """`kl`: mean nats per token from native; `slowdown`: times the native time, 0 for no bound."""

    kl: float
    slowdown: float


@dataclass(frozen=True)
class Outcome:
    """`kind` is `PASSED`, `UNTRIED` or one of `FAILED`; `figures` are the trial's own."""

    kind: str
    evidence: str
    figures: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        return self.kind == PASSED

    @property
    def crowded(self) -> bool:
        """Could trials beside it have done this, which take time and memory?"""
        no_memory = self.kind == "crashed" and _NO_MEMORY.search(self.evidence)
        return self.kind in ("slow", "hung", UNTRIED) or bool(no_memory)


def judge(verdict: Mapping[str, Any], native_s: float, bounds: Bounds) -> Outcome:
    """A trial that came to its end."""
    slowdown = verdict["seconds"] / native_s
    figures = {**verdict, "slowdown": slowdown}
    if verdict["not_finite"]:
        places = ", ".join(map(str, verdict["not_finite_at"]))
        count, total = verdict["not_finite"], verdict["positions"]
        what = f"NaN or infinite at {count} of {total} positions: {places}"
        return Outcome("corrupt", what + ("" if count <= 10 else ", ..."), figures)
    if unscored := verdict.get("unscored", 0):
        what = f"no log-probability from finite logits at {unscored} of {verdict['positions']}"
        return Outcome("corrupt", f"{what} positions", figures)
    if wrong := verdict.get("wrong_tokens", 0):
        what = f"{wrong} of {verdict['positions']} tokens chosen are not the most likely ones"
        return Outcome("corrupt", what, figures)
    if (error := verdict.get("logprob_error", 0.0)) > _LOGPROB_ERROR:
        what = f"log-probabilities are off by up to {error:.3g} nats on the same logits"
        return Outcome("corrupt", what, figures)
    if verdict["kl"] > bounds.kl:
        what = f"KL {verdict['kl']:.3g} nats, bound {bounds.kl:.3g}; top-1 {verdict['top1']:.1%}"
        return Outcome("diverged", what, figures)
    if bounds.slowdown and slowdown > bounds.slowdown:
        what = f"{slowdown:.1f} times the native time, bound {bounds.slowdown:g}"
        return Outcome("slow", what, figures)
    exact = "bit-identical" if verdict["identical"] else f"KL {verdict['kl']:.2g} nats"
    return Outcome(PASSED, f"{exact}, {slowdown:.1f} times the native time", figures)


def crash(status: int, stderr: Sequence[str], stage: str) -> Outcome:
    """A process that ended without a verdict; `status` as subprocess gives it."""
    how = _signal(-status) if status < 0 else f"exit {status}"
    lines = [line.strip() for line in stderr]
    asserts = [line for line in lines if _ASSERT.match(line)]
    errors = [line for line in lines if _ERROR.match(line)]
    said = errors[-1:] + asserts[:1] + _frames(lines)[:1] or lines[-1:]
    what = "; ".join(dict.fromkeys([f"{how} in {stage}", *said]))
    kind = UNTRIED if stage in BEFORE else "crashed"
    return Outcome(kind, what[:_LONGEST], {"exit": status})


def stopped(kind: str, evidence: str, stage: str) -> Outcome:
    """A process whose time was up in `stage`."""
    return Outcome(UNTRIED if stage in BEFORE else kind, evidence, {})


def _frames(lines: Sequence[str]) -> list[str]:
    """The stack of the thread that a signal ended; other threads' stacks stand before it."""
    current = [index for index, line in enumerate(lines) if line.startswith("Current thread")]
    return [line for line in lines[current[-1] :] if _FRAME.match(line)] if current else []


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
