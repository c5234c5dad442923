"""Public sets: pinned, licensed, graded by somebody, and read from every file they come in."""

import base64
import csv
import json
import pickle
import re
import zlib
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from flagdeploy.errors import ConfigError, EvalError, UsageError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals import rows
from flagdeploy.evals.benchmarks import load_benchmarks, of_dataset
from flagdeploy.evals.dataset import Hub, Manifest, Question, Web, find_files, load
from flagdeploy.evals.datasets import livecodebench
from flagdeploy.evals.grading.lenient import benchmarks as lenient
from flagdeploy.evals.items import load_items, load_repeated

FRAMES = Path(__file__).parent.parent / "cases" / "data_frames"


@pytest.mark.parametrize("name", datasets.names())
def test_a_set_is_pinned_licensed_and_graded(name: str) -> None:
    found = load(name)
    assert found.licence
    assert found.title
    assert "{question}" in found.prompt
    assert not found.grader or lenient.find_rule(found.grader) is not None
    match found.source:
        case Hub(commit=commit, files=files):
            assert re.fullmatch("[0-9a-f]{40}", commit)
            assert all(known or "*" in file for file, known in files.items())
        case Web(files=files):
            assert all(re.search("/[0-9a-f]{40}/", url) for url, _ in files.values())
        case Manifest(uri=uri):
            assert uri.startswith("https://") and uri.endswith(".uri")
    kind = 32 if isinstance(found.source, Manifest) else 64
    assert all(re.fullmatch(f"[0-9a-f]{{{kind}}}", known) for known in found.hashes.values())


def test_the_sets_are_those_that_are_promised() -> None:
    assert datasets.names() == [
        *("aime24", "aime25", "ceval", "gpqa_diamond", "gsm8k", "livecodebench", "math500"),
        *("mgsm_zh", "mlperf_deepseek_r1", "mlperf_gpt_oss_120b", "mmlu", "mmlu_pro", "mmlu_stem"),
    ]
    assert load("MATH-500") is load("math500")
    with pytest.raises(UsageError, match="no data set `gsm9k`") as caught:
        load("gsm9k")
    assert caught.value.hint == "did you mean `gsm8k`?"


def write(path: Path, rows_: list[dict[str, Any]], header: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows_), "utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_), path)
    elif path.suffix == ".tsv":
        path.write_text("".join("\t".join(map(str, row.values())) + "\n" for row in rows_), "utf-8")
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            table = csv.writer(file)
            if header:
                table.writerow(rows_[0])
            table.writerows(row.values() for row in rows_)
    return path


