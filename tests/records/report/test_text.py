from flagdeploy.records.report import render
from flagdeploy.records.report.wording import explained, number
from records.report.sample import RESULT, TESTS

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
    assert render(RESULT, "text") == TEXT


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
    shown = render({**RESULT, "verdict": "DIFFERENT", "tests": tests}, "text").splitlines()
    assert shown[0] == (
        "DIFFERENT: here against h200: another model than the baseline; harm beyond the "
        "margins was not shown"
    )
    assert [line.split(":")[0] for line in shown[7:9]] == ["b", "accuracy, a|b"]


def test_how_tokens_were_scored_and_how_often_the_run_looked() -> None:
    looks = {
        "number": 2,
        "information": [0.25, 0.5, 1.0],
        "spending": "quadratic",
        "alpha": 0.05,
        "spent": 0.0125,
    }
    scoring = {"mode": "S", "baseline": "P", "why": ""}
    for form in ("markdown", "html"):
        shown = render({**RESULT, "scoring": scoring, "looks": looks}, form)
        assert (
            "Tokens scored by prefill, one request per sequence, at the baseline by prefill, one "
            "request per position. Ended at look 2 of 3, with 50% of the answers planned; 0.0125 "
            "of alpha 0.05 was spent (quadratic spending)."
        ) in shown
        assert "K. K. G. Lan and D. L. DeMets" in shown
