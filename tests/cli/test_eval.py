"""Exit codes and streams of `flagdeploy eval` and `pull --dataset`."""

import json
from pathlib import Path

import pytest
from evals.stub_endpoint import Stub, serving
from typer.testing import CliRunner, Result

from flagdeploy.cli.app import app

ROOT = Path(__file__).parents[2]


def flagdeploy(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_score_is_printed_and_written(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    options = ("--dataset", "GSM8K", "--data", tmp_path / "q.jsonl", "--record", tmp_path / "run")
    with serving(Stub(reply=lambda text: "2")) as stub:
        result = flagdeploy("eval", stub.url, *options, "--json", tmp_path / "r.json", "-q")
        on_stdout = flagdeploy("eval", stub.url, *options, "--json", "-", "-q")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[3].split()[:4] == ["gsm8k", "100.00%", "-", "lenient"]
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["results"][0]["answers"]["ok"] == 1
    assert json.loads(on_stdout.stdout) == written
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "http://127.0.0.1:9"), "error: what shall be asked?"),
        (("eval", "--dataset", "gsm9k"), "error: no data set `gsm9k`"),
        (("eval", "--grader", "x"), "error: --grader x: there is both, mlperf, lenient"),
        (("eval", "--json", "/"), "error: --json /: no file can be written there"),
        (
            ("eval", "--lm-eval", "/dev/null/x"),
            "error: --lm-eval /dev/null/x: no folder can be made: Not a directory",
        ),
        (
            ("pull", "--dataset", "gsm8k,mmlu", "--to", "x"),
            "error: --to x: each data set has a folder of its own",
        ),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    result = flagdeploy(*arguments, "--workspace", ROOT)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == message
    assert result.stdout == ""


def test_the_list_of_sets() -> None:
    result = flagdeploy("pull", "--dataset", "list")
    assert result.exit_code == 0
    assert "gpqa_diamond            198  GPQA-Diamond (CC BY 4.0;" in result.stdout
