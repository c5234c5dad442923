from flagdeploy.records.report import render
from records.report.sample import RESULT, real


def test_it_begins_with_the_verdict_and_holds_every_part() -> None:
    report = render(RESULT, "markdown")
    lines = report.splitlines()
    assert lines[0] == "# INCONCLUSIVE: here against h200: not enough evidence for either verdict"
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == [
        "## Tests",
        "## Tiers",
        "## Answers",
        "## Flips",
        "## What differs between the sides",
        "## Baseline",
        "## Candidate",
        "## Methods",
    ]
    assert "3 questions are right on one side only; the first 1:" in lines
    assert "| endpoint.version | 1 | 2 |" in lines
    assert "    benchmarks.0.name: t" in lines
    assert "90.0% of all replies are identical word for word." in report


def test_what_a_model_wrote_cannot_become_part_of_the_report() -> None:
    report = render(RESULT, "markdown")
    assert "\n    so\n    # 4\n" in report
    assert "| accuracy, a\\|b * | INCONCLUSIVE |" in report
    assert "    (empty)" in report
    hostile = {"name": "x](javascript:1) <b> `c`\n# d"}
    first = render({**RESULT, "candidate": hostile}, "markdown").splitlines()[0]
    assert first.startswith("# INCONCLUSIVE: x]\\(javascript:1) \\<b> \\`c\\` # d against h200")


def test_a_flip_shows_its_question_and_both_answers() -> None:
    report = render(real(), "markdown")
    flip = report.partition("### ")[2].partition("### ")[0]
    assert flip.splitlines()[2].startswith("    1188 books are shared equally by 18 friends.")
    assert "Baseline: 168, right, ok\n\n    1188/18=66\n    66+102=168\n" in flip
    assert "Candidate: 115, wrong, ok\n\n    1188/18=13\n    13+102=115\n" in flip
