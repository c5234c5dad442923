"""What is kept of one request: the reply as it ended, before anything judges it."""

from dataclasses import asdict, dataclass
from typing import Any

from flagdeploy.evals.client import Reply
from flagdeploy.evals.items import Item

VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """One request as it ended, before anything judges it: a line of an AnswerLog.

    `request` identifies the payload, `repeat` counts from 0. `status` is that of the Reply, times
    are seconds since the epoch (`first`: the first text of a streamed reply). `reasoning` is what
    a reasoning parser moved out of `content`.
    """

    request: str
    item: str
    task: str
    repeat: int
    status: str
    http: int | None
    content: str
    reasoning: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    attempts: int
    sent: float
    ended: float
    first: float | None = None
    error: str | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None

    @property
    def text(self) -> str:
        """The reply with its thoughts where the model wrote them; an open ``<think>`` if cut."""
        if not self.reasoning:
            return self.content
        closed = f"</think>{self.content}" if self.content else ""
        return f"<think>{self.reasoning}{closed}"


def record_of(reply: Reply, request: str, item: Item, repeat: int) -> Record:
    """`reply` to the chat completion `request` that asked `item`."""
    body = reply.body or {}
    choices = body.get("choices") or []
    choice = choices[0] if choices else {}
    nothing = reply.status == "ok" and not choices
    usage = body.get("usage") or {}
    message = choice.get("message") or {}
    return Record(
        request=request,
        item=item.key,
        task=item.task,
        repeat=repeat,
        status="error" if nothing else reply.status,
        http=reply.http,
        content=_clean(message.get("content")),
        # `reasoning` in vLLM today, `reasoning_content` in SGLang, TensorRT-LLM and older vLLM.
        reasoning=_clean(message.get("reasoning") or message.get("reasoning_content")),
        finish_reason=_clean(choice.get("finish_reason")) or None,
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        attempts=reply.attempts,
        sent=reply.sent,
        ended=reply.ended,
        first=reply.first,
        error="HTTP 200 without a choice" if nothing else _clean(reply.error) or None,
        prompt_token_ids=body.get("prompt_token_ids"),
        token_ids=choice.get("token_ids"),
    )


def _clean(text: str | None) -> str:
    return (text or "").encode(errors="replace").decode()  # a lone surrogate cannot be written


def row_of(record: Record) -> dict[str, Any]:
    """`record` as a row of a journal."""
    return {"v": VERSION, **asdict(record)}


def read_row(row: dict[str, Any]) -> Record | None:
    """The record of a row, None for a row of another version."""
    return Record(**row) if row.pop("v", None) == VERSION else None
