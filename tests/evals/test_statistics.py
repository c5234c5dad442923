import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.evals import statistics as s


def test_clustered_mean_without_clusters_is_the_usual_standard_error() -> None:
    mean = s.clustered_mean([1.0, 2.0, 3.0, 4.0])
    assert mean.value == 2.5
    assert mean.se == pytest.approx(math.sqrt(5 / 3) / 2)
    assert mean.clusters == 4


def test_equal_values_in_a_cluster_count_once() -> None:
    values = [0.0, 1.0, 0.0, 1.0, 1.0]
    repeated = [value for value in values for _ in range(3)]
    clusters = [index for index in range(5) for _ in range(3)]
    assert s.clustered_mean(repeated, clusters).se == pytest.approx(s.clustered_mean(values).se)


def test_one_cluster_says_nothing() -> None:
    assert s.clustered_mean([0.2, 0.4], ["a", "a"]).interval(0.9) == s.Interval(-math.inf, math.inf)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_the_interval_of_a_mean_holds_it(values: list[float]) -> None:
    mean = s.clustered_mean(values)
    interval = mean.interval(0.9)
    assert interval.low <= mean.value <= interval.high


def test_holm() -> None:
    assert s.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert s.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = s.holm(p_values)
    assert all(b >= a for a, b in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
