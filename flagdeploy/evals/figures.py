"""What a report draws, as few plain numbers: a result must stay small however much was asked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flagdeploy.evals.divergence import Parting, survival
from flagdeploy.evals.teacher_forcing import LOWEST, Passage, Position

POINTS, FARTHEST = 400, 50  # of the scatter, and how many of them are those that differ most
BINS = 24


def divergence_survival(partings: Sequence[Parting], floor: float | None) -> dict[str, Any]:
    """``points`` [tokens, share still equal], ``end`` the longest reply; `floor` as hazard."""
    return {
        "prompts": len(partings),
        "parted": sum(p.parted for p in partings),
        "end": max(p.tokens for p in partings),
        "points": [[t, round(share, 4)] for t, share in survival(partings)],
        "floor": floor,
    }


def logprob_scatter(
    passages: Sequence[Passage], scores: Mapping[str, Sequence[Position]]
) -> dict[str, Any]:
    """``points`` [baseline, candidate]: nats of the same token at the same position.

    The FARTHEST that differ most, and of the rest every k-th in order, POINTS in all; the number
    of all finite ``positions``.
    """
    pairs = [
        (max(LOWEST, a.logprob), max(LOWEST, b.logprob))
        for passage in passages
        for a, b in zip(passage.positions, scores.get(passage.key, ()), strict=False)
        if not math.isnan(a.logprob) and not math.isnan(b.logprob)
    ]
    ranked = sorted(range(len(pairs)), key=lambda i: -abs(pairs[i][0] - pairs[i][1]))
    rest = sorted(ranked[FARTHEST:])
    step = max(1, math.ceil(len(rest) / (POINTS - FARTHEST)))
    chosen = [*ranked[:FARTHEST], *rest[::step]]
    points = [[round(value, 3) for value in pairs[i]] for i in chosen]
    return {"positions": len(pairs), "farthest": min(FARTHEST, len(pairs)), "points": points}


def length_histogram(tokens: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Replies per bin of completion tokens, paired (baseline, candidate).

    Equal bins from ``start``, each ``width`` tokens wide; the last one holds all that is longer
    than nearly all replies (the 99th percentile).
    """
    lengths = sorted(length for pair in tokens for length in pair)
    start, high = lengths[0], lengths[math.ceil(0.99 * len(lengths)) - 1]
    width = max(1, math.ceil((high - start + 1) / BINS))
    last = (high - start) // width
    counts = {side: [0] * (last + 1) for side in ("baseline", "candidate")}
    for pair in tokens:
        for side, length in zip(counts, pair, strict=True):
            counts[side][min(last, (length - start) // width)] += 1
    return {"start": start, "width": width, "longest": lengths[-1], **counts}
