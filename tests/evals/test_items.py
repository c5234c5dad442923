import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.benchmark_folder import folder
from flagdeploy.errors import EvalError
from flagdeploy.evals.benchmarks import load_benchmarks
from flagdeploy.evals.items import load_items


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
