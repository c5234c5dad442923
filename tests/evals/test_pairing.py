"""Questions with several answers on each side."""

from evals.test_traps import answer, bundle
from flagdeploy.evals.pairing import findings_of, flips, pair_up
from flagdeploy.evals.sequential import Look


def asked(keys: list[str], scores: list[float | None]) -> list[object]:
    return [
        answer(key, repeat=r, score=score, status="error" if score is None else "ok")
        for r, score in enumerate(scores)
        for key in keys
    ]


KEYS = [f"k{i}" for i in range(40)]


def test_a_question_counts_once_with_the_mean_of_its_answers() -> None:
    (question, *_) = pair_up(asked(KEYS, [1.0, 0.0]), asked(KEYS, [1.0, 1.0]))
    assert question.scores == (0.5, 1.0)
    (found, *_) = findings_of(bundle(KEYS, 0.6), [question] * 40, greedy=False, look=Look())
    assert "40 questions asked 2 times" in found.sentence
    assert found.estimate == 50.0


def test_repeats_that_one_side_lacks_are_left_out() -> None:
    (question, *_) = pair_up(asked(KEYS, [1.0]), asked(KEYS, [0.0, 1.0, 1.0]))
    assert question.scores == (1.0, 0.0)
    assert question.tokens == (50.0, 50.0)


def test_a_question_that_lost_one_of_its_answers_is_missing() -> None:
    (question, *_) = pair_up(asked(KEYS, [1.0, 1.0]), asked(KEYS, [1.0, None]))
    assert question.scores == (1.0, None)


def test_only_questions_that_both_answered_are_compared() -> None:
    assert [q.key for q in pair_up(asked(["a", "b"], [1.0]), asked(["b", "c"], [1.0]))] == ["b"]


def test_a_flip_is_a_question_that_is_mostly_right_on_one_side_only() -> None:
    mostly = pair_up(asked(["a"], [1.0, 1.0, 0.0]), asked(["a"], [0.0, 1.0, 0.0]))
    hardly = pair_up(asked(["a"], [1.0, 1.0, 0.0]), asked(["a"], [1.0, 1.0, 1.0]))
    assert [row["question"] for row in flips(mostly, {"a": "how many?"})] == ["how many?"]
    assert flips(hardly, {}) == []


def test_every_p_is_that_of_its_look() -> None:
    questions = pair_up(asked(KEYS, [1.0]), asked(KEYS, [0.0]))
    look = Look(1, (0.125, 1.0))
    once = findings_of(bundle(KEYS), questions, greedy=True, look=Look())
    early = findings_of(bundle(KEYS), questions, greedy=True, look=look)
    for a, b in zip(once, early, strict=True):
        assert (a.p is None) == (b.p is None)
        if a.p is not None and b.p is not None:
            assert b.p == look.p(a.p) >= a.p
