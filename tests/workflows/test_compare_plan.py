from pathlib import Path

import pytest

from flagdeploy.errors import UsageError
from flagdeploy.workflows.compare_plan import plan_compare

ROOT = str(Path(__file__).parents[2])


def test_a_recorded_baseline_knows_its_lengths_and_margins() -> None:
    plan = plan_compare("h200", workspace=ROOT, speed=50.0, concurrency=4)
    pool, gsm8k, *_ = plan["rows"]
    assert (pool["name"], pool["n"], pool["repeats"]) == ("all benchmarks", 1000, 1)
    assert (gsm8k["name"], gsm8k["margin"]) == ("tiny_gsm8k", 0.03)
    assert pool["minutes"] == pytest.approx(pool["tokens"] / 200 / 60)
    assert plan["sequences"] == 64
    assert plan["scored_tokens"] > 64


def test_a_wanted_margin_takes_the_place_of_the_baselines() -> None:
    wide, narrow = (plan_compare("h200", workspace=ROOT, margin_pp=m)["rows"] for m in (3.0, 0.5))
    assert {row["margin"] for row in narrow} == {0.005}
    assert all(a["needed"] < b["needed"] for a, b in zip(wide, narrow, strict=True))


def test_published_scores_keep_one_per_cent_and_know_no_lengths() -> None:
    plan = plan_compare("h100", workspace=ROOT)
    mmlu = next(row for row in plan["rows"] if row["name"] == "MMLU")
    assert mmlu["margin"] == pytest.approx(0.01 * 0.8534, abs=1e-4)
    assert (mmlu["tokens"], mmlu["minutes"], plan["sequences"]) == (None, None, 0)


@pytest.mark.parametrize(
    ("baseline", "options", "message"),
    [
        ("http://localhost:1", {}, "--plan needs a baseline that is recorded or published"),
        ("nope", {}, "no baseline `nope`"),
        ("h200", {"power": 1.0}, "--power 1.0: a probability from 0.5 to below 1"),
    ],
)
def test_what_cannot_be_planned(baseline: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as error:
        plan_compare(baseline, workspace=ROOT, **options)  # type: ignore[arg-type]
    assert str(error.value).splitlines()[0] == message