GPQA = {
    "Record ID": "rec",
    "Question": 'Which, "of\n{these}?"\n',
    "Correct Answer": "right ",
    "Incorrect Answer 1": "x",
    "Incorrect Answer 2": "y",
    "Incorrect Answer 3": "z",
}
ABCD = {"question": "Q?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "C"}
OPTIONS = ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "file", "row", "expected"),
    [
        ("gsm8k", "test.jsonl", {"question": "Q?", "answer": "1\n#### 1,000"}, ("Q?", "1,000")),
        ("gsm8k", "main/test-0.parquet", {"question": "Q?", "answer": "#### 2"}, ("Q?", "2")),
        ("math500", "test.jsonl", {"problem": "Q?", "answer": "\\pi"}, ("Q?", "\\pi")),
        (
            "mmlu",
            "all/test-0.parquet",
            {"question": "Q?", "choices": OPTIONS, "answer": 2, "subject": "law"},
            ("Q?", "C", OPTIONS, "law"),
        ),
        ("mmlu", "test/law_test.csv", ABCD, ("Q?", "C", OPTIONS, "law")),
        (
            "mmlu",
            "mmlu.csv",
            {"": 0, **{key.title(): value for key, value in ABCD.items()}, "Subject": "law"},
            ("Q?", "C", OPTIONS, "law"),
        ),
        (
            "mmlu_pro",
            "data/test-0.parquet",
            {"question": "Q?", "options": [*"abcdefghij"], "answer": "J", "category": "law"},
            ("Q?", "J", [*"abcdefghij"], "law"),
        ),
        ("ceval", "law/val-0.parquet", {"id": 0, **ABCD}, ("Q?", "C", OPTIONS, "law")),
        ("ceval", "val/law_val.csv", {"id": 0, **ABCD}, ("Q?", "C", OPTIONS, "law")),
        ("aime25", "test.jsonl", {"problem": "Q?", "answer": "070"}, ("Q?", "70")),
        (
            "aime24",
            "data/train-0.parquet",
            {"id": 1, "problem": "Q?", "solution": "", "answer": "204"},
            ("Q?", "204"),
        ),
        (
            "gpqa_diamond",
            "gpqa_diamond.csv",
            GPQA,
            ('Which, "of\n{these}?"', "B", ["y", "right", "x", "z"]),
        ),
        ("mgsm_zh", "mgsm_zh.tsv", {"q": 'Q "1?', "a": "1,000"}, ('Q "1?', "1,000")),
    ],
)
def test_rows_become_questions(
    tmp_path: Path, name: str, file: str, row: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    header = not file.startswith("test/")
    write(tmp_path / name / file, [row, row], header)
    found = list(load(name).questions(find_files(name, tmp_path)))
    assert [(q.text, q.gold, list(q.options), q.cluster) for q in found] == 2 * [
        (*expected, [], "")[:4] if len(expected) == 2 else (*expected, "")[:4]
    ]


def test_the_mlperf_set_for_deepseek_r1() -> None:
    """Each question has its own prompt as it stands, and its own grader."""
    benchmark = of_dataset("mlperf_deepseek_r1", FRAMES / "mlperf" / "mlperf_deepseek_r1.pkl")
    items = load_items(benchmark)
    assert [(item.shape, item.gold, item.messages[0]["content"]) for item in items] == [
        ("mlperf:gpqa", "B", "Which?\n\nAnswer:"),
        ("mlperf:aime1983", "70", "How many?"),
        ("mlperf:math500", "\\frac{1}{2}", "A half?"),
        ("mlperf:mmlu_pro", "J", "Which of ten?"),
    ]
    assert {item.max_tokens for item in items} == {20000}
    assert len(load_repeated(benchmark)) == 5  # with the one that would have to be run


def test_the_mlperf_set_for_gpt_oss(tmp_path: Path) -> None:
    """Equal rows are repeats of one question; prompts are conversations."""
    messages = [{"role": "developer", "content": "Reason."}, {"role": "user", "content": "Q?"}]
    harmony = (
        "<|start|>system<|message|>x<|end|><|start|>user<|message|>Q2<|end|><|start|>assistant"
    )
    aime = {"dataset": "aime25", "ground_truth": "7", "original_messages": messages}
    gpqa = {"dataset": "gpqa_diamond", "ground_truth": "A", "text_input": harmony}
    path = write(tmp_path / "acc_eval_ref.jsonl", [aime, gpqa, aime, aime])
    found = load_repeated(of_dataset("mlperf_gpt_oss_120b", path))
    assert [(item.shape, times, item.messages) for item, times in found] == [
        (
            "gpt-oss-120b:aime25",
            3,
            ({"role": "system", "content": "Reason."}, {"role": "user", "content": "Q?"}),
        ),
        ("gpt-oss-120b:gpqa_diamond", 1, ({"role": "user", "content": "Q2"},)),
    ]


TESTS = [{"input": "1", "output": "2", "testtype": "functional"}]
PROBLEM = {
    "question_title": "Next",
    "question_content": "Add one.",
    "question_id": "3154",
    "starter_code": "class Solution: ...",
    "public_test_cases": json.dumps(TESTS),
    "metadata": json.dumps({"func_name": "next"}),
}


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_livecodebench(tmp_path: Path) -> None:
    hidden = [{"input": "5", "output": "6"}]
    path = write(
        tmp_path / "test.jsonl", [{**PROBLEM, "private_test_cases": packed(json.dumps(hidden))}]
    )
    benchmark = of_dataset("livecodebench", path)
    ((item, _),) = load_repeated(benchmark)
    assert item.gold == "3154"
    assert item.messages[0]["content"].startswith("Next\n\n### Question:\nAdd one.\n\n### Format: ")
    ((question, job),) = livecodebench.jobs([path], {"3154": ["def next(x): return x + 1"]})
    assert question == "3154"
    assert (job.inputs, job.outputs, job.function) == (["1", "5"], ["2", "6"], "next")
    assert list(livecodebench.jobs([path], {"1": ["x"]})) == []
    with pytest.raises(EvalError, match="graded by running programs, which only `eval` does"):
        load_items(benchmark)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("evil",)


def test_livecodebench_tests_that_are_a_program(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", [{**PROBLEM, "private_test_cases": packed(Evil())}])
    with pytest.raises(ValueError, match=r"names builtins.print, which is no part of plain data"):
        list(livecodebench.jobs([path], {"3154": ["x"]}))


def test_where_a_set_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = tmp_path / "work"
    for part in ("examples", "env", "data/gsm8k"):
        (workspace / part).mkdir(parents=True)
    row = {"question": "Q", "answer": "#### 1"}
    monkeypatch.delenv("FLAGDEPLOY_DATA", raising=False)
    with pytest.raises(UsageError) as caught:
        find_files("gsm8k", None, workspace)
    assert str(caught.value) == f"GSM8K is not in {workspace / 'data' / 'gsm8k'}"
    assert caught.value.hint == (
        "`flagdeploy pull --dataset gsm8k` fetches it (MIT); "
        "or name its file or folder: --data PATH"
    )
    own = write(workspace / "data" / "gsm8k" / "test.jsonl", [row])
    assert find_files("gsm8k", None, workspace) == [own]
    shared = write(tmp_path / "shared" / "gsm8k" / "test.jsonl", [row])
    monkeypatch.setenv("FLAGDEPLOY_DATA", str(tmp_path / "shared"))
    assert find_files("gsm8k", None, workspace) == [shared]
    other = write(tmp_path / "other.jsonl", [row])
    assert find_files("gsm8k", other, workspace) == [other]
    assert find_files("gsm8k", tmp_path / "shared", workspace) == [shared]
    assert find_files("gsm8k", shared.parent, workspace) == [shared]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.jsonl", b'{"question": "Q"}\n', "row 1 is no question of GSM8K: KeyError 'answer'"),
        ("a.jsonl", b'{"question": \n', "Expecting value"),
        ("a.jsonl", b"[1]\n", "line 1 is no object"),
        ("a.json", b"{}", "is no list of questions"),
        ("a.csv", b"question,answer\n\xff,1\n", "codec can't decode"),
        ("a.parquet", b"PAR1", "Parquet"),
        ("a.pkl", pickle.dumps(Evil()), "names builtins.print, which is no part of a DataFrame"),
    ],
)
def test_files_that_are_no_questions(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(EvalError) as caught:
        list(load("gsm8k").questions([path]))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_file_of_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="how is it to be read"):
        list(rows.read(tmp_path / "questions.txt"))


