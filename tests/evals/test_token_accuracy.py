import math
from collections.abc import Sequence

from flagdeploy.evals.readers.refpt import Entry, TokenReference
from flagdeploy.evals.teacher_forcing import Position
from flagdeploy.evals.token_accuracy import token_accuracy
from flagdeploy.evals.verdict import Finding, judged, overall

FIVE = (1, 2, 3, 4, 5)


def reference(lengths: Sequence[int]) -> TokenReference:
    """Every token is 7, and the reference expects 1, then 2 to 5."""
    entries = (Entry((0,), (7,) * n, (FIVE,) * n) for n in lengths)
    return TokenReference("x.refpt", "C", tuple(entries))


def says(*tokens: int) -> tuple[Position, ...]:
    return tuple(Position(-3.0, {token: -0.1, 99: -4.0}) for token in tokens)


def found(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in judged(findings)}


TOP1, TOP5 = "teacher-forced top-1 disagreement", "teacher-forced top-5 misses"
TEXT = "top-1 of the text itself"


def test_the_same_predictions_pass() -> None:
    texts = reference([100] * 64)
    findings = token_accuracy(texts, dict.fromkeys(range(64), says(*[1] * 100)))
    assert overall(findings) == "PASS"
    assert found(findings)[TOP1].n == 6400
    assert found(findings)[TOP1].clusters == 64


def test_top_1_and_top_5_are_those_of_the_reference_and_the_text_is_shown() -> None:
    texts = reference([8] * 20)
    predicted = says(1, 1, 2, 5, 6, 7, 1, 1)
    shown = found(token_accuracy(texts, dict.fromkeys(range(20), predicted)))
    assert shown[TOP1].estimate == 50.0
    assert shown[TOP5].estimate == 25.0
    assert shown[TEXT].estimate == 12.5
    assert shown[TOP1].verdict == shown[TOP5].verdict == "DIFFERENT"
    assert shown[TOP1].sentence == (
        "the most likely token is not the reference's at 80 of 160 positions"
    )


def test_a_tie_is_no_other_token() -> None:
    tied = (Position(-3.0, {6: -1.0, 1: -1.00005}),) * 8
    shown = found(token_accuracy(reference([8] * 20), dict.fromkeys(range(20), tied)))
    assert shown[TOP1].estimate == shown[TOP5].estimate == 0.0


def test_one_text_is_cut_into_enough_segments() -> None:
    """511 tokens are 63 segments of 8, the last one longer; 60 are enough."""
    shown = found(token_accuracy(reference([511]), {0: says(*[1] * 511)}))
    assert (shown[TOP1].clusters, shown[TOP1].n, shown[TOP1].verdict) == (63, 511, "PASS")


def test_too_few_tokens_decide_nothing() -> None:
    shown = found(token_accuracy(reference([128]), {0: says(*[9] * 128)}))
    assert (shown[TOP1].clusters, shown[TOP1].verdict) == (16, "INCONCLUSIVE")
    assert shown[TOP1].needed_n == 59


def test_texts_that_could_not_be_scored_withhold_a_pass() -> None:
    texts = reference([100] * 64)
    findings = token_accuracy(texts, dict.fromkeys(range(54), says(*[1] * 100)))
    assert overall(findings) == "INCONCLUSIVE"
    assert found(findings)[TOP1].sentence.endswith("; 10 segments could not be scored")
    assert overall(token_accuracy(texts, {})) == "INCONCLUSIVE"


def test_rows_without_a_prediction_are_left_out() -> None:
    entries = (Entry((0,), (7, 7), (FIVE, None)),) * 20
    scores = dict.fromkeys(range(20), says(1, 9))
    shown = found(token_accuracy(TokenReference("x", "C", entries), scores))
    assert (shown[TOP1].n, shown[TOP1].estimate) == (20, 0.0)


def test_nan_fails() -> None:
    broken = (Position(math.nan, {1: math.nan}),) * 8
    findings = token_accuracy(reference([8] * 20), dict.fromkeys(range(20), broken))
    assert overall(findings) == "FAIL"
