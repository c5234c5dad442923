"""Parity: do both endpoints see the same prompt? Seconds, no statistics, most real faults.

The same messages must become the same number of prompt tokens (and, where both return them, the
same ids). If not, chat template, tokenizer, BOS or system prompt differ and nothing else counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flagdeploy.evals.at_once import all_of
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.client import Client
from flagdeploy.evals.items import Item, Message


@dataclass(frozen=True)
class Prompt:
    """One conversation and what an endpoint made of it; `error` when it refused."""

    name: str
    messages: tuple[Message, ...]
    prompt_tokens: int | None = None
    token_ids: tuple[int, ...] | None = None
    error: str | None = None


def _said(*turns: tuple[str, str]) -> tuple[Message, ...]:
    return tuple({"role": role, "content": content} for role, content in turns)


CONVERSATIONS = {
    "one word": _said(("user", "Hello")),
    "system prompt": _said(("system", "Be brief."), ("user", "What is 2+2?")),
    "two turns": _said(("user", "1+1?"), ("assistant", "2"), ("user", "And 2+2?")),
    "thoughts in history": _said(
        ("user", "1+1?"), ("assistant", "<think>one and one</think>2"), ("user", "Sure?")
    ),
    "trailing spaces": _said(("user", "What is 7*8?   ")),
    "leading newline": _said(("user", "\n\nWhat is 7*8?")),
    "digits": _said(("user", "1234567890 + 0.5 - 1,000")),
    "symbols": _said(("user", "\\boxed{x} $5 50% #1 a_b")),
    "long text": _said(("user", " ".join(map(str, range(200))))),
    "Chinese": _said(("user", "\u4e00\u52a0\u4e00\u7b49\u4e8e\u51e0\uff1f")),
}


def cases(items: Sequence[Item], per_task: int = 3) -> list[Prompt]:
    """The fixed conversations and the first `per_task` questions of each benchmark."""
    chosen = [Prompt(name, messages) for name, messages in CONVERSATIONS.items()]
    taken: dict[str, int] = {}
    for item in items:
        taken[item.task] = taken.get(item.task, 0) + 1
        if taken[item.task] <= per_task:
            chosen.append(Prompt(f"{item.task} {item.key}", item.messages))
    return chosen


async def count(
    client: Client, capabilities: Capabilities, prompts: Sequence[Prompt]
) -> list[Prompt]:
    """What this endpoint makes of `prompts`, in order."""

    async def one(prompt: Prompt) -> Prompt:
        payload = {
            "model": capabilities.model,
            "messages": list(prompt.messages),
            "max_tokens": 1,
            "temperature": 0,
        }
        if capabilities.return_token_ids:
            payload["return_token_ids"] = True
        reply = await client.post("/chat/completions", payload)
        body = reply.body or {}
        ids = body.get("prompt_token_ids")
        return Prompt(
            prompt.name,
            prompt.messages,
            (body.get("usage") or {}).get("prompt_tokens"),
            tuple(ids) if ids else None,
            reply.error,
        )

    return await all_of(one(prompt) for prompt in prompts)


def differences(baseline: Sequence[Prompt], candidate: Sequence[Prompt]) -> list[str]:
    """One line per prompt that the two sides did not tokenize alike."""
    return [
        f"{a.name}: {difference}"
        for a, b in zip(baseline, candidate, strict=True)
        if (difference := _difference(a, b))
    ]


def _difference(a: Prompt, b: Prompt) -> str:
    if b.error:
        return b.error
    if a.prompt_tokens != b.prompt_tokens:
        return f"{a.prompt_tokens} prompt tokens at the baseline, {b.prompt_tokens} here"
    if a.token_ids and b.token_ids and a.token_ids != b.token_ids:
        pairs = zip(a.token_ids, b.token_ids, strict=True)
        at = next(index for index, (x, y) in enumerate(pairs) if x != y)
        return f"prompt token {at} is {a.token_ids[at]} at the baseline, {b.token_ids[at]} here"
    return ""
