import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evals.stub_endpoint import Stub, serving
from flagdeploy.errors import EvalError
from flagdeploy.evals.answers import (
    Answer,
    AnswerLog,
    GradeReply,
    account,
    ask,
    by_shape,
    graded,
    read_log,
)
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.grading.grade import Grade, Status
from flagdeploy.evals.items import Item
from flagdeploy.records.events import Event, silent

CAPABILITIES = Capabilities("stub", None, True, 20, False, None)


def item(number: int) -> Item:
    messages = ({"role": "user", "content": f"What is {number}?"},)
    return Item(f"key{number}", "t", "gsm8k", messages, str(number), f"key{number}", 40)


ITEMS = [item(number) for number in range(6)]


def reply(prompt: str) -> str:
    return f"<think>hm</think>\\boxed{{{prompt.removeprefix('What is ').rstrip('?')}}}"


def answers(
    stub: Stub,
    log: Path | None = None,
    events: list[Event] | None = None,
    grade: GradeReply = by_shape,
    items: list[Item] = ITEMS,
    token_ids: bool = False,
) -> list[Answer]:
    async def work() -> list[Answer]:
        patience = Patience(attempts=2, first_pause_s=0.01)
        async with Client(Endpoint(stub.url), 2, patience) as client:
            return await ask(
                client,
                CAPABILITIES,
                items,
                log=AnswerLog(log),
                report=(events if events is not None else []).append,
                stage="answer",
                grade=grade,
                token_ids=token_ids,
            )

    return run(work())


def test_answers_come_in_the_order_of_the_items() -> None:
    events: list[Event] = []
    with serving(Stub(reply)) as stub:
        found = answers(stub, events=events)
    assert [answer.item for answer in found] == [item.key for item in ITEMS]
    assert [answer.prediction for answer in found] == ["0", "1", "2", "3", "4", "5"]
    assert account(found) == {
        "ok": 6,
        "length": 0,
        "unparsed": 0,
        "refused": 0,
        "ungraded": 0,
        "error": 0,
        "timeout": 0,
    }
    assert [(event.done, event.total) for event in events] == [(n, 6) for n in range(1, 7)]


def test_every_way_to_end_is_counted_and_none_dropped() -> None:
    replies = {"0": "<think>" + "x" * 99, "1": "I cannot say"}
    stub = Stub(lambda prompt: replies.get(prompt[8], reply(prompt)), broken=("What is 2",))
    with serving(stub):
        found = answers(stub)
    assert [(answer.status, answer.score) for answer in found] == [
        ("length", 0.0),
        ("unparsed", 0.0),
        ("error", None),
        ("ok", 1.0),
        ("ok", 1.0),
        ("ok", 1.0),
    ]
    assert found[2].error == 'HTTP 500: {"error": "broken"}'


def test_thoughts_in_a_field_of_their_own_are_not_the_answer() -> None:
    with serving(Stub()) as stub:
        stub.chat = lambda body: {  # type: ignore[method-assign]
            "choices": [
                {
                    "message": {"content": None, "reasoning": "it is \\boxed{0}"},
                    "finish_reason": "length",
                }
            ]
        }
        found = answers(stub)
    assert {(answer.status, answer.prediction, answer.score) for answer in found} == {
        ("length", None, 0.0)
    }


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_the_answer_beside_the_thoughts_counts(field: str) -> None:
    with serving(Stub()) as stub:
        message = {"content": "\\boxed{3}", field: "maybe 5"}
        stub.chat = lambda body: {"choices": [{"message": message, "finish_reason": "stop"}]}  # type: ignore[method-assign]
        assert {answer.prediction for answer in answers(stub)} == {"3"}


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"
    with serving(Stub(reply)) as stub:
        whole = answers(stub, log)
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:2]) + lines[2][:50])  # killed while writing the third
        stub.seen.clear()
        resumed = answers(stub, log)
        assert len(stub.seen) == 4
    assert [answer.prediction for answer in resumed] == [answer.prediction for answer in whole]
    assert len(read_log(log)) == 6


