import json
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals.packing import pack, pack_beside, unpack, unpack_beside
from flagdeploy.evals.teacher_forcing import Position, difference

nats = st.one_of(st.floats(-40, 0), st.just(math.nan), st.just(-9999.0))
positions = st.builds(
    lambda top: Position(next(iter(top.values())), top),
    st.dictionaries(st.integers(0, 12), nats, min_size=1, max_size=6),
)


def near(a: float, b: float) -> bool:
    """Within half a step: 1e-6 nat where likely, else 1/65535 of the root of the probability."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return abs(a - b) < 1e-6 or abs(math.exp(a / 2) - math.exp(b / 2)) < 1 / 65_535


@given(st.lists(positions, max_size=4))
def test_what_was_packed_is_unpacked(rows: list[Position]) -> None:
    found = unpack(json.loads(json.dumps(pack(rows))))
    assert [list(row.top) for row in found] == [list(row.top) for row in rows]
    for row, other in zip(rows, found, strict=True):
        assert all(near(value, other.top[id_]) for id_, value in row.top.items())
    assert pack(found) == pack(rows)


@given(st.lists(st.tuples(positions, positions), max_size=4))
def test_what_was_packed_beside_another_is_unpacked(pairs: list[tuple[Position, Position]]) -> None:
    others = pack([other for _, other in pairs])
    rows = [row for row, _ in pairs]
    packed = json.loads(json.dumps(pack_beside(rows, [other for _, other in pairs])))
    whole = unpack(pack(rows))
    for one, other in zip(unpack_beside(packed, others), whole, strict=True):
        assert one.top.keys() == other.top.keys()
        assert all(near(one.top[id_], value) for id_, value in other.top.items())


def test_positions_of_the_first_format_are_read() -> None:
    packed = {"logprob": [-0.5], "ids": [[3, 9]], "nats": [[-0.5, -9999.0]]}
    assert unpack(packed) == (Position(-0.5, {3: -0.5, 9: -9999.0}),)


def test_packing_is_far_below_every_margin() -> None:
    rng = random.Random(0)
    rows = []
    for sure in (0.3, 0.5, 0.9, 0.99, 0.999, 0.9999) * 50:
        weights = [rng.random() ** 8 for _ in range(19)]
        rest = (1 - sure) * 0.999 / sum(weights)
        top = {i: math.log(w * rest + 1e-15) for i, w in enumerate(weights, 1)}
        rows.append(Position(math.log(sure), {0: math.log(sure), **top}))
    apart = difference("k", rows, unpack(pack(rows)))
    assert apart.top1 == 1.0
    assert math.sqrt(2 * apart.kl / apart.impurity) < 0.002  # nat of logit noise; 0.125 is allowed
    assert abs(apart.delta_nll) < 1e-4
