"""Asking the questions: one recorded answer per item, whatever became of it."""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from flagdeploy.evals.benchmarks import Item
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.client import Client, Reply
from flagdeploy.evals.grading.plain import grade
from flagdeploy.records.events import Event, Report

T = TypeVar("T")
MISSING = ("error", "timeout")  # the endpoint gave no answer; anything else is its answer


@dataclass(frozen=True)
class Sampling:
    """How every question of a run is asked. Greedy unless said otherwise; K > 1 `repeats` of a
    greedy question are no independent samples, so they want a temperature. Repeat r is asked with
    seed + r, which makes a run repeatable on one engine and means nothing across engines.
    """

    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    repeats: int = 1

    def fields(self, repeat: int) -> dict[str, Any]:
        """The request fields of `repeat` (from 0); those left to the endpoint are absent."""
        known = {"top_p": self.top_p, "seed": None if self.seed is None else self.seed + repeat}
        given = {key: value for key, value in known.items() if value is not None}
        return {"temperature": self.temperature, **given}


GREEDY = Sampling()


@dataclass(frozen=True)
class Answer:
    """One request as it ended.

    `status`: ``ok``; ``length`` (cut by its token limit); ``unparsed`` (no answer found);
    ``refused`` (4xx); ``error`` and ``timeout`` (no reply after every attempt). `score` is None
    exactly for the last two. Times in seconds since the epoch. `request` identifies the payload,
    `repeat` counts from 0.
    """

    request: str
    item: str
    task: str
    status: str
    prediction: str | None
    gold: str
    score: float | None
    content: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    http: int | None
    attempts: int
    sent: float
    ended: float
    error: str | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None
    repeat: int = 0


class AnswerLog:
    """An append-only JSONL of answers, one fsync each: a killed run loses what was in flight."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.finished: dict[str, Answer] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.finished = {a.request: a for a in read_log(path) if a.status not in MISSING}

    def append(self, answer: Answer) -> None:
        if self.path is None:
            return
        with self.path.open("ab") as log:
            log.write(json.dumps(asdict(answer), ensure_ascii=False).encode() + b"\n")
            log.flush()
            os.fsync(log.fileno())


def read_log(path: Path) -> list[Answer]:
    """The whole lines of a log; a torn last line (the run was killed in a write) is cut off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    known = {field.name for field in fields(Answer)}
    rows = (json.loads(line) for line in whole.splitlines())
    return [Answer(**{key: row[key] for key in row.keys() & known}) for row in rows]


async def ask(
    client: Client,
    capabilities: Capabilities,
    items: Sequence[Item],
    *,
    log: AnswerLog,
    report: Report,
    stage: str,
    token_ids: bool = False,
    sampling: Sampling = GREEDY,
) -> list[Answer]:
    """Answers to `items` in their order, all of repeat 0 first; those in `log` are not asked again.

    With `token_ids` the replies carry the ids of prompt and continuation (vLLM's
    `return_token_ids`). Raises EvalError when the endpoint stops answering at all.
    """
    asked = [(item, repeat) for repeat in range(sampling.repeats) for item in items]
    payloads = [
        _payload(capabilities.model, item, token_ids, sampling.fields(repeat))
        for item, repeat in asked
    ]
    keys = [
        _request_key(client, payload, repeat)
        for payload, (_, repeat) in zip(payloads, asked, strict=True)
    ]
    answers = [log.finished.get(key) for key in keys]
    left = [index for index, answer in enumerate(answers) if answer is None]
    done = len(asked) - len(left)

    async def one(index: int) -> None:
        nonlocal done
        reply = await client.post("/chat/completions", payloads[index])
        item, repeat = asked[index]
        answer = _answer(keys[index], item, reply, repeat)
        log.append(answer)
        answers[index] = answer
        done += 1
        report(
            Event(
                stage,
                f"questions, {client.concurrency} at once",
                done=done,
                total=len(asked),
                unit="answers",
            )
        )

    await all_of(one(index) for index in left)
    return [answer for answer in answers if answer is not None]


async def all_of(work: Iterable[Awaitable[T]]) -> list[T]:
    """Await everything at once; the first exception cancels the rest and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _payload(model: str, item: Item, token_ids: bool, sampling: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "model": model,
        "messages": list(item.messages),
        "max_tokens": item.max_tokens,
        **sampling,
    }
    # Strict servers refuse fields they do not know, so this one is sent only where it is wanted.
    return {**payload, "return_token_ids": True} if token_ids else payload


def _request_key(client: Client, payload: dict[str, Any], repeat: int) -> str:
    # Two repeats of one question may have the same payload and are two requests all the same.
    text = json.dumps([client.base, payload, repeat], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _answer(request: str, item: Item, reply: Reply, repeat: int) -> Answer:
    body = reply.body or {}
    choice = (body.get("choices") or [{}])[0]
    usage = body.get("usage") or {}
    text, finish = _text(choice.get("message") or {}), choice.get("finish_reason")
    graded = grade(item.shape, text, item.gold, finish)
    missing = reply.status in MISSING
    return Answer(
        request=request,
        item=item.key,
        task=item.task,
        status=_status(reply, finish, graded.prediction),
        prediction=graded.prediction,
        gold=item.gold,
        score=None if missing else graded.score,
        content=text,
        finish_reason=finish,
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        http=reply.http,
        attempts=reply.attempts,
        sent=reply.sent,
        ended=reply.ended,
        error=reply.error,
        prompt_token_ids=body.get("prompt_token_ids"),
        token_ids=choice.get("token_ids"),
        repeat=repeat,
    )


def _text(message: dict[str, Any]) -> str:
    # A reasoning parser moves the thoughts to `reasoning` (vLLM today) or `reasoning_content`.
    thoughts = message.get("reasoning") or message.get("reasoning_content")
    text = message.get("content") or ""
    if thoughts:
        text = f"<think>{thoughts}</think>{text}" if text else f"<think>{thoughts}"
    return text.encode(errors="replace").decode()  # a lone surrogate could not be written


def _status(reply: Reply, finish: str | None, prediction: str | None) -> str:
    if reply.status != "ok":
        return reply.status
    if finish == "length":
        return "length"
    return "ok" if prediction is not None else "unparsed"


def account(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers ended in each status, every status listed."""
    counts = dict.fromkeys(("ok", "length", "unparsed", "refused", *MISSING), 0)
    for answer in answers:
        counts[answer.status] += 1
    return counts
