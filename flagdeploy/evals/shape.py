"""Whether an endpoint's answer has the shape that is read from it; what else it holds is its own.

Field names and types: OpenAI API reference, chat and completions; vLLM's `prompt_token_ids`,
`token_ids`, `prompt_logprobs` and `reasoning`.
"""

from typing import Any

_MESSAGE = {"content": str, "reasoning": str, "reasoning_content": str}
_CHOICE = {
    "message": _MESSAGE,
    "finish_reason": str,
    "token_ids": [int],
    "prompt_logprobs": list,
    "logprobs": {"token_logprobs": list},
}
ANSWER = {
    "usage": {"prompt_tokens": int, "completion_tokens": int},
    "prompt_token_ids": [int],
    "choices": [_CHOICE],
}


def misfit(value: Any, shape: Any = ANSWER, path: str = "answer") -> str:
    """The path of the first field of another type, empty when all fit; a field may be null."""
    if value is None:
        return ""
    if isinstance(shape, type):
        return "" if isinstance(value, shape) else path
    if not isinstance(value, type(shape)):
        return path
    if isinstance(shape, dict):
        inside = (misfit(value.get(key), row, f"{path}.{key}") for key, row in shape.items())
    else:
        inside = (
            path if row is None else misfit(row, shape[0], f"{path}[{index}]")
            for index, row in enumerate(value)
        )
    return next(filter(None, inside), "")


def is_scored(entry: Any) -> bool:
    """One position of `prompt_logprobs`: ``{"id": {"logprob": x}}``, x a number or null."""
    return (
        isinstance(entry, dict)
        and bool(entry)
        and all(
            id_.isdecimal()
            and isinstance(row, dict)
            and isinstance(row.get("logprob"), int | float | None)
            for id_, row in entry.items()
        )
    )
