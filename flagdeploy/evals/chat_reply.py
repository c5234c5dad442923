"""What the first choice of a chat completion holds, whatever a server leaves out."""

from typing import Any

from flagdeploy.evals.client import Reply


def parts(reply: Reply) -> tuple[str, str]:
    """Thoughts and answer, wherever a reasoning parser put the thoughts."""
    message = _choice(reply).get("message") or {}
    thoughts = message.get("reasoning") or message.get("reasoning_content") or ""
    return thoughts, message.get("content") or ""


def finish_reason(reply: Reply) -> str | None:
    return _choice(reply).get("finish_reason")


def completion_tokens(reply: Reply) -> int | None:
    return ((reply.body or {}).get("usage") or {}).get("completion_tokens")


def logprobs(reply: Reply) -> list[dict[str, Any]]:
    return (_choice(reply).get("logprobs") or {}).get("content") or []


def _choice(reply: Reply) -> dict[str, Any]:
    choice: dict[str, Any] = ((reply.body or {}).get("choices") or [{}])[0]
    return choice
