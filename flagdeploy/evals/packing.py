"""Scored positions as the JSON of a bundle, small and as exact as the tests need.

Of 1.3 million alternatives (256 sequences of 256 positions, 20 each) most are so unlikely that
only their size matters. So of those below LIKELY the square root of the probability is stored, in
65535ths: its rounding moves a KL divergence by the same 1e-10 nat however unlikely the token,
because to second order KL is twice the squared distance of these roots (Hellinger). A likely
token is stored in millionths of a nat, as a negative number: what all others have together is
1 less its probability, and that remainder may be small. The scored token's own log-probability is
kept in ten-thousandths of a nat, below every margin.
"""

import math
from collections.abc import Sequence
from typing import Any

from flagdeploy.evals.teacher_forcing import Position

STEPS = 2**16 - 1
NATS = 10_000
LIKELY, FINE_NATS = math.log(0.25), 1_000_000
NOTHING = -9999.0  # what vLLM writes for minus infinity

Packed = dict[str, list[Any]]


def pack(positions: Sequence[Position]) -> Packed:
    """`logprob` [T], `ids` [T][k] and `codes` [T][k]; null for NaN."""
    return {
        "logprob": [_whole(row.logprob) for row in positions],
        "ids": [list(row.top) for row in positions],
        "codes": [list(map(_code, row.top.values())) for row in positions],
    }


def pack_beside(positions: Sequence[Position], others: Sequence[Position]) -> Packed:
    """`positions` by how they differ from `others` of the same tokens, which were packed whole.

    `steps` [T][k] are the differences of the codes in the order of the others' ids, null where
    that is no number; `more` [T] are the ids left over, each followed by its code.
    """
    steps, more = [], []
    for row, other in zip(positions, others, strict=True):
        codes = {id_: _code(value) for id_, value in row.top.items()}
        steps.append([_step(codes.get(id_), _code(value)) for id_, value in other.top.items()])
        known = {id_ for id_, step in zip(other.top, steps[-1], strict=True) if step is not None}
        extra = [(id_, code) for id_, code in codes.items() if id_ not in known]
        more.append([part for pair in extra for part in pair])
    return {"logprob": [_whole(row.logprob) for row in positions], "steps": steps, "more": more}


def unpack(packed: Packed) -> tuple[Position, ...]:
    """What `pack` wrote, or the first format of bundles: log-probabilities in `nats`."""
    if "nats" in packed:
        rows = zip(packed["logprob"], packed["ids"], packed["nats"], strict=True)
        return tuple(
            Position(logprob, dict(zip(ids, nats, strict=True))) for logprob, ids, nats in rows
        )
    rows = zip(packed["logprob"], packed["ids"], packed["codes"], strict=True)
    return tuple(
        Position(_nats(logprob), dict(zip(ids, map(_of_code, codes), strict=True)))
        for logprob, ids, codes in rows
    )


def unpack_beside(packed: Packed, others: Packed) -> tuple[Position, ...]:
    """What `pack_beside` wrote; `others` packed."""
    rows = zip(
        packed["logprob"],
        packed["steps"],
        packed["more"],
        others["ids"],
        others["codes"],
        strict=True,
    )
    return tuple(
        Position(
            _nats(logprob),
            {
                id_: _of_code(None if code is None else code + step)
                for id_, code, step in zip(ids, codes, steps, strict=True)
                if step is not None
            }
            | {id_: _of_code(code) for id_, code in zip(more[::2], more[1::2], strict=True)},
        )
        for logprob, steps, more, ids, codes in rows
    )


def _whole(nats: float) -> int | None:
    return None if math.isnan(nats) else round(NATS * nats)


def _nats(whole: int | None) -> float:
    return math.nan if whole is None else whole / NATS


def _code(nats: float) -> int | None:
    if math.isnan(nats):
        return None
    if nats > LIKELY:
        return round(FINE_NATS * min(0.0, nats)) - 1
    return round(STEPS * math.exp(nats / 2.0))


def _of_code(code: int | None) -> float:
    if code is None:
        return math.nan
    if code < 0:
        return (code + 1) / FINE_NATS
    return 2.0 * math.log(code / STEPS) if code else NOTHING


def _step(code: int | None, other: int | None) -> int | None:
    if code is None or other is None or (code < 0) != (other < 0):
        return None
    return code - other
