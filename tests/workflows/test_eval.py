"""eval: gold answers score 100% through the whole path, nothing is dropped, and a run goes on.

The whole sets are read from the folder that FLAGDEPLOY_DATA names; a sample of each is here.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evals.grading.cases import CASES
from evals.stub_endpoint import Stub, serving

from flagdeploy.errors import UsageError
from flagdeploy.evals import arrivals
from flagdeploy.evals.answers import read_log
from flagdeploy.evals.benchmarks import of_dataset
from flagdeploy.evals.bundle import read_bundle
from flagdeploy.evals.client import Endpoint, Patience
from flagdeploy.evals.grading.code_job import CodeJob
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.evals.items import load_items
from flagdeploy.evals.readers.detect import read_samples
from flagdeploy.evals.tables import read_table
from flagdeploy.records import eval_report
from flagdeploy.workflows import baseline, eval_code
from flagdeploy.workflows.compare import compare
from flagdeploy.workflows.eval import Asking, EvalResult, evaluate

SETS = {"gsm8k": 1319, "math500": 500, "mgsm_zh": 250, "mmlu_stem": 3018}
FILES = {"mgsm_zh": "mgsm_zh.tsv"}
SHORT = Asking(max_tokens=2000)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A sample of each set, laid out as a data folder is."""
    for name in SETS:
        file = FILES.get(name, "test.jsonl")
        (tmp_path / "data" / name).mkdir(parents=True)
        source = CASES / "data" / f"{name}{Path(file).suffix}"
        shutil.copy(source, tmp_path / "data" / name / file)
    return tmp_path / "data"


def gold(folder: Path, names: Sequence[str]) -> dict[str, str]:
    items = [item for name in names for item in load_items(of_dataset(name, folder))]
    return {item.messages[-1]["content"]: item.gold for item in items}


def asked(stub: Stub, names: Sequence[str], folder: Path, **options: Any) -> EvalResult:
    options.setdefault("asking", SHORT)
    patience = Patience(attempts=2, first_pause_s=0.01)
    return evaluate(stub.url, names, data=folder, patience=patience, **options)


def right(known: dict[str, str]) -> Stub:
    return Stub(reply=lambda text: f"<think>A?</think>It is \\boxed{{{known.get(text, '')}}}.")


@pytest.mark.parametrize("whole", [False, True], ids=["sample", "whole"])
def test_gold_answers_score_all(data: Path, whole: bool) -> None:
    folder, given = data, os.environ.get("FLAGDEPLOY_DATA")
    if whole and not given:
        pytest.skip("FLAGDEPLOY_DATA names no folder of public test sets, which are not shipped")
    if whole:
        folder = Path(str(given))
    with serving(right(gold(folder, list(SETS)))) as stub:
        found = asked(stub, list(SETS), folder)
    for result in found.results:
        lenient, mlperf = result.score("lenient"), result.score("mlperf")
        assert lenient is not None
        assert (lenient.mean.value, lenient.mean.se) == (1.0, 0.0)
        assert (mlperf is not None) == (result.name == "math500")
        assert mlperf is None or mlperf.mean.value == 1.0
        assert result.counts["ok"] == result.questions == lenient.n
        if whole:
            assert (result.questions, result.notes) == (SETS[result.name], ())


def test_every_reply_is_counted_and_both_scores_are_told(data: Path, tmp_path: Path) -> None:
    known = gold(data, ["math500"])
    replies = ["no idea", "It is $1{,}000{,}001$", "x" * 3000, "\\boxed{WRONG}"]
    texts = sorted(known)
    table = dict(zip(texts, replies, strict=False))
    table |= {text: f"So the answer is {known[text]}" for text in texts[4:8]}  # without a box
    stub = Stub(
        reply=lambda text: table.get(text, f"\\boxed{{{known.get(text, '')}}}"),
        broken=(texts[8][:60],),
    )
    with serving(stub):
        found = asked(stub, ["math500"], data, record_dir=tmp_path / "run")
    (result,) = found.results
    assert result.counts == {
        **{"ok": 17, "length": 1, "unparsed": 1, "refused": 0, "ungraded": 0},
        **{"error": 1, "timeout": 0},
    }
    mlperf, lenient = result.score("mlperf"), result.score("lenient")
    assert mlperf is not None and lenient is not None
    assert (mlperf.n, lenient.n) == (19, 19)
    assert mlperf.mean.value == pytest.approx(11 / 19)
    assert lenient.mean.value == pytest.approx(15 / 19)
    assert lenient.mean.se == pytest.approx(math.sqrt(15 * 4 / 19**2 / 18))
    assert result.differ == 4
    table_text = eval_report.text(found.to_json(), ("mlperf", "lenient"))
    assert table_text.splitlines()[2:5] == [
        "data set  score   +/-    grader   n   asked  what became of the replies",
        "math500   57.89%  11.64  mlperf   19  20     17 ok, 1 length, 1 unparsed, 1 error, "
        f"{result.mean_tokens:.1f} tokens on average",
        "          78.95%  9.61   lenient  19",
    ]
    assert "math500: the two graders differ on 4 replies" in table_text
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == found.to_json()


