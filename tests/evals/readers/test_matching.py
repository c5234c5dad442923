from collections.abc import Sequence

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.readers.matching import match, right
from flagdeploy.evals.readers.samples import Row, Samples, answer


def samples(
    name: str, rows: Sequence[tuple[str, str, str]], identity: str = "", task: str = "t"
) -> Samples:
    """Of (key, question text, right answer)."""
    made = (
        Row(answer(key, task, status="ok", gold=gold, score=1.0), text, text)
        for key, text, gold in rows
    )
    return Samples(name, name, "1", identity or name, name, tuple(made))


def keys(a: Samples, b: Samples) -> list[tuple[str, str]]:
    return [(x.key, y.key) for x, y in match(a, b).pairs]


def test_one_tool_is_paired_by_its_hash_whatever_the_order() -> None:
    a = samples("a", [("1", "one", "1"), ("2", "two", "2"), ("3", "three", "3")], "hash")
    b = samples("b", [("3", "x", "9"), ("1", "y", "9")], "hash")
    found = match(a, b)
    assert [(x.key, y.key) for x, y in found.pairs] == [("1", "1"), ("3", "3")]
    assert [question.key for question in found.only_baseline] == ["2"]
    assert found.how == "hash"


def test_other_tools_are_paired_by_what_they_ask() -> None:
    a = samples("a", [("1", "How many\n are two?", "#### 1,200"), ("2", "What is it?", "(B)")])
    b = samples("b", [("x", "Q: What is it? A: ", "b"), ("y", "Q: How many are two?\nA:", "$1200")])
    assert keys(a, b) == [("1", "y"), ("2", "x")]
    assert keys(b, a) == [("x", "2"), ("y", "1")]


def test_another_right_answer_is_another_question() -> None:
    a = samples("a", [("1", "one?", "1"), ("2", "two?", "2")])
    b = samples("b", [("x", "one?", "1"), ("y", "two?", "3")])
    found = match(a, b)
    assert len(found.pairs) == found.gold == 1


def test_what_fits_several_questions_is_paired_with_none() -> None:
    a = samples("a", [("1", "Which is true?", "A"), ("2", "two?", "B")])
    b = samples("b", [("x", "Which is true? p q", "A"), ("y", "Which is true? r s", "A")])
    b = Samples(**{**vars(b), "rows": (*b.rows, *samples("c", [("z", "two?", "B")]).rows)})
    found = match(a, b)
    assert [(x.key, y.key) for x, y in found.pairs] == [("2", "z")]
    assert found.ambiguous == 1


def test_nothing_in_common_says_why() -> None:
    a, b = samples("a", [("1", "one?", "1")]), samples("b", [("x", "one?", "2")])
    with pytest.raises(EvalError) as raised:
        match(a, b)
    assert str(raised.value) == (
        "a and b have no question in common: 1 share their text but not the right answer"
    )


def test_without_texts_other_identities_are_refused() -> None:
    a, b = samples("a", [("1", "one?", "1")]), samples("b", [("x", "", "1")])
    with pytest.raises(EvalError) as raised:
        match(a, b)
    assert str(raised.value) == (
        "a names questions by a, b by b, and b keeps no question texts to pair them by"
    )


def test_many_questions_are_found_in_many_prompts() -> None:
    a = samples(
        "a", [(str(i), f"{i} is the number that is asked for here?", "1") for i in range(3000)]
    )
    b = samples(
        "b",
        [(str(i), f"Say: {i} is the number that is asked for here? So?", "1") for i in range(3000)],
    )
    found = match(a, b)
    # "5 is the number" stands in the prompt of 15, of 25 and of many others.
    assert all(x.key == y.key for x, y in found.pairs)
    assert len(found.pairs) + found.ambiguous == 3000


@pytest.mark.parametrize(
    ("gold", "plain"),
    [("so 5\n#### 1,000", "1000"), ("(C)", "c"), ("$5.", "5"), ("\\frac{1}{2}", "\\frac{1}{2}")],
)
def test_right_answers_in_one_spelling(gold: str, plain: str) -> None:
    assert right(gold) == plain