def test_a_benchmark_folder_may_name_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "q.jsonl", [{"question": "Q", "answer": "#### 1"}])
    entry = {"dataset": "GSM8K", "file": "q.jsonl", "max_tokens": 9, "name": "short"}
    yaml = tmp_path / "benchmark.yaml"
    yaml.write_text(json.dumps({"benchmarks": [entry]}))
    (benchmark,) = load_benchmarks(tmp_path)
    (item,) = load_items(benchmark)
    assert (item.task, item.shape, item.gold, item.max_tokens) == ("short", "lenient:gsm8k", "1", 9)
    assert benchmark.to_json()["dataset"] == "gsm8k"
    path.unlink()
    monkeypatch.delenv("FLAGDEPLOY_DATA", raising=False)
    yaml.write_text(json.dumps({"benchmarks": [{**entry, "shape": "gsm8k"}, {"dataset": "x"}]}))
    with pytest.raises(ConfigError) as caught:
        load_benchmarks(tmp_path)
    assert [(p.key, p.what.partition(":")[0]) for p in caught.value.problems] == [
        ("benchmarks[0].shape", "unknown key"),
        ("benchmarks[0].dataset", f"GSM8K is not in {tmp_path}/q.jsonl/gsm8k nor in {path}"),
        ("benchmarks[1].dataset", "no data set `x`"),
    ]


def test_gpqa_options_lie_the_same_in_every_run() -> None:
    texts = [f"Question {number}?" for number in range(200)]
    found = [load("gpqa_diamond").read({**GPQA, "Question": text}) for text in texts]
    assert all(q.options["ABCD".index(q.gold)] == "right" for q in found)
    letters = "".join(q.gold for q in found)
    assert letters.startswith("CCDCDDBBBDBD")
    assert all(30 < letters.count(letter) < 70 for letter in "ABCD")
    assert isinstance(found[0], Question)
