from typing import Any

from flagdeploy.records.report import explained, markdown, number, text

TESTS: list[dict[str, Any]] = [
    {
        "name": "parity",
        "verdict": "PASS",
        "sentence": "all 12 prompts become the same tokens",
        "required": True,
        "unit": "",
        "estimate": None,
        "interval": None,
        "level": None,
        "n": 12,
        "clusters": None,
        "margin": None,
        "p": None,
        "needed_n": None,
    },
    {
        "name": "accuracy, a|b",
        "verdict": "INCONCLUSIVE",
        "sentence": "80.00% at the baseline, 79.00% here on 100 questions",
        "required": True,
        "unit": "pp",
        "estimate": -1.0,
        "interval": {"low": -4.126, "high": 2.0},
        "level": 0.9,
        "n": 100,
        "clusters": 100,
        "margin": 0.8,
        "p": 0.4,
        "needed_n": 3864,
    },
]
COUNTS = {"ok": 99, "length": 1, "unparsed": 0, "refused": 0, "error": 0, "timeout": 0}
SIDE = {"prediction": "4", "score": 1.0, "status": "ok", "content": "so\n# 4"}
RESULT: dict[str, Any] = {
    "verdict": "INCONCLUSIVE",
    "mode": "paired with teacher forcing",
    "suite": "quick",
    "tests": TESTS,
    "answers": {"baseline": COUNTS, "candidate": COUNTS},
    "identical": 0.9,
    "flip_count": 3,
    "flips": [
        {
            "item": "k1",
            "task": "t",
            "gold": "4",
            "baseline": SIDE,
            "candidate": {**SIDE, "prediction": None, "score": 0.0, "content": ""},
        }
    ],
    "baseline": {"name": "h200", "endpoint": {"version": "1"}, "benchmarks": [{"name": "t"}]},
    "candidate": {"name": "here", "endpoint": {"version": "2"}},
    "differences": [{"key": "endpoint.version", "baseline": "1", "candidate": "2"}],
    "started": "2026-01-01T00:00:00Z",
    "seconds": 61.2,
}

TEXT = """\
INCONCLUSIVE: here against h200: not enough evidence for either verdict
mode: paired with teacher forcing

test             verdict       estimate  interval              margin   n
parity *         PASS                                                   12
accuracy, a|b *  INCONCLUSIVE  -1.00 pp  [-4.13, 2.00] at 90%  0.80 pp  100

accuracy, a|b: 80.00% at the baseline, 79.00% here on 100 questions. About 3864 questions would \
decide it (power 80%).
baseline: 99 ok, 1 length
candidate: 99 ok, 1 length"""


def test_text() -> None:
    assert text(RESULT) == TEXT


def test_markdown_begins_with_the_verdict_and_holds_every_part() -> None:
    report = markdown(RESULT)
    lines = report.splitlines()
    assert lines[0] == "# INCONCLUSIVE: here against h200: not enough evidence for either verdict"
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == [
        "## Tests",
        "## Answers",
        "## Flips",
        "## What differs between the sides",
        "## Baseline",
        "## Candidate",
    ]
    assert "3 questions are right on one side only; the first 1:" in lines
    assert "| endpoint.version | 1 | 2 |" in lines
    assert "90.0% of all replies are identical word for word." in report


def test_what_a_model_wrote_cannot_become_part_of_the_report() -> None:
    report = markdown(RESULT)
    assert "\n    so\n    # 4\n" in report
    assert "| accuracy, a\\|b * | INCONCLUSIVE |" in report
    assert "    (empty)" in report


def test_numbers() -> None:
    shown = {0.0: "0.00", 0.00123: "0.0012", -0.5: "-0.50", 12.345: "12.35", None: "unbounded"}
    assert {value: number(value) for value in shown} == shown


def test_sequences_are_not_questions() -> None:
    test = {**TESTS[1], "name": "teacher-forced top-1 disagreement", "sentence": "s"}
    assert explained(test) == "s. About 3864 sequences would decide it (power 80%)."


def test_an_alarm_says_how_sure_it_is_and_how_far_above_the_baselines_own_noise() -> None:
    test = {
        **TESTS[1],
        "verdict": "DIFFERENT",
        "sentence": "s",
        "test": "t test",
        "p": 0.0012,
        "needed_n": None,
        "ratio": 4.0,
        "ratio_interval": {"low": 3.5, "high": None},
    }
    assert explained(test) == (
        "s. Test: t test. 4.00 [3.50, unbounded] times the baseline's own noise. Beyond what is "
        "allowed: p = 0.0012, adjusted for all tests (Holm)."
    )


def test_repeats_that_would_decide() -> None:
    test = {**TESTS[1], "sentence": "s", "needed_repeats": 39}
    assert explained(test) == (
        "s. About 3864 questions, or each asked 39 times with sampling, would decide it "
        "(power 80%)."
    )


def test_the_most_serious_test_is_explained_first() -> None:
    tests = [TESTS[1], {**TESTS[1], "name": "b", "verdict": "DIFFERENT", "needed_n": None}]
    shown = text({**RESULT, "verdict": "DIFFERENT", "tests": tests}).splitlines()
    assert shown[0] == (
        "DIFFERENT: here against h200: another model than the baseline; harm beyond the "
        "margins was not shown"
    )
    assert [line.split(":")[0] for line in shown[7:9]] == ["b", "accuracy, a|b"]