def test_the_standard_error_is_clustered_by_subject(tmp_path: Path) -> None:
    """24 subjects of two questions that are right or wrong together are 24, not 48."""
    rows = [
        {"question": f"Q{s}.{n}", "options": [*"wxyz"], "answer": "A", "topic": f"t{s}"}
        for s in range(24)
        for n in range(2)
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject = re.compile(r"Q(\d+)\.")

    def reply(text: str) -> str:
        found = subject.search(text)
        return f"Answer: {'AB'[int(found[1]) % 2]}" if found else "ready"

    with serving(Stub(reply=reply)) as stub:
        (result,) = asked(stub, ["mmlu_stem"], path).results
    found = result.score("lenient")
    assert found is not None
    assert (found.mean.value, found.mean.clusters, found.n) == (0.5, 24, 48)
    assert found.mean.se == pytest.approx(0.5 / math.sqrt(23))


def test_a_run_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    known = gold(data, ["gsm8k"])
    stub = right(known)
    with serving(stub):
        first = asked(stub, ["gsm8k"], data, record_dir=tmp_path)
        before = len(stub.seen)
        log = tmp_path / "answers-gsm8k.jsonl"
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:-3]) + lines[-3][:20])
        again = asked(stub, ["gsm8k"], data, record_dir=tmp_path)
        asked_again = [one for one in stub.seen[before:] if one.get("max_tokens") == 2000]
    assert len(asked_again) == 3
    assert again.to_json() == first.to_json()
    assert len(read_log(log)) == 12


@pytest.mark.parametrize(
    ("asking", "name"),
    [(Asking(repeats=4), "gsm8k"), (Asking(repeats=2, temperature=0.0), "aime25")],
)
def test_repeats_of_a_greedy_answer_are_refused(data: Path, asking: Asking, name: str) -> None:
    (data / "aime25").mkdir()
    (data / "aime25" / "test.jsonl").write_text('{"problem": "Q", "answer": 7}\n')
    with pytest.raises(UsageError) as caught:
        evaluate("http://127.0.0.1:9", [name], data=data, asking=asking)
    assert str(caught.value) == (
        f"--repeats {asking.repeats}: a greedy answer asked again is the same answer, "
        f"no further sample of {name}"
    )
    assert caught.value.hint == "give a --temperature, or ask once"


def test_questions_are_asked_as_their_set_usually_is(data: Path) -> None:
    (data / "aime25").mkdir()
    (data / "aime25" / "test.jsonl").write_text('{"problem": "Q", "answer": 7}\n')
    with serving(Stub(reply=lambda text: "\\boxed{7}")) as stub:
        (result,) = asked(stub, ["aime25"], data, asking=Asking()).results
        sent = [one for one in stub.seen if one.get("temperature") == 0.6]
    assert len(sent) == 16
    assert sent[0]["top_p"] == 0.95
    assert sent[0]["max_tokens"] == 2048  # the stub's context has 4096
    assert result.notes[0].startswith("replies were limited to 2048 tokens instead of 32768")
    assert result.notes[1].startswith(f"{data}/aime25/test.jsonl is not the published file")
    found = result.score("mlperf")
    assert found is not None
    assert (found.mean.value, found.n, result.questions) == (1.0, 16, 1)


def test_files_of_lm_evaluation_harness(data: Path, tmp_path: Path) -> None:
    known = gold(data, ["math500", "gsm8k"])
    with serving(right(known)) as stub:
        stub.model = "org/model"
        asked(stub, ["gsm8k", "math500"], data, lm_eval=tmp_path / "out")
    place = tmp_path / "out" / "org__model"
    (path,) = place.glob("results_*.json")
    written = json.loads(path.read_text())
    assert written["results"]["math500"] == {
        "alias": "math500",
        "name": "math500",
        "sample_len": 20,
        "exact_match,mlperf": 1.0,
        "exact_match_stderr,mlperf": 0.0,
        "exact_match,lenient": 1.0,
        "exact_match_stderr,lenient": 0.0,
    }
    stamp = path.stem.removeprefix("results_")
    names = [f"samples_{name}_{stamp}.jsonl" for name in ("gsm8k", "math500")]
    assert sorted(one.name for one in place.iterdir()) == sorted([path.name, *names])
    rows = [json.loads(line) for line in (place / names[1]).read_text().splitlines()]
    assert [row["filter"] for row in rows[:2]] == ["mlperf", "lenient"]
    assert len(rows) == 40
    read = read_samples(place, "lenient")  # as compare reads what other tools wrote
    assert {row.answer.score for row in read.rows} == {1.0}
    assert len(read.rows) == 32
    assert rows[0].keys() >= {
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
        *("doc_hash", "prompt_hash", "target_hash", "exact_match"),
    }
    read = read_samples(tmp_path / "out", "lenient")
    assert {row.prompt: row.answer.gold for row in read.rows} == known
    assert {row.answer.score for row in read.rows} == {1.0}


