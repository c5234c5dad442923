"""The fields of each endpoint: their names, checks and defaults.

A field of OpenAI's or vLLM's API that this server lacks stands here too, checked by `only`.
"""

from typing import Any

from flagdeploy.server.fields import (
    Field,
    boolean,
    ignored,
    integer,
    mapping,
    number,
    only,
    read,
    sequence,
    string,
    wrong_type,
)
from flagdeploy.server.refusal import Refusal

ROLES = ("system", "developer", "user", "assistant", "tool")

Prompt = str | tuple[int, ...]


def _stop(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | list):
        raise wrong_type(name, "a string or a list of strings", value)
    stops: tuple[str, ...] = (
        (value,) if isinstance(value, str) else sequence(string, 16)(name, value)
    )
    if "" in stops:
        raise Refusal(f"{name}: a stop string must not be empty", param=name)
    return stops


def _top_k(name: str, value: Any) -> int:
    top_k: int = integer(-1)(name, value)
    return max(top_k, 0)  # vLLM: both 0 and -1 are "off"


def _prompts(name: str, value: Any) -> tuple[Prompt, ...]:
    """A string, a list of strings, a list of token ids, or a list of lists of token ids."""
    token_ids = sequence(integer(0))
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise wrong_type(name, "a string, a list of strings or token ids", value)
    if not value:
        raise Refusal(f"{name}: must not be empty", param=name)
    if isinstance(value[0], list):
        return tuple(sequence(token_ids)(name, value))
    if isinstance(value[0], str):
        return tuple(sequence(string)(name, value))
    return (token_ids(name, value),)


def _stream_options(name: str, value: Any) -> dict[str, Any]:
    fields = {"include_usage": Field(boolean, False), "continuous_usage_stats": Field(only(False))}
    return _read_nested(name, value, fields)


def _read_nested(name: str, value: Any, fields: dict[str, Field]) -> dict[str, Any]:
    prefixed = {f"{name}.{key}": entry for key, entry in fields.items()}
    inner = {f"{name}.{key}": entry for key, entry in mapping(name, value).items()}
    return {key.removeprefix(f"{name}."): entry for key, entry in read(inner, prefixed).items()}


def _message(name: str, value: Any) -> dict[str, Any]:
    """One chat message for the template: text parts of `content` are joined into one string."""
    role = mapping(name, value).get("role")
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise Refusal(f"{name}.role: must be one of {known}, got {role!r}", param=f"{name}.role")
    content = value.get("content")
    if isinstance(content, list):
        content = "".join(_text_part(f"{name}.content[{i}]", p) for i, p in enumerate(content))
    elif not isinstance(content, str) and not (content is None and role == "assistant"):
        raise wrong_type(f"{name}.content", "a string or a list of text parts", content)
    return {**value, "content": content or ""}


def _text_part(name: str, part: Any) -> str:
    if mapping(name, part).get("type") != "text":
        message = f"{name}.type: only text parts are supported, got {part.get('type')!r}"
        raise Refusal(message, param=f"{name}.type", code="unsupported_parameter")
    return string(f"{name}.text", part.get("text"))


_COMMON = {
    "model": Field(string),
    "max_tokens": Field(integer(0)),
    "min_tokens": Field(integer(0), 0),
    "temperature": Field(number(0.0), 1.0),
    "top_p": Field(number(0.0, 1.0), 1.0),
    "top_k": Field(_top_k, 0),
    "seed": Field(integer(-(2**63), 2**63 - 1)),
    "n": Field(integer(1, 128), 1),
    "stop": Field(_stop, ()),
    "stop_token_ids": Field(sequence(integer(0)), ()),
    "include_stop_str_in_output": Field(boolean, False),
    "ignore_eos": Field(boolean, False),
    "skip_special_tokens": Field(boolean, True),
    "spaces_between_special_tokens": Field(only(True)),
    "prompt_logprobs": Field(integer(0)),
    "stream": Field(boolean, False),
    "stream_options": Field(_stream_options),
    "return_token_ids": Field(boolean, False),
    "return_tokens_as_token_ids": Field(boolean, False),
    "user": Field(ignored),
    "request_id": Field(ignored),
    "presence_penalty": Field(only(0, 0.0)),
    "frequency_penalty": Field(only(0, 0.0)),
    "repetition_penalty": Field(only(1, 1.0)),
    "length_penalty": Field(only(1, 1.0)),
    "min_p": Field(only(0, 0.0)),
    "best_of": Field(only(1)),
    "use_beam_search": Field(only(False)),
    "logit_bias": Field(only({})),
    "bad_words": Field(only([])),
    "allowed_token_ids": Field(only()),
    "truncate_prompt_tokens": Field(only()),
    "response_format": Field(only({"type": "text"})),
    "structured_outputs": Field(only()),
}

COMPLETION = {
    "prompt": Field(_prompts),
    "logprobs": Field(integer(0)),
    "echo": Field(boolean, False),
    "add_special_tokens": Field(boolean, True),
    "suffix": Field(only("")),
    **_COMMON,
}

_CHAT_PROMPT = {
    "messages": Field(sequence(_message)),
    "add_generation_prompt": Field(boolean),
    "continue_final_message": Field(boolean, False),
    "chat_template_kwargs": Field(mapping, {}),
    "chat_template": Field(only()),
    "tools": Field(only([])),
}

CHAT = {
    **_CHAT_PROMPT,
    "max_completion_tokens": Field(integer(1)),
    "logprobs": Field(boolean, False),
    "top_logprobs": Field(integer(0)),
    "add_special_tokens": Field(boolean, False),
    "echo": Field(only(False)),
    "documents": Field(only([])),
    "tool_choice": Field(only("none", "auto")),
    "parallel_tool_calls": Field(ignored),
    "reasoning_effort": Field(only()),
    "include_reasoning": Field(only(True)),
    "modalities": Field(only(["text"])),
    "store": Field(only(False)),
    "metadata": Field(ignored),
    **_COMMON,
}

TOKENIZE = {
    "model": Field(string),
    "prompt": Field(string),
    **_CHAT_PROMPT,
    "add_special_tokens": Field(boolean),
    "return_token_strs": Field(boolean, False),
}

DETOKENIZE = {"model": Field(string), "tokens": Field(sequence(integer(0)))}
