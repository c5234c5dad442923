"""The published DeepSeek-R1 scores of H100 and MLU590: one PASS, five INCONCLUSIVE, as computed
once by hand from the whole numbers of right answers, to two decimals."""

from pathlib import Path
from typing import Any

import pytest

from flagdeploy.records.report import render
from flagdeploy.workflows.compare import compare
from records.report.sample import CASES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    result = compare("mlu590", "h100", workspace=ROOT).to_json()
    return {**result, "started": "2026-01-01T00:00:00Z", "seconds": 0.0}


@pytest.mark.parametrize("form", ["text", "markdown", "card"])
def test_published_totals(
    published: dict[str, Any], form: str, request: pytest.FixtureRequest
) -> None:
    golden = CASES / f"published.{form}"
    shown = render(published, form) + "\n"
    if request.config.getoption("--update-golden"):
        golden.write_text(shown)
    assert shown == golden.read_text()


def test_the_six_rows(published: dict[str, Any]) -> None:
    rows = [line for line in render(published, "card").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    assert [(c[0], c[1], c[2], c[3], c[6]) for c in cells] == [
        ("GSM8K (EM)", "95.75", "95.15", "-0.61 [-2.22, +1.00]", "INCONCLUSIVE"),
        ("MMLU (Acc.)", "85.34", "85.61", "+0.27 [-0.55, +1.09]", "PASS"),
        ("C-Eval", "89.00", "89.38", "+0.37 [-1.98, +2.73]", "INCONCLUSIVE"),
        ("AIME 2025 (Pass@1)", "76.67", "73.33", "-3.33 [-24.53, +18.24]", "INCONCLUSIVE"),
        ("GPQA-Diamond (Pass@1)", "70.20", "73.23", "+3.03 [-5.82, +11.82]", "INCONCLUSIVE"),
        ("MATH-500 (Pass@1)", "93.20", "92.60", "-0.60 [-3.84, +2.63]", "INCONCLUSIVE"),
    ]


def test_a_page_of_totals_says_what_was_not_tested(published: dict[str, Any]) -> None:
    page = render(published, "html")
    assert page.count("no: published totals hold no single answers") == 4
    assert "DeepSeek-R1 on NVIDIA H100 (CUDA)" in page
