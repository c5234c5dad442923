"""What a request may say: JSON bodies to typed requests. Pure; no model, no HTTP.

Field names and meanings are those of OpenAI's API and of vLLM's additions to it
(`prompt_logprobs`, `return_token_ids`, `return_tokens_as_token_ids`, `ignore_eos`, `min_tokens`,
`stop_token_ids`, `top_k`, `add_special_tokens`, `chat_template_kwargs`, ...). Sampling defaults are
OpenAI's; those of a checkpoint's ``generation_config.json`` are not applied.
"""

from dataclasses import dataclass, field
from typing import Any

from flagdeploy.server.api_fields import CHAT, COMPLETION, DETOKENIZE, TOKENIZE, Prompt
from flagdeploy.server.fields import read
from flagdeploy.server.refusal import Refusal


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one sequence is generated.

    `temperature` 0 is greedy; `top_k` 0 is off. `logprobs` and `prompt_logprobs` are the number of
    most likely tokens reported beside the token itself, None for no report; both are natural-log
    probabilities of the raw logits, before temperature, `top_k` and `top_p`.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the answer looks like; `prompt_logprobs` as asked for in so many words (see `echo`)."""

    n: int = 1
    stream: bool = False
    include_usage: bool = False
    return_token_ids: bool = False
    tokens_as_ids: bool = False
    echo: bool = False
    prompt_logprobs: int | None = None


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    model: str | None
    prompts: tuple[Prompt, ...]
    add_special_tokens: bool
    sampling: Sampling
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class ChatPrompt:
    messages: tuple[dict[str, Any], ...]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    model: str | None
    prompt: ChatPrompt
    sampling: Sampling
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class TokenizeRequest:
    model: str | None
    prompt: str | ChatPrompt
    add_special_tokens: bool
    return_token_strs: bool


@dataclass(frozen=True, kw_only=True)
class DetokenizeRequest:
    model: str | None
    tokens: tuple[int, ...]


def completion_request(body: Any, max_logprobs: int) -> CompletionRequest:
    """``POST /v1/completions``; `max_logprobs` bounds `logprobs` and `prompt_logprobs`."""
    values = read(body, COMPLETION)
    _required(values, "prompt")
    echo, shape = values["echo"], _shape(values, echo=values["echo"])
    if echo and values["logprobs"] is not None:  # the prompt is part of the text reported on
        values["prompt_logprobs"] = max(values["logprobs"], values["prompt_logprobs"] or 0)
    if values["max_tokens"] is None:
        values["max_tokens"] = 16
    return CompletionRequest(
        model=values["model"],
        prompts=values["prompt"],
        add_special_tokens=values["add_special_tokens"],
        sampling=_sampling(values, max_logprobs, scoring=echo),
        shape=shape,
    )


def chat_request(body: Any, max_logprobs: int) -> ChatRequest:
    """``POST /v1/chat/completions``."""
    values = read(body, CHAT)
    if values["top_logprobs"] is not None and not values["logprobs"]:
        raise Refusal("top_logprobs: needs logprobs to be true", param="top_logprobs")
    values["logprobs"] = (values["top_logprobs"] or 0) if values["logprobs"] else None
    if values["max_completion_tokens"] is not None:
        values["max_tokens"] = values["max_completion_tokens"]
    return ChatRequest(
        model=values["model"],
        prompt=_chat_prompt(values),
        sampling=_sampling(values, max_logprobs, top="top_logprobs"),
        shape=_shape(values),
    )


def tokenize_request(body: Any) -> TokenizeRequest:
    """``POST /tokenize``: either `prompt` or `messages`."""
    values = read(body, TOKENIZE)
    if (values["prompt"] is None) == (values["messages"] is None):
        raise Refusal("prompt: give either prompt or messages", param="prompt")
    chat = values["messages"] is not None
    add_special_tokens = values["add_special_tokens"]
    return TokenizeRequest(
        model=values["model"],
        prompt=_chat_prompt(values) if chat else values["prompt"],
        add_special_tokens=not chat if add_special_tokens is None else add_special_tokens,
        return_token_strs=values["return_token_strs"],
    )


def detokenize_request(body: Any) -> DetokenizeRequest:
    """``POST /detokenize``."""
    values = read(body, DETOKENIZE)
    _required(values, "tokens")
    return DetokenizeRequest(model=values["model"], tokens=values["tokens"])


def _chat_prompt(values: dict[str, Any]) -> ChatPrompt:
    _required(values, "messages")
    if not values["messages"]:
        raise Refusal("messages: must not be empty", param="messages")
    generation, final = values["add_generation_prompt"], values["continue_final_message"]
    if generation and final:
        raise Refusal(
            "continue_final_message: not together with add_generation_prompt",
            param="continue_final_message",
        )
    return ChatPrompt(
        messages=values["messages"],
        add_generation_prompt=not final if generation is None else generation,
        continue_final_message=final,
        add_special_tokens=bool(values["add_special_tokens"]),
        template_kwargs=values["chat_template_kwargs"],
    )


def _sampling(
    values: dict[str, Any], max_logprobs: int, *, scoring: bool = False, top: str = "logprobs"
) -> Sampling:
    for value, name in ((values["logprobs"], top), (values["prompt_logprobs"], "prompt_logprobs")):
        if value is not None and value > max_logprobs:
            message = f"{name}: at most {max_logprobs} (the server's --max-logprobs), got {value}"
            raise Refusal(message, param=name)
    maximum, minimum = values["max_tokens"], values["min_tokens"]
    if maximum == 0 and not scoring and values["prompt_logprobs"] is None:
        message = "max_tokens: 0 is only allowed with echo or prompt_logprobs"
        raise Refusal(message, param="max_tokens")
    if maximum is not None and minimum > maximum:
        message = f"min_tokens: must be at most max_tokens={maximum}, got {minimum}"
        raise Refusal(message, param="min_tokens")
    return Sampling(**{name: values[name] for name in Sampling.__dataclass_fields__})


def _shape(values: dict[str, Any], *, echo: bool = False) -> Shape:
    options = values["stream_options"]
    if options is not None and not values["stream"]:
        raise Refusal("stream_options: needs stream to be true", param="stream_options")
    if values["stream"] and values["prompt_logprobs"] is not None:
        raise Refusal("prompt_logprobs: not available with stream", param="prompt_logprobs")
    return Shape(
        n=values["n"],
        stream=values["stream"],
        include_usage=bool(options and options["include_usage"]),
        return_token_ids=values["return_token_ids"],
        tokens_as_ids=values["return_tokens_as_token_ids"],
        echo=echo,
        prompt_logprobs=values["prompt_logprobs"],
    )


def _required(values: dict[str, Any], name: str) -> None:
    if values[name] is None:
        raise Refusal(f"{name}: required", param=name, code="missing_required_parameter")
