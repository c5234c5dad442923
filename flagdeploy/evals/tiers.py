"""The tiers of a comparison, cheapest first, and when nothing more need be asked. Pure.

Parity, then teacher forcing, then the candidate against itself, then answers. A tier that shows
FAIL ends the run. DIFFERENT does not, for it leaves open whether the other model is a worse one:
then answers are asked in growing parts, with a look after each, until harm is shown or excluded.
A run in which nothing has shown DIFFERENT asks everything at once unless it is told to look
early, because every look takes from the power of a PASS.

That no alarm is raised more often than it may be does not depend on where a run ends. Looks have
their own levels (`sequential`), and an early alarm is adjusted for all tests planned (`judged`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flagdeploy.evals.sequential import LOOKS, Look
from flagdeploy.evals.verdict import Finding, Verdict, overall

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the questions at which a run that may end early looks
PARITY, FORCING, OWN_FLOOR, ANSWERS = "parity", "teacher forcing", "own floor", "answers"


@dataclass(frozen=True)
class Tier:
    """One tier: whether it `ran`, and in `why` what it took or why it was left out or cut."""

    name: str
    ran: bool
    why: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """One step of the answers tier: the first `questions`, each asked `repeats` times."""

    questions: int
    repeats: int
    look: Look


def stages(questions: int, repeats: int, early: bool, most: int = LOOKS[-1]) -> list[Stage]:
    """At which points to look: `repeats` 0 stands for 1, 2, 4, 8, 16 (`most`) until decided.

    With repeats of all questions the looks are at repeats; else, where a run may end `early`, at
    SHARES of the questions; else there is one look, at the end.
    """
    if repeats == 0:
        counts = [(questions, k) for k in LOOKS if k <= most]
    elif early:
        parts = sorted({math.ceil(share * questions) for share in SHARES})
        counts = [(part, repeats) for part in parts]
    else:
        counts = [(questions, repeats)]
    asked = [part * times for part, times in counts]
    information = tuple(count / asked[-1] for count in asked)
    return [
        Stage(part, times, Look(number, information))
        for number, (part, times) in enumerate(counts, 1)
    ]


def decided(findings: Sequence[Finding], to_pass: bool = False) -> str:
    """Why nothing more need be asked after `findings`, whose alarms are adjusted; else empty.

    Harm counts as excluded when the pooled accuracy is shown to be within its margin and no
    single benchmark lies beyond its own so far: ending there can only lose alarms, never raise
    one. With `to_pass` a PASS ends the run too.
    """
    match overall(findings):
        case Verdict.FAIL:
            return "FAIL is shown"
        case Verdict.DIFFERENT if _harmless(findings):
            return "the model is another one and harm is excluded"
        case Verdict.PASS if to_pass:
            return "PASS is shown"
    return ""


def _harmless(findings: Sequence[Finding]) -> bool:
    accuracies = [f for f in findings if f.name.startswith("accuracy")]
    pooled = [f for f in accuracies if f.required]
    beyond = [f for f in accuracies if (f.estimate or 0.0) <= -(f.margin or 0.0)]
    return bool(pooled) and all(f.verdict is Verdict.PASS for f in pooled) and not beyond
