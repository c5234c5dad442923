"""Asking the questions: one recorded reply per request, whatever became of it, then its grade.

A reply is recorded as it ended and graded beside the asking, from its record. So slow grading
never delays a request, and what is recorded can be graded again, by another grader too, without
asking again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flagdeploy.errors import EvalError
from flagdeploy.evals.arrivals import OpenLoop
from flagdeploy.evals.at_once import InThreads, all_of
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.client import Client, Reply
from flagdeploy.evals.grading import shapes
from flagdeploy.evals.grading.grade import Grade, Status
from flagdeploy.evals.items import Item
from flagdeploy.evals.journal import Journal
from flagdeploy.evals.record import Record, read_row, record_of, row_of
from flagdeploy.records.events import Event, Report
from flagdeploy.records.files import write_private

MISSING = ("error", "timeout")  # the endpoint gave no answer; anything else is its answer
STATUSES = ("ok", "length", "unparsed", "refused", "ungraded", *MISSING)
REFUSALS = (400, 413, 422, 451)  # of a question; any other 4xx is about who asks, or where
BY_CHANCE = ("attempts", "sent", "ended")  # fields that another run of the same has otherwise
STREAMED_FROM = 2048  # tokens; a shorter reply ends before proxies take silence for death


@dataclass(frozen=True)
class Sampling:
    """How every question of a run is asked. Greedy unless said otherwise; K > 1 `repeats` of a
    greedy question are no independent samples, so they want a temperature. Repeat r is asked with
    seed + r, which makes a run repeatable on one engine and means nothing across engines. A run
    that goes on after looking asks from repeat `first` on. `reasoning_effort` is what gpt-oss knows
    as such (OpenAI's field).
    """

    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    repeats: int = 1
    first: int = 0
    reasoning_effort: str | None = None

    def fields(self, repeat: int) -> dict[str, Any]:
        """The request fields of `repeat` (from 0); those left to the endpoint are absent."""
        known = {
            "top_p": self.top_p,
            "seed": None if self.seed is None else self.seed + repeat,
            "reasoning_effort": self.reasoning_effort,
        }
        given = {key: value for key, value in known.items() if value is not None}
        return {"temperature": self.temperature, **given}


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as it ended, graded.

    `status`: ``ok``; ``length`` (cut by its token limit); ``unparsed`` (no answer found);
    ``refused`` (4xx, or ended by a content filter); ``ungraded`` (the grader gave up or may not
    run it, `error` says why); ``error`` and ``timeout`` (no reply after every attempt). `score` is
    None for the last two and where nothing was graded. Other fields as in Record; `content` is
    its `text`.
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
    """Replies as they ended, one line each; a killed run loses what was in flight, no more.

    ``with log: log.finished[request]; await log.append(record)``. Requests without a reply are
    recorded too, but are not `finished`: the next run asks them again. One that is used again
    reads only what is new. Without a path nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.finished: dict[str, Record] = {}
        self._journal: Journal | None = None
        self._read_to = 0  # bytes

    def __enter__(self) -> Self:
        if self.path is not None:
            self._journal = Journal(self.path).__enter__()
            for record in map(read_row, self._journal.rows(self._read_to)):
                if record:
                    self._note(record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._journal is not None:
            self._journal.__exit__(kind, error, trace)
            self._read_to = self._journal.size
            self._journal = None

    async def append(self, record: Record) -> None:
        """Returns when `record` is on disk."""
        if self._journal is not None:
            await self._journal.append(row_of(record))
            self._note(record)

    def _note(self, record: Record) -> None:
        if record.status not in MISSING:
            self.finished[record.request] = record


def read_log(path: Path) -> list[Record]:
    """Every record of a log, in the order they ended; the last of a request counts.

    `graded` makes answers of them.
    """
    return [record for record in map(read_row, Journal(path).rows()) if record]


# (question, text of the reply, finish_reason) -> Grade. Called in threads, so it may block on a
# pool of processes; never called for a request without a reply.
GradeReply = Callable[[Item, str, str | None], Grade]


def by_shape(item: Item, text: str, finish_reason: str | None) -> Grade:
    """The rule that the question's shape names."""
    return shapes.grade(item.shape, text, item.gold, finish_reason)


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
    grade: GradeReply = by_shape,
    graders: int = 2,
    open_loop: OpenLoop | None = None,
) -> list[Answer]:
    """Answers to `items` in their order, all of repeat 0 first; those in `log` are not asked again.

    With `token_ids` the replies carry the ids of prompt and continuation (vLLM's
    `return_token_ids`). `graders` replies are graded at a time. `open_loop` says when each request
    goes, else one goes when another has ended. Raises EvalError when the endpoint stops answering
    at all, and what `grade` raises; what is recorded by then is kept.
    """
    asked = [(item, repeat) for repeat in range(sampling.first, sampling.repeats) for item in items]

    def payload(item: Item, repeat: int) -> dict[str, Any]:
        return _payload(capabilities.model, item, token_ids, sampling.fields(repeat))

    with log, InThreads[Answer](graders) as grading:
        places: dict[str, list[int]] = {}  # a question that stands there twice is asked once
        for place, (item, repeat) in enumerate(asked):
            places.setdefault(_request_key(client, payload(item, repeat), repeat), []).append(place)
        done = 0

        def hand_in(record: Record) -> None:
            nonlocal done
            for place in places[record.request]:
                grading.hand_in(place, partial(graded, asked[place][0], record, grade))
                done += 1

        async def one(key: str) -> None:
            grading.check()
            if open_loop:
                await open_loop.until(next(open_loop.moments))
            item, repeat = asked[places[key][0]]
            stream = item.max_tokens > STREAMED_FROM and not token_ids
            reply = await client.post("/chat/completions", payload(item, repeat), stream=stream)
            _check_access(client, reply)
            record = record_of(reply, key, item, repeat)
            await log.append(record)
            hand_in(record)
            what = f"questions, {client.concurrency} at once"
            report(Event(stage, what, done=done, total=len(asked), unit="answers"))

        for key in places.keys() & log.finished.keys():
            hand_in(log.finished[key])
        left = [key for key in places if key not in log.finished]
        await all_of((one(key) for key in left), at_once=client.concurrency)
        return await grading.results()


def _check_access(client: Client, reply: Reply) -> None:
    """Raise EvalError for a refusal that says nothing of the question: a key, a path, a model."""
    if reply.status == "refused" and reply.http not in REFUSALS:
        raise EvalError(
            f"{client.base} refuses every question: {reply.error}",
            hint="key in FLAGDEPLOY_API_KEY? model still served? Answers already recorded are "
            "kept and the same command goes on from there",
        )


def graded(item: Item, record: Record, grade: GradeReply = by_shape) -> Answer:
    """The answer to `item` that `record` holds, by `grade`."""
    text = record.text
    status, error = record.status, record.error
    found = Grade(None, None if status in MISSING else 0.0)
    if status == "ok" and record.finish_reason == "content_filter":
        status = "refused"
    if status == "ok":
        found = grade(item, text, record.finish_reason)
        status = _status(record.finish_reason, found)
        error = found.message or None
    return Answer(
        request=record.request,
        item=item.key,
        task=item.task,
        status=status,
        prediction=found.prediction,
        gold=item.gold,
        score=found.score,
        content=text,
        finish_reason=record.finish_reason,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        http=record.http,
        attempts=record.attempts,
        sent=record.sent,
        ended=record.ended,
        error=error,
        prompt_token_ids=record.prompt_token_ids,
        token_ids=record.token_ids,
        repeat=record.repeat,
    )


def _status(finish_reason: str | None, found: Grade) -> str:
    if finish_reason == "length":
        return "length"
    if found.status in (Status.ERROR, Status.NOT_GRADED):
        return "ungraded"
    return "ok" if found.prediction is not None else "unparsed"


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


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """One JSON object per answer, in their order: what was answered, not when or at which attempt.

    So a run that was interrupted ends with the same bytes as one that was not.
    """
    rows = ({k: v for k, v in asdict(answer).items() if k not in BY_CHANCE} for answer in answers)
    write_private(path, (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))


def account(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers ended in each status, every status listed."""
    counts = dict.fromkeys(STATUSES, 0)
    for answer in answers:
        counts[answer.status] += 1
    return counts
