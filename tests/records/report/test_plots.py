from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.records.report.plots import (
    Axis,
    accuracy_forest,
    agreement_forest,
    histogram,
    nice_step,
    scatter,
    survival,
)
from records.report.sample import TESTS

TEST: dict[str, Any] = TESTS[1]


def test_ticks_are_round_numbers_at_their_places() -> None:
    assert [(t.at, t.label) for t in Axis(-4.0, 4.0).ticks(4)] == [
        (0.0, "−4"),
        (25.0, "−2"),
        (50.0, "0"),
        (75.0, "2"),
        (100.0, "4"),
    ]


@given(st.floats(1e-6, 1e6))
def test_a_step_is_at_least_what_was_asked_and_at_most_two_and_a_half_times(least: float) -> None:
    assert least * 0.999 <= nice_step(least) <= 2.5001 * least


def test_an_interval_and_its_margin_lie_where_they_are() -> None:
    test = {**TEST, "estimate": -1.0, "interval": {"low": -3.0, "high": 1.0}, "margin": 3.0}
    forest = accuracy_forest([test])
    assert forest is not None
    (bar,) = forest.bars
    assert bar.low == bar.margins[0]  # both are -3
    assert bar.at == pytest.approx((bar.low + bar.high) / 2, abs=0.01)
    assert bar.low < bar.at < forest.zero < bar.high
    assert bar.allowed == (bar.margins[0], 100.0)


def test_agreement_is_in_multiples_of_the_margin_and_what_lies_beyond_is_an_arrow() -> None:
    near = {**TEST, "estimate": 0.4, "interval": {"low": 0.2, "high": 0.8}, "margin": 0.8}
    far = {**near, "estimate": 80.0, "interval": {"low": 40.0, "high": None}}
    forest = agreement_forest([near, far])
    assert forest is not None
    inside, outside = forest.bars
    assert inside.high == inside.margins[1]
    assert inside.off == 0
    assert (outside.off, outside.at, outside.high) == (1, 100.0, 100.0)


def test_without_anything_to_draw_there_is_no_plot() -> None:
    assert accuracy_forest([TESTS[0]]) is None
    assert agreement_forest([TESTS[0]]) is None


def test_survival_is_a_staircase_to_the_end_of_the_longest_reply() -> None:
    curve = survival({"end": 40, "points": [[10, 0.75], [20, 0.5]], "floor": 0.0})
    assert curve.lines[0] == (0.0, 0.0, 25.0, 0.0)
    assert curve.lines[1] == (25.0, 0.0, 25.0, 25.0)
    assert curve.lines[-1] == (50.0, 50.0, 100.0, 50.0)
    assert {line.y1 for line in curve.floor} == {0.0}  # a baseline that repeats itself
    assert survival({"end": 40, "points": [], "floor": None}).floor == ()


def test_equal_log_probabilities_lie_on_the_diagonal() -> None:
    cloud = scatter({"points": [[0.0, 0.0], [-0.3, -0.3], [-25.0, -25.0], [-1.0, -9.0]]})
    for x, y in cloud.points[:3]:
        assert x == pytest.approx(100.0 - y, abs=0.01)
    assert cloud.points[3][1] > 100.0 - cloud.points[3][0]  # below: less likely at the candidate


def test_boxes_stand_on_the_axis_and_the_outline_ends_there() -> None:
    shown = histogram({"start": 10, "width": 5, "baseline": [2, 4], "candidate": [4, 2]})
    assert [box.x for box in shown.baseline] == [0.0, 50.0]
    assert all(box.y + box.height == pytest.approx(100.0) for box in shown.baseline)
    assert shown.baseline[0].height == pytest.approx(shown.baseline[1].height / 2, abs=0.01)
    assert (shown.candidate[0].y1, shown.candidate[-1].y2) == (100.0, 100.0)