def test_errors_are_asked_again_and_answers_are_not(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"
    stub = Stub(reply, broken=("What is 3", "What is 5"))
    with serving(stub):
        first = answers(stub, log)
        assert account(first)["error"] == 2
        stub.broken = ()
        stub.seen.clear()
        assert account(answers(stub, log))["error"] == 0
        assert len(stub.seen) == 2


def test_the_log_holds_one_json_object_per_answer(tmp_path: Path) -> None:
    log = tmp_path / "deeper" / "answers.jsonl"
    with serving(Stub(reply)) as stub:
        answers(stub, log)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(row["item"] for row in rows) == sorted(item.key for item in ITEMS)
    assert {row["status"] for row in rows} == {"ok"}


def test_a_log_can_be_graded_again_without_asking(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"
    with serving(Stub(reply)) as stub:
        first = answers(stub, log)
        stub.seen.clear()
        again = answers(stub, log, grade=lambda item, text, finish: Grade("other", 0.0))
        assert not stub.seen
    assert {(answer.prediction, answer.score) for answer in again} == {("other", 0.0)}
    items = {item.key: item for item in ITEMS}
    of_the_log = [graded(items[record.item], record) for record in read_log(log)]
    assert sorted(of_the_log, key=lambda answer: answer.item) == first


def test_a_log_that_is_used_again_reads_what_is_new(tmp_path: Path) -> None:
    """Also what another run recorded in between, and behind a torn line that was cut off."""
    path = tmp_path / "answers.jsonl"
    ours, theirs = AnswerLog(path), AnswerLog(path)

    async def torn(log: AnswerLog) -> None:
        with log, path.open("ab") as file:  # a write that failed half-way
            file.write(b"{" * 5000)

    async def asked(log: AnswerLog, count: int, stub: Stub) -> int:
        stub.seen.clear()
        async with Client(Endpoint(stub.url)) as client:
            part = ITEMS[:count]
            found = await ask(client, CAPABILITIES, part, log=log, report=silent, stage="answer")
        assert [answer.item for answer in found] == [item.key for item in part]
        return len(stub.seen)

    with serving(Stub(reply)) as stub:
        assert run(asked(ours, 2, stub)) == 2
        assert run(asked(theirs, 3, stub)) == 1
        assert run(asked(ours, 4, stub)) == 1
        with path.open("ab") as file:
            file.write(b'{"v": 1, "torn')
        assert run(asked(theirs, 5, stub)) == 1
        run(torn(ours))
        assert run(asked(theirs, 6, stub)) == 1
        assert run(asked(ours, 6, stub)) == 0


def test_what_a_grader_cannot_say_is_counted_apart() -> None:
    def grade(item: Item, text: str, finish_reason: str | None) -> Grade:
        status = {"0": Status.ERROR, "1": Status.NOT_GRADED}.get(item.gold, Status.PARSED)
        score = {Status.ERROR: 0.0, Status.NOT_GRADED: None}.get(status, 1.0)
        return Grade("x", score, status, "too slow" if status is Status.ERROR else "")

    with serving(Stub(reply)) as stub:
        found = answers(stub, grade=grade)
    assert [(answer.status, answer.score) for answer in found[:3]] == [
        ("ungraded", 0.0),
        ("ungraded", None),
        ("ok", 1.0),
    ]
    assert found[0].error == "too slow"


def test_slow_grading_holds_no_reply_back(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"

    def grade(item: Item, text: str, finish_reason: str | None) -> Grade:
        while len(read_log(log)) < len(ITEMS):  # until every reply is on disk
            time.sleep(0.01)
        return by_shape(item, text, finish_reason)

    with serving(Stub(reply)) as stub:
        assert account(answers(stub, log, grade=grade))["ok"] == len(ITEMS)


def test_a_grader_that_cannot_work_ends_the_asking_and_keeps_the_replies(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"

    def grade(item: Item, text: str, finish_reason: str | None) -> Grade:
        raise EvalError("a package is missing")

    many = [item(number) for number in range(300)]
    with serving(Stub(reply)) as stub:
        with pytest.raises(EvalError, match="a package is missing"):
            answers(stub, log, grade=grade, items=many)
        assert len(stub.seen) < 200
        stub.seen.clear()
        kept = len(read_log(log))
        assert kept
        assert account(answers(stub, log, items=many))["ok"] == 300
        assert len(stub.seen) == 300 - kept


@pytest.mark.parametrize(
    "body, status, score",
    [
        ({}, "error", None),
        ({"choices": []}, "error", None),
        ({"choices": [{"message": {"content": None}}]}, "unparsed", 0.0),
        (
            {"choices": [{"message": {"content": "1"}, "finish_reason": "content_filter"}]},
            "refused",
            0.0,
        ),
    ],
)
def test_a_reply_that_says_nothing_is_none(
    body: dict[str, object], status: str, score: float | None
) -> None:
    with serving(Stub()) as stub:
        stub.chat = lambda _: body  # type: ignore[method-assign]
        (found,) = answers(stub, items=ITEMS[1:2])
    assert (found.status, found.score) == (status, score)


@pytest.mark.parametrize(
    "max_tokens, token_ids, streamed",
    [(2048, False, None), (2049, False, True), (2049, True, None)],
)
def test_long_replies_are_streamed_where_no_ids_are_wanted(
    max_tokens: int, token_ids: bool, streamed: bool | None
) -> None:
    long = [replace(item, max_tokens=max_tokens) for item in ITEMS]
    with serving(Stub(reply, streams=True)) as stub:
        found = answers(stub, items=long, token_ids=token_ids)
        assert {body.get("stream") for body in stub.seen} == {streamed}
    assert [answer.prediction for answer in found] == ["0", "1", "2", "3", "4", "5"]
    assert {answer.completion_tokens for answer in found} == {26}
