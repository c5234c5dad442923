"""What the shell offers on Tab, asked as bash asks it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagdeploy.cli.app import app
from flagdeploy.cli.eval import GRADERS
from flagdeploy.evals.scoring import MODES
from flagdeploy.evals.suites import SUITES
from flagdeploy.records.report import FORMS

ROOT = Path(__file__).parents[2]


def offered(words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Completions of the last word of `words`; it is empty after a space."""
    monkeypatch.setenv("FLAGDEPLOY_HOME", str(ROOT))
    environment = {
        "_FLAGDEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    result = CliRunner().invoke(app, [], prog_name="flagdeploy", env=environment)
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flagdeploy ser", ["serve"]),
        ("flagdeploy serve ", ["deepseek_r1", "gpt_oss_120b", "tiny_deepseek_r1"]),
        ("flagdeploy stop t", ["tiny_deepseek_r1"]),
        ("flagdeploy serve deepseek_r1 sglang_", ["sglang_fp8_h200", "sglang_mtp_h200"]),
        ("flagdeploy serve deepseek_r1 max", ["max_hosts="]),
        ("flagdeploy serve deepseek_r1 vllm_fp8_h200 limits.mem", ["limits.memory_fraction="]),
        ("flagdeploy config explain moe.b", ["moe.backend"]),
        ("flagdeploy compare --baseline h", ["h100"]),
        ("flagdeploy compare --suite ", ["quick", "standard", "full"]),
        ("flagdeploy compare --mode ", ["S", "D", "P"]),
        ("flagdeploy baseline record --mode D", ["D"]),
        ("flagdeploy report --format m", ["markdown"]),
        ("flagdeploy eval --grader m", ["mlperf"]),
        ("flagdeploy patch check n", ["nvidia/vllm@01425553bdbe"]),
        ("flagdeploy stop --workspace /nonexistent t", []),
    ],
)
def test_offers(words: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered(words, monkeypatch) == expected


def test_a_variant_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    words = offered("flagdeploy serve deepseek_r1 vllm_fp8_h200 ", monkeypatch)
    assert "sglang_fp8_h200" not in words
    assert "parallel.tensor=" in words


def test_what_is_offered_is_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered("flagdeploy compare --suite ", monkeypatch) == list(SUITES)
    assert offered("flagdeploy compare --mode ", monkeypatch) == list(MODES)
    assert offered("flagdeploy compare --format ", monkeypatch) == list(FORMS)
    assert offered("flagdeploy eval --grader ", monkeypatch) == list(GRADERS)
