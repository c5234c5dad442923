from pathlib import Path
from typing import Any

import pytest

from evals.benchmark_folder import folder
from flagdeploy.errors import ConfigError, UsageError
from flagdeploy.evals.benchmarks import load_benchmarks


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
