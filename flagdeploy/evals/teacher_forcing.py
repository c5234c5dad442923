"""Teacher forcing: both endpoints score the same tokens, so every position can be compared.

The tokens are the baseline's own greedy continuations, scored as `scoring` says. Only positions of
the continuation count; the sampling unit is the sequence, because the tokens of one sequence share
their prefix.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LOWEST = -30.0  # nats; vLLM writes -9999 for minus infinity, and one such token would be the mean
TIE = 1e-4  # nats; logits in BF16 tie often, and which of two equals comes first means nothing
# Least probability of "any other token" in the lumped KL divergence: the rounding of a bundle.
EPSILON = 1e-4
NEAR, FAR = 0.1, 1.0  # nats between two tokens: rounding may swap them, rounding cannot


@dataclass(frozen=True)
class Position:
    """One scored token: its log-probability and the most likely alternatives (id -> nats).

    Without any the endpoint said nothing of this position, and it counts nowhere.
    """

    logprob: float
    top: Mapping[int, float]


@dataclass(frozen=True)
class Passage:
    """Prompt and greedy continuation of the baseline, with its own scores per position.

    `positions` are of the first tokens of `continuation` and were made in `mode` (`scoring`);
    `decoded` are the same ones made in mode D, where both are known.
    """

    key: str
    task: str
    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    positions: tuple[Position, ...]
    mode: str = "S"
    decoded: tuple[Position, ...] = ()


@dataclass(frozen=True)
class Difference:
    """Means over the positions of one sequence; nats where not a share of positions.

    `impurity` is the baseline's 1 - sum p^2, 0 where it is certain of every token. `near` and
    `far` are the shares of positions whose best token differs although the baseline holds its own
    for less than NEAR, more than FAR nats likelier.
    """

    key: str
    length: int
    top1: float
    top5: float
    kl: float
    delta_nll: float
    not_finite: int
    impurity: float
    near: float = 0.0
    far: float = 0.0


def outside(top: Mapping[int, float]) -> float:
    """The most, in nats, that a token outside `top` can have; NaN where one of `top` is."""
    left = 1.0 - math.fsum(math.exp(value) for value in top.values())
    return min(min(top.values()), math.log(max(left, math.exp(LOWEST))))


def difference(key: str, baseline: Sequence[Position], candidate: Sequence[Position]) -> Difference:
    """How far `candidate` is from `baseline` over one sequence of equal positions."""
    pairs = [(a, b) for a, b in zip(baseline, candidate, strict=True) if a.top and b.top]
    n = len(pairs)
    same = [_same_top(a.top, b.top) for a, b in pairs]
    gaps = [gap(a.top, b.top) for (a, b), equal in zip(pairs, same, strict=True) if not equal]
    return Difference(
        key=key,
        length=n,
        top1=sum(same) / n,
        top5=sum(_best(a.top) in _top(b.top, 5) for a, b in pairs) / n,
        kl=math.fsum(lumped_kl(a.top, b.top) for a, b in pairs) / n,
        delta_nll=math.fsum(_floored(a.logprob) - _floored(b.logprob) for a, b in pairs) / n,
        not_finite=sum(not _finite(b) for _, b in pairs),
        impurity=math.fsum(seen_impurity(a.top, b.top) for a, b in pairs) / n,
        near=sum(gap < NEAR for gap in gaps) / n,
        far=sum(gap > FAR for gap in gaps) / n,
    )


def differences(
    baseline: Mapping[str, Sequence[Position]], candidate: Mapping[str, Sequence[Position]]
) -> list[Difference]:
    """Of every sequence that both sides scored, by its key."""
    return [
        difference(key, positions, candidate[key])
        for key, positions in baseline.items()
        if key in candidate
    ]


def gap(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """How much likelier `a` holds its own best token than the best of `b`, in nats, at least 0."""
    return max(a.values()) - _floored(a.get(_best(b), LOWEST))


def impurity(top: Mapping[int, float]) -> float:
    """1 - sum p^2 (Gini): how much of a distribution another kernel's rounding can move."""
    return max(0.0, 1.0 - math.fsum(math.exp(2.0 * _floored(value)) for value in top.values()))


def seen_impurity(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """The part of the impurity that shows in `lumped_kl` where a side lists one token only.

    An error of variance s^2 on every logit moves cells of probability P by KL = s^2/2 (sum of
    q / P - sum p^2), q the sum of p^2 within a cell; single tokens have q / P = p. Of two full
    lists all of it shows but what lies outside both.
    """
    if len(a) > 1 and len(b) > 1:
        return impurity(a)
    one, all_ = (b, a) if len(a) > 1 else (a, b)
    square = math.fsum(math.exp(2.0 * _floored(value)) for value in all_.values())
    alone = math.fsum(math.exp(_floored(all_[id_])) for id_ in one if id_ in all_)
    return max(0.0, alone + (square - alone**2) / max(EPSILON, 1.0 - alone) - square)


def _best(top: Mapping[int, float]) -> int:
    return max(top, key=lambda id_: (_floored(top[id_]), -id_))


def _top(top: Mapping[int, float], k: int) -> list[int]:
    return sorted((id_ for id_ in top if not math.isnan(top[id_])), key=lambda i: -top[i])[:k]


def _same_top(a: Mapping[int, float], b: Mapping[int, float]) -> bool:
    """Whether one of the tied best of `a` is among the tied best of `b`; False for any NaN."""
    if any(math.isnan(value) for value in b.values()):
        return False
    best_a, best_b = max(a.values()), max(b.values())
    tied = [id_ for id_, value in a.items() if value >= best_a - TIE]
    return any(b.get(id_, -math.inf) >= best_b - TIE for id_ in tied)


def lumped_kl(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """KL(a || b) over the tokens both list, all others lumped into one; nats.

    A lower bound of the full divergence by the log-sum inequality (Cover and Thomas, Elements of
    Information Theory, theorem 2.7.1). NaN counts as probability 0.
    """
    shared = [id_ for id_ in a if id_ in b]
    p = [math.exp(_floored(a[id_])) for id_ in shared]
    q = [math.exp(_floored(b[id_])) for id_ in shared]
    p.append(max(1.0 - math.fsum(p), EPSILON))
    q.append(max(1.0 - math.fsum(q), EPSILON))
    return max(0.0, math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))


def _floored(logprob: float) -> float:
    return LOWEST if math.isnan(logprob) else max(LOWEST, logprob)


def _finite(position: Position) -> bool:
    return not any(math.isnan(value) for value in (position.logprob, *position.top.values()))
