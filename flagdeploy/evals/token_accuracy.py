"""An endpoint's predictions of a given text beside those of a reference model. Pure.

As the Tenstorrent demos count (models/demos/deepseek_v3 TokenAccuracy): *top-1*, the endpoint's
most likely token is the reference's; *top-5*, it is among the reference's five. Their first
version took the text's own token for top-1, which a perfect port misses as often as the reference
does, so that is shown and not judged. Tokens of one text hang together: the unit is the text, or
where there are few, a segment of it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flagdeploy.evals.agreement import FEWEST_SEQUENCES, TOP1_MARGIN, share_interval
from flagdeploy.evals.power import needed_clusters
from flagdeploy.evals.readers.refpt import Entry, TokenReference
from flagdeploy.evals.statistics import Mean, clustered_mean
from flagdeploy.evals.teacher_forcing import TIE, Position
from flagdeploy.evals.verdict import ALPHA, LEVEL, Finding, Verdict

TOP5_MARGIN = 0.01  # the demos' CI wants 99% of the predictions among the reference's five
SEGMENT = (8, 100)  # tokens, at least and at most; the demos print accuracy by 100
ENOUGH = 60  # segments without a difference exclude one of TOP1_MARGIN
TEST = "t test and BCa bootstrap, clustered by segment"


@dataclass(frozen=True)
class Segment:
    """Shares of one segment's positions, each in [0, 1]."""

    length: int
    other: float
    outside: float
    text: float


def token_accuracy(
    reference: TokenReference, scores: Mapping[int, Sequence[Position]]
) -> list[Finding]:
    """Top-1 and top-5 against `reference`; `scores` by entry, one position per token.

    A PASS must hold with every entry that is not in `scores` counted as wholly different.
    """
    known = [(entry, scores[at]) for at, entry in enumerate(reference.entries) if at in scores]
    missing = len(reference.entries) - len(known)
    size = _size(reference)
    segments = [found for entry, positions in known for found in _segments(entry, positions, size)]
    if not segments:
        sentence = f"none of {missing} texts could be scored"
        name = "teacher-forced top-1 disagreement"
        return [Finding(name, Verdict.INCONCLUSIVE, sentence, required=True)]
    broken = sum(
        math.isnan(nats) for _, positions in known for p in positions for nats in p.top.values()
    )
    if broken:
        sentence = f"{broken} log-probabilities are NaN"
        return [
            Finding("finite log-probabilities", Verdict.FAIL, sentence, required=True, n=broken)
        ]
    per_entry = max(1, len(segments) // len(known))
    lost = missing * per_entry
    return [
        _judged(
            "teacher-forced top-1 disagreement",
            "the most likely token is not the reference's",
            [segment.other for segment in segments],
            segments,
            lost,
            TOP1_MARGIN,
            required=True,
        ),
        _judged(
            "teacher-forced top-5 misses",
            "the most likely token is none of the reference's five",
            [segment.outside for segment in segments],
            segments,
            lost,
            TOP5_MARGIN,
            required=False,  # misses are so rare that excluding 1% of them takes 300 texts
        ),
        _text(segments),
    ]


def _size(reference: TokenReference) -> int:
    """Tokens of a segment: whole texts where there are enough, else enough segments of them."""
    if len(reference.entries) >= ENOUGH:
        return max(len(entry.continuation) for entry in reference.entries)
    tokens = sum(len(entry.continuation) for entry in reference.entries)
    low, high = SEGMENT
    return min(high, max(low, tokens // ENOUGH))


def _segments(entry: Entry, positions: Sequence[Position], size: int) -> Iterator[Segment]:
    rows = list(zip(entry.continuation, entry.top, positions, strict=True))
    counted = [(token, top, position.top) for token, top, position in rows if top and position.top]
    whole = max(1, len(counted) // size)
    for index in range(whole):
        # What is left over belongs to the last segment.
        end = None if index == whole - 1 else (index + 1) * size
        part = counted[index * size : end]
        if part:
            best = [_best(mine) for _, _, mine in part]
            n = len(part)
            yield Segment(
                length=n,
                other=sum(top[0] not in b for b, (_, top, _) in zip(best, part, strict=True)) / n,
                outside=sum(not b & set(top) for b, (_, top, _) in zip(best, part, strict=True))
                / n,
                text=sum(token in b for b, (token, _, _) in zip(best, part, strict=True)) / n,
            )


def _best(top: Mapping[int, float]) -> set[int]:
    """The most likely token, with all that tie with it."""
    highest = max(top.values())
    return {id_ for id_, nats in top.items() if nats >= highest - TIE}


def _judged(
    name: str,
    what: str,
    values: Sequence[float],
    segments: Sequence[Segment],
    lost: int,
    margin: float,
    required: bool,
) -> Finding:
    mean = clustered_mean(values)
    interval = share_interval(values)
    worst = share_interval([*values, *[1.0] * lost]) if lost else interval
    enough = mean.clusters >= FEWEST_SEQUENCES
    passed = enough and max(interval.high, worst.high) < margin
    n = sum(segment.length for segment in segments)
    wrong = round(
        math.fsum(value * segment.length for value, segment in zip(values, segments, strict=True))
    )
    return Finding(
        name=name,
        verdict=Verdict.PASS if passed else Verdict.INCONCLUSIVE,
        sentence=f"{what} at {wrong} of {n} positions"
        + (f"; {lost} segments could not be scored" if lost else ""),
        required=required,
        test=TEST,
        unit="pp",
        estimate=100 * mean.value,
        interval=interval.scaled(100),
        level=LEVEL,
        n=n,
        clusters=mean.clusters,
        margin=100 * margin,
        p=clustered_mean([value - margin for value in values]).p_above() if enough else 1.0,
        alarm=Verdict.DIFFERENT,
        needed_n=None if passed else _needed(mean, margin),
    )


def _needed(mean: Mean, margin: float) -> int:
    """Segments that would decide at what is seen here, or, where nothing differs, exclude it."""
    room = abs(margin - mean.value)
    if room and mean.se and mean.clusters >= FEWEST_SEQUENCES:
        return needed_clusters(mean, room)
    return math.ceil(math.log(ALPHA) / math.log(1.0 - margin))


def _text(segments: Sequence[Segment]) -> Finding:
    values = [segment.text for segment in segments]
    mean = clustered_mean(values)
    return Finding(
        name="top-1 of the text itself",
        verdict=Verdict.INFO,
        sentence=f"the most likely token is the text's own at {mean.value:.2%} of the positions, "
        "as the first demo counted",
        test=TEST,
        unit="%",
        estimate=100 * mean.value,
        interval=mean.interval(LEVEL).scaled(100),
        level=LEVEL,
        n=sum(segment.length for segment in segments),
        clusters=mean.clusters,
    )