PROGRAM = "print(int(input()) + 1)"
PROBLEM = {
    "question_title": "Next",
    "question_content": "Add one.",
    "question_id": "3154",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1", "output": "2"}]),
    "private_test_cases": "[]",
    "metadata": "{}",
}


def test_code_is_run_in_a_container_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    ran: list[CodeJob] = []

    def container(jobs: Sequence[CodeJob], launcher: object, image: str, **_: Any) -> list[Grade]:
        ran.extend(jobs)
        return [Grade(job.program, float(job.program == PROGRAM)) for job in jobs]

    monkeypatch.setattr(eval_code, "grade_code", container)
    inventory = tmp_path / "hosts.txt"
    inventory.write_text("192.0.2.1 slots=1\n")
    # MLPerf's reference takes the first block of a reply, the lenient reader the last.
    reply = f"```python\nprint(2)\n```\nNo:\n```python\n{PROGRAM}\n```"
    with serving(Stub(reply=lambda text: reply)) as stub:
        (result,) = asked(stub, ["livecodebench"], tmp_path).results
        assert ran == []
        assert result.score("lenient") is None
        assert result.counts["ungraded"] == 1
        assert result.notes[-1].startswith("2 generated programs were not run, so they are not")
        options = {"code_image": "python", "hosts": str(inventory)}
        (result,) = asked(stub, ["livecodebench"], tmp_path, **options).results
    assert [job.program for job in ran] == ["print(2)", PROGRAM]
    mlperf, lenient = result.score("mlperf"), result.score("lenient")
    assert mlperf is not None and lenient is not None
    assert (mlperf.mean.value, lenient.mean.value) == (0.0, 1.0)
    assert (result.counts["ok"], result.differ) == (1, 1)


def test_baselines_are_recorded_and_graded_alike(data: Path, tmp_path: Path) -> None:
    """A public set is a benchmark like any other; its rule goes into the bundle."""
    known = gold(data, ["math500"])
    out = tmp_path / "base.jsonl.gz"
    patience = Patience(attempts=2, first_pause_s=0.01)
    with serving(right(known)) as stub:
        asked_ = [of_dataset("math500", data)]
        options: dict[str, Any] = {"concurrency": [4], "sequences": 0, "patience": patience}
        baseline.record(Endpoint(stub.url), out, benchmarks=asked_, **options)
    bundle = read_bundle(out)
    assert {item.shape for item in bundle.items} == {"lenient:math500"}
    (row,) = bundle.manifest["benchmarks"]
    assert (row["dataset"], row["n"], row["accuracy"]) == ("math500", 20, 1.0)


def test_a_published_table_against_public_sets(data: Path, tmp_path: Path) -> None:
    """A set is found in the table by its title: AIME 2025 is aime25."""
    (data / "aime25").mkdir()
    (data / "aime25" / "test.jsonl").write_text('{"problem": "Q?", "answer": 7}\n')
    known = gold(data, ["gsm8k", "aime25", "mgsm_zh"])
    table = tmp_path / "paper.yaml"
    table.write_text(
        "title: paper\nscores: {GSM8K: {n: 12, value: 50.0}, AIME 2025: {n: 30, value: 76.67}}\n"
    )
    with serving(right(known)) as stub:
        result = compare(
            Endpoint(stub.url),
            read_table(table),
            datasets=["gsm8k", "aime25", "mgsm-zh"],
            data=data,
            patience=Patience(attempts=2, first_pause_s=0.01),
        )
    # A reply of 32768 tokens, which the sets allow, would be refused: the context has 4096.
    assert {body["max_tokens"] for body in stub.seen if "Q?" in str(body)} == {2048}
    assert result.mode == "published totals"
    assert {finding.name: finding.n for finding in result.findings} == {"GSM8K": 12, "AIME 2025": 1}


def test_accuracy_under_load_says_when_the_rate_was_not_kept(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(right(gold(data, ["gsm8k"]))) as stub:
        kept = asked(stub, ["gsm8k"], data, asking=replace(SHORT, rate=500.0))
        monkeypatch.setattr(arrivals, "LATE_S", 0.0)
        two = replace(SHORT, rate=1e6, limit=2)
        lost = asked(stub, ["gsm8k"], data, asking=two, concurrency=1)
    late = [[note for note in run.results[0].notes if "late" in note] for run in (kept, lost)]
    assert kept.results[0].settings["rate"] == 500.0
    assert late == [
        [],
        ["requests sent late: 1; 1e+06 a second want more than 1 in flight (--concurrency)"],
    ]
