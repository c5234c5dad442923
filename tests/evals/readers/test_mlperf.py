import json
from pathlib import Path

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.comparison import compared
from flagdeploy.evals.readers.detect import read_samples

CASES = Path("tests/cases/readers/mlperf")


def test_a_log_holds_tokens_and_nothing_else() -> None:
    samples = read_samples(CASES / "log_a")
    assert (samples.tool, samples.version, samples.grader) == ("MLPerf LoadGen", "6.0.17", "")
    assert [row.answer.item for row in samples.rows] == [str(index) for index in range(24)]
    assert samples.rows[1].answer.token_ids == [1007, 1008, 1009, 1010, 1011, 1012]


def test_two_logs_say_where_outputs_part_and_leave_accuracy_open() -> None:
    result = compared(read_samples(CASES / "log_a"), read_samples(CASES / "log_b"))
    found = {finding.name: finding for finding in result.findings}
    assert found["accuracy"].verdict == result.verdict == "INCONCLUSIVE"
    assert found["accuracy"].sentence.endswith("so accuracy cannot be compared")
    assert found["output length"].verdict == "PASS"
    assert found["greedy divergence"].sentence == (
        "2 of 24 greedy replies part from the baseline's; this means something only if both "
        "sides were greedy"
    )


def test_a_sample_logged_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "mlperf_log_accuracy.json"
    rows = [{"qsl_idx": 5, "data": "01000000"}, {"qsl_idx": 5, "data": "02000000"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = read_samples(path)
    assert [row.answer.token_ids for row in samples.rows] == [[1]]
    assert samples.facts == {"repeated entries": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[\n]\n", ": holds no samples"),
        ('[\n{ "qsl_idx" : 1, "data" : "0100"},\n', ":2: not an entry of LoadGen: ValueError "),
        ('[\n{ "qsl_idx" : 1, "da', ":2: not JSON: Unterminated string"),
        ('[\n{"a": 1}\n]', ":2: not an entry of LoadGen: has no qsl_idx and data"),
        ('[\n{"qsl\n\n...\n\n]', ": was truncated for a submission, so most samples are gone"),
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mlperf_log_accuracy.json"
    path.write_text(text)
    with pytest.raises(EvalError) as raised:
        read_samples(path)
    assert str(raised.value).startswith(f"{path}{message}")


def test_the_table_of_deepseek_r1_is_read_and_paired() -> None:
    a, b = (read_samples(CASES / f"deepseek_r1_{side}_evaluated.pkl") for side in "ab")
    assert a.identity == "data set, question and ground truth"
    assert {row.answer.task for row in a.rows} == {"gpqa", "aime1983"}
    row = next(row for row in a.rows if row.answer.task == "aime1983")
    assert (row.answer.gold, row.question) == ("40", "How many, number 0?")
    assert row.answer.completion_tokens == len(row.answer.content)
    result = compared(a, b)
    accuracy = next(f for f in result.findings if f.name == "accuracy, all benchmarks")
    assert accuracy.n == 12
    assert accuracy.sentence.startswith("58.33% at the baseline, 75.00% here on 12 questions")


@pytest.mark.parametrize("suffix", ["pkl", "json"])
def test_the_outputs_of_gpt_oss_know_their_repeats(suffix: str) -> None:
    samples = read_samples(CASES / f"gpt_oss_a.{suffix}")
    assert samples.identity == "data set, sample index and ground truth"
    clusters = [row.cluster for row in samples.rows]
    # One pass after another, then the repeats of a question side by side.
    assert clusters[:4] == ["aime25 0", "aime25 1", "aime25 0", "aime25 1"]
    assert clusters[16:] == ["gpqa_diamond 0"] * 5 + ["gpqa_diamond 1"] * 5
    assert sum(row.answer.score or 0.0 for row in samples.rows) == 21


def test_both_outputs_of_gpt_oss_are_the_same_answers() -> None:
    table, details = (read_samples(CASES / f"gpt_oss_a.{suffix}") for suffix in ("pkl", "json"))
    assert compared(table, details).flip_count == 0


def test_a_summary_without_details_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "accuracy_results.json"
    path.write_text('{"summary": {}, "detailed_results": null}')
    with pytest.raises(EvalError, match="has no `detailed_results`") as raised:
        read_samples(path)
    assert raised.value.hint == "run eval_mlperf_accuracy.py with --verbose"


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.pkl"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(EvalError, match=r"results\.pkl: names os\.system"):
        read_samples(path)
