"""Which sequences of a baseline are scored."""

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.items import Item
from flagdeploy.evals.passages import choose


def answered(task: str, number: int, known: bool = True) -> tuple[Item, Answer]:
    key = f"{task}{number:03}"
    ids = [1, 2] if known else None
    answer = Answer(
        key, key, task, "ok", "1", "1", 1.0, "1", "stop", 2, 1, 200, 1, 0.0, 1.0, None, ids, ids
    )
    return Item(key, task, "gsm8k", (), "1", key, 9), answer


def test_sequences_are_taken_in_turn_from_every_benchmark() -> None:
    rows = [answered("a", i) for i in range(50)] + [answered("b", i) for i in range(3)]
    chosen = choose([item for item, _ in rows], [answer for _, answer in rows], 8)
    assert [passage.task for passage in chosen] == ["a", "b", "a", "b", "a", "b", "a", "a"]
    assert len({passage.key for passage in chosen}) == 8


def test_answers_without_token_ids_are_no_sequences() -> None:
    rows = [answered("a", i, known=i > 3) for i in range(6)]
    assert len(choose([item for item, _ in rows], [answer for _, answer in rows], 64)) == 2
