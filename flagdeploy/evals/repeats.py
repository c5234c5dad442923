"""How often each question is asked, and how: greedy once, or sampled until that decides. Pure.

Repeats of a greedy question are copies of one answer, not samples, so they are refused. Both sides
are sampled alike and as often; a baseline that was recorded cannot be asked again.
"""

from flagdeploy.errors import UsageError
from flagdeploy.evals.answers import Sampling
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.sequential import LOOKS
from flagdeploy.evals.suites import Suite

TEMPERATURE, TOP_P = 0.6, 0.95  # what DeepSeek recommends for R1, and most after it
AUTO = "auto"


def held(baseline: Bundle) -> int:
    """Answers that `baseline` brings to every one of its questions."""
    counts: dict[str, int] = {}
    for answer in baseline.answers:
        counts[answer.item] = counts.get(answer.item, 0) + 1
    return min(counts.values(), default=0)


def sampling(
    suite: Suite,
    baseline: Bundle | None,
    repeats: int | str | None,
    temperature: float | None,
    top_p: float | None,
) -> tuple[Sampling, str]:
    """How to ask, and why not as the suite would where it cannot; `baseline` None: it is live.

    `repeats` None: what the suite says; ``auto`` or a suite's 0: until decided, which the
    Sampling names 0. Raises UsageError for what is no fair comparison.
    """
    wanted = _count(repeats)
    times = suite.repeats if wanted is None else wanted
    if baseline is not None:
        temperature, top_p = _as_recorded(baseline, temperature, top_p)
    elif temperature is None and times == 0 and wanted is None:
        temperature, top_p = TEMPERATURE, TOP_P if top_p is None else top_p
    if not temperature:
        if wanted not in (None, 1):
            raise _copies(times, recorded=baseline is not None)
        return Sampling(), "" if times == 1 else "once, for repeats of greedy answers are copies"
    if baseline is not None and times > held(baseline):
        raise UsageError(
            f"the baseline {baseline.name} holds {held(baseline)} answers to each question, "
            f"not {times}",
            hint="a live baseline (--baseline URL) is asked as often as the candidate",
        )
    return Sampling(temperature, top_p, repeats=times), ""


def _as_recorded(
    baseline: Bundle, temperature: float | None, top_p: float | None
) -> tuple[float, float | None]:
    """How `baseline` was sampled, which is how a candidate is to be."""
    known = baseline.manifest["sampling"]
    recorded = float(known["temperature"]), known.get("top_p")
    for name, wanted, had in zip(
        ("temperature", "top_p"), (temperature, top_p), recorded, strict=True
    ):
        if wanted is not None and wanted != had:
            raise UsageError(
                f"the baseline {baseline.name} was recorded with{'out' if had is None else ''} "
                f"{name}{'' if had is None else f' {had}'}, so the candidate "
                f"cannot be asked with {wanted}",
                hint="a live baseline (--baseline URL) is asked as the candidate is",
            )
    return recorded


def _count(repeats: int | str | None) -> int | None:
    if repeats is None:
        return None
    if repeats == AUTO:
        return 0
    if not str(repeats).isdecimal() or int(repeats) < 1:
        raise UsageError(f"--repeats {repeats}: a number from 1, or auto")
    return int(repeats)


def _copies(repeats: int, recorded: bool) -> UsageError:
    times = f"up to {LOOKS[-1]}" if repeats == 0 else str(repeats)
    if recorded:
        return UsageError(
            f"{times} repeats of greedy answers would be copies of one, and the baseline was "
            "recorded greedily",
            hint="compare with a live baseline (--baseline URL) and --temperature 0.6",
        )
    return UsageError(
        f"{times} repeats of greedy answers would be copies of one, not samples",
        hint=f"--temperature {TEMPERATURE} --top-p {TOP_P} samples, as DeepSeek recommends for R1",
    )
