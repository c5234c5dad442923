"""The published DeepSeek-R1 table, worked out to two decimals."""

from pathlib import Path

import pytest

from flagdeploy.evals.comparison import scored
from flagdeploy.evals.proportions import unpaired_se
from flagdeploy.evals.readers.samples import answer
from flagdeploy.evals.tables import Row, Score, Table, pair_tables, parse_score, read_table
from flagdeploy.evals.totals import aggregates
from flagdeploy.evals.verdict import Verdict, judged, overall

BASELINES = Path(__file__).parents[2] / "env" / "baselines"

EXPECTED = [
    # task, right: H100, MLU590, difference, 95% interval, unpaired p, Fisher p, NI p, verdict
    ("GSM8K", 1263, 1255, -0.61, (-2.22, 1.00), "0.455", "0.513", "0.332", "INCONCLUSIVE"),
    ("MMLU", 11983, 12021, 0.27, (-0.55, 1.09), "0.520", "0.531", "0.004", "PASS"),
    ("C-Eval", 1198, 1203, 0.37, (-1.98, 2.73), "0.756", "0.804", "0.145", "INCONCLUSIVE"),
    ("AIME 2025", 23, 22, -3.33, (-24.53, 18.24), "0.765", "1.000", "0.591", "INCONCLUSIVE"),
    ("GPQA-Diamond", 139, 145, 3.03, (-5.82, 11.82), "0.503", "0.577", "0.203", "INCONCLUSIVE"),
    ("MATH-500", 466, 463, -0.60, (-3.84, 2.63), "0.712", "0.806", "0.419", "INCONCLUSIVE"),
]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    h100, mlu590 = (read_table(BASELINES / f"{name}.yaml") for name in ("h100", "mlu590"))
    return pair_tables(h100, mlu590)


@pytest.mark.parametrize("index", range(6))
def test_published_row(rows: list[Row], index: int) -> None:
    task, right_a, right_b, difference, interval, p, fisher, inferior, verdict = EXPECTED[index]
    row, finding = rows[index], judged(aggregates(rows))[index]
    assert row.baseline is not None
    assert row.candidate is not None
    assert (row.baseline.right, row.candidate.right) == (right_a, right_b)
    assert row.baseline.reproduced
    assert row.candidate.reproduced
    assert finding.name == task
    assert finding.verdict == verdict
    assert finding.estimate is not None
    assert round(finding.estimate, 2) == difference
    assert finding.interval is not None
    assert (round(finding.interval.low, 2), round(finding.interval.high, 2)) == interval
    assert finding.sentence.endswith(
        f"unpaired z test p = {p}, Fisher p = {fisher}, non-inferiority p = {inferior}"
    )


def test_standard_errors_in_points() -> None:
    sizes = [1319, 14042, 1346, 30, 198, 500]
    errors = [
        100 * unpaired_se(right_a, n, right_b, n)
        for (_, right_a, right_b, *_), n in zip(EXPECTED, sizes, strict=True)
    ]
    assert [round(error, 2) for error in errors] == [0.81, 0.42, 1.20, 11.17, 4.52, 1.62]


def test_one_open_row_keeps_the_whole_open(rows: list[Row]) -> None:
    assert overall(judged(aggregates(rows))) is Verdict.INCONCLUSIVE
    assert overall(judged(aggregates([row for row in rows if row.task == "MMLU"]))) is Verdict.PASS


def test_a_published_loss_fails() -> None:
    # An INT8 column that was released with C-Eval 8.69 points and MMLU 3.18 points lower.
    rows = [
        Row("MMLU", parse_score("85.34", 14042), parse_score("82.16", 14042)),
        Row("C-Eval", parse_score("89.00", 1346), parse_score("80.31", 1346)),
        Row("MATH-500", parse_score("93.20", 500), parse_score("TBD", 500)),
    ]
    findings = judged(aggregates(rows))
    assert [finding.verdict for finding in findings] == ["FAIL", "FAIL", "INFO"]
    assert findings[2].sentence == "the candidate has no score"
    assert overall(findings) is Verdict.FAIL


def test_without_n_nothing_is_decided() -> None:
    (finding,) = aggregates([Row("MUSR", Score(0.6, None), Score(0.6, None))])
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.sentence == "nobody said how many questions were asked; give n"


def test_repeats_of_a_question_are_no_further_questions() -> None:
    answers = [
        answer(f"q{i}", "mmlu", status="ok", gold="A", score=float(i % 10 < 7 and k < 3))
        for i in range(100)
        for k in range(4)
    ]
    published = Table("paper", "a paper", "there", {"MMLU": Score(0.7, 14042)})
    assert scored(published, answers)[0].candidate == Score(0.525, 100)
