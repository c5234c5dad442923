import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flagdeploy.errors import ConfigError, EvalError, UsageError
from flagdeploy.evals.benchmarks import load_benchmarks, load_items

ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": "Two {x}?", "answer": "1+1\n#### 2"}],
    "mmlu": [{"question": "Which?", "options": ["p", "q"], "answer": "B", "topic": "t"}],
    "aime": [{"problem": "How many?", "answer": 70}],
}


def folder(tmp_path: Path, **changes: Any) -> Path:
    rows = [
        {
            "name": shape,
            "shape": shape,
            "file": f"{shape}.jsonl",
            "prompt": "{question}\nPut it in \\boxed{}.",
            "max_tokens": 9,
        }
        for shape in ROWS
    ]
    rows[0] |= changes
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump({"benchmarks": rows}))
    for shape, questions in ROWS.items():
        lines = "".join(json.dumps(row) + "\n" for row in questions)
        (tmp_path / f"{shape}.jsonl").write_text(lines)
    return tmp_path


def prompts(tmp_path: Path, **changes: Any) -> list[str]:
    items = [load_items(one)[0] for one in load_benchmarks(folder(tmp_path, **changes))]
    return [item.messages[0]["content"] for item in items]


def test_questions_of_every_shape_become_prompts(tmp_path: Path) -> None:
    assert prompts(tmp_path) == [
        "Two {x}?\nPut it in \\boxed{}.",
        "Which?\nA. p\nB. q\nPut it in \\boxed{}.",
        "How many?\nPut it in \\boxed{}.",
    ]


def test_gold_answers_and_clusters(tmp_path: Path) -> None:
    items = [load_items(one)[0] for one in load_benchmarks(folder(tmp_path))]
    assert [item.gold for item in items] == ["2", "B", "70"]
    assert [item.cluster for item in items] == [items[0].key, "t", items[2].key]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("{question}|{options}|", "Which?|A. p\nB. q|"),
        ("{question} A) {A} B) {B} {C}", "Which? A) p B) q {C}"),
    ],
)
def test_options_go_where_the_prompt_puts_them(tmp_path: Path, prompt: str, text: str) -> None:
    rows = yaml.safe_load((folder(tmp_path) / "benchmark.yaml").read_text())
    rows["benchmarks"][1]["prompt"] = prompt
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(rows))
    item = load_items(load_benchmarks(tmp_path)[1])[0]
    assert item.messages[0]["content"] == text


def test_the_key_is_the_content_not_the_place(tmp_path: Path) -> None:
    benchmark = load_benchmarks(folder(tmp_path))[0]
    one = load_items(benchmark)[0]
    another = '{"question": "Three?", "answer": "#### 3"}\n'
    benchmark.file.write_text(another + "\n" + benchmark.file.read_text())
    assert load_items(benchmark)[1] == one
    assert len({item.key for item in load_items(benchmark)}) == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shape": "mmul"}, "benchmarks[0].shape: `mmul` is not one of gsm8k, mmlu, aime"),
        ({"prompt": "Go"}, "benchmarks[0].prompt: has no {question}"),
        ({"max_tokens": "9"}, "benchmarks[0].max_tokens: must be given as int"),
        ({"margin": 3}, "benchmarks[0].margin: unknown key"),
        ({"file": "no.jsonl"}, "benchmarks[0].file: {folder}/no.jsonl does not exist"),
    ],
)
def test_a_wrong_benchmark_file_is_named(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_benchmarks(folder(tmp_path, **changes))
    path = tmp_path / "benchmark.yaml"
    assert str(error.value) == f"{path}: {text.replace('{folder}', str(tmp_path))}"


def test_a_folder_without_questions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no benchmark.yaml, so there are no questions to ask"):
        load_benchmarks(tmp_path)


def test_a_broken_question_is_named_with_its_line(tmp_path: Path) -> None:
    benchmark = load_benchmarks(folder(tmp_path))[0]
    benchmark.file.write_text(benchmark.file.read_text() + '{"question": "?"}\n')
    with pytest.raises(EvalError) as error:
        load_items(benchmark)
    where = f"{benchmark.file}:2"
    assert str(error.value) == f"{where}: not a question of shape gsm8k: KeyError 'answer'"


TRAINED = """
import json, sys
from pathlib import Path
from questions import row_prompt
for shape in ("gsm8k", "mmlu", "aime"):
    for line in Path(f"questions/{shape}.jsonl").read_text().splitlines():
        print(json.dumps(row_prompt(shape, json.loads(line))))
"""


def test_the_questions_of_the_model_in_the_box_are_asked_as_it_was_trained() -> None:
    example = Path(__file__).parents[2] / "examples" / "tiny_deepseek_r1"
    printed = subprocess.run(
        [sys.executable, "-c", TRAINED], cwd=example, check=True, capture_output=True, text=True
    )
    items = [item for benchmark in load_benchmarks(example) for item in load_items(benchmark)]
    prompts = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [item.messages[0]["content"] for item in items] == prompts
    assert len({item.key for item in items}) == 1000
