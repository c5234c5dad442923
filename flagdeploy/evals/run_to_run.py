"""How far the runs of one recording are apart: its repeats, and the noise floor they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.bundle import digest
from flagdeploy.evals.divergence import partings
from flagdeploy.evals.noise_floor import distance, largest
from flagdeploy.evals.passages import Scores
from flagdeploy.evals.teacher_forcing import differences

FORCED = ("top1", "delta_nll", "kl", "logit_noise", "sequences")
NO_FIGURE = ("concurrency", "texts_sha256", "decoded")


@dataclass(frozen=True)
class Run:
    """Everything asked once: answers and scores by mode."""

    concurrency: int
    answers: list[Answer]
    scores: dict[str, Scores]


def run_to_run(runs: Sequence[Run]) -> dict[str, Any]:
    """`repeats` and `noise_floor` of a manifest."""
    repeats = [_repeat(runs[0], again) for again in runs[1:]]
    return {"repeats": [_shown(row) for row in repeats], "noise_floor": _floor(repeats, runs)}


def _repeat(first: Run, again: Run) -> dict[str, Any]:
    """How far a further run is from the first, with what tells whether it is the same."""
    pairs = list(zip(first.answers, again.answers, strict=True))
    apart = [differences(scores, again.scores[mode]) for mode, scores in first.scores.items()]
    best, *more = apart or [[]]
    parted = partings(first.answers, again.answers)
    row = distance([(a.score, b.score) for a, b in pairs], best, parted)
    if more:
        decoded = distance([(0.0, 0.0)], more[0], [])
        row["decoded"] = {key: decoded[key] for key in FORCED if key in decoded}
    row["different_text"] = sum(a.content != b.content for a, b in pairs) / len(pairs)
    row["concurrency"] = again.concurrency
    row["texts_sha256"] = digest([answer.content for answer in again.answers])
    return row


def _floor(repeats: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> dict[str, Any]:
    """The largest distance of any repeat from the first run; empty without repeats."""
    if not repeats:
        return {}
    widths = [run.concurrency for run in runs]
    figures = [{k: v for k, v in row.items() if k not in NO_FIGURE} for row in repeats]
    floor = {"runs": len(runs), "concurrency": widths, **largest(figures)}
    decoded = [row["decoded"] for row in repeats if "decoded" in row]
    if decoded:
        floor["decoded"] = largest(decoded)
    return floor


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A repeat without what each sequence differed: the floor holds the largest of that."""
    return {
        key: _shown(value) if isinstance(value, Mapping) else value
        for key, value in row.items()
        if key != "sequences"
    }
