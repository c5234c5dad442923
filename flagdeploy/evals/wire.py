"""The requests that score tokens, one form per kind of server, and how to read their answers. Pure.

A form scores a prompt (`SCORING`: one position per prompt token, in one prefill) or the tokens
that follow it (`DECODING`). Prompts are always token ids, and so are the alternatives read:
a table keyed by text merges ids that decode alike. Where a server names alternatives by text
only (`own_ids`), just the generated token counts.

Sources: vLLM docs/serving/openai_compatible_server and vllm/entrypoints/openai/protocol.py
(`prompt_logprobs`, `return_tokens_as_token_ids`, `return_token_ids`); SGLang
python/sglang/srt/managers/io_struct.py (`GenerateReqInput`) and its native API documentation;
TensorRT-LLM tensorrt_llm/serve/openai_protocol.py (`detokenize`, ``extra="forbid"``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flagdeploy.evals.shape import is_scored

NOT_GIVEN = float("nan")
PREFIX = "token_id:"
Row = tuple[int, float, dict[int, float]]
"""A token, its log-probability in nats, and alternatives (id to nats) with it among them."""


@dataclass(frozen=True)
class Form:
    """`path` lies under /v1, or beside it. `payload(model, ids, k, tokens)` and
    `read(body, ids)`: one row per position, None where the answer has another shape."""

    name: str
    path: str
    payload: Callable[[str, Sequence[int], int, int], dict[str, Any]]
    rows: Callable[[dict[str, Any], Sequence[int]], list[Row]]
    beside: bool = False

    def read(self, body: dict[str, Any] | None, ids: Sequence[int]) -> list[Row] | None:
        if body is None:
            return None
        try:
            return self.rows(body, ids)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None


def _completion(model: str, ids: Sequence[int], tokens: int, **fields: Any) -> dict[str, Any]:
    known = {"model": model, "prompt": list(ids), "max_tokens": tokens, "temperature": 0}
    return {**known, **fields}


def _nats(value: Any) -> float:
    return NOT_GIVEN if value is None else float(value)


def _row(token: int, logprob: Any, top: dict[int, float]) -> Row:
    return token, _nats(logprob), {**top, token: _nats(logprob)}


# --- scoring a prompt; the first token, which nothing precedes, has no row -----------------------


def _prompt_payload(model: str, ids: Sequence[int], k: int, tokens: int) -> dict[str, Any]:
    return _completion(model, ids, 1, prompt_logprobs=k)


def _prompt_rows(body: dict[str, Any], ids: Sequence[int]) -> list[Row]:
    """vLLM: [null, {"id": {"logprob": x, "rank": r}}, ...]; -9999 stands for minus infinity."""
    entries = body["choices"][0]["prompt_logprobs"]
    if not all(map(is_scored, entries[1:])):
        raise ValueError(entries)
    rows = []
    for token, entry in zip(ids[1:], entries[1:], strict=True):
        top = {int(id_): _nats(row["logprob"]) for id_, row in entry.items()}
        rows.append((token, top.get(token, NOT_GIVEN), top))
    return rows


def _echo_payload(model: str, ids: Sequence[int], k: int, tokens: int) -> dict[str, Any]:
    return _completion(model, ids, 1, echo=True, logprobs=k, return_tokens_as_token_ids=True)


def _echo_rows(body: dict[str, Any], ids: Sequence[int]) -> list[Row]:
    """OpenAI's `logprobs` over the prompt and one new token, its tokens ``token_id:N``."""
    logprobs = body["choices"][0]["logprobs"]
    tokens = [_id(label) for label in logprobs["tokens"][: len(ids)]]
    if tokens != list(ids):
        raise ValueError(tokens)
    return _labelled(logprobs, slice(1, len(ids)))


def _labelled(logprobs: dict[str, Any], part: slice) -> list[Row]:
    return [
        _row(_id(token), logprob, {_id(label): _nats(value) for label, value in top.items()})
        for token, logprob, top in zip(
            logprobs["tokens"][part],
            logprobs["token_logprobs"][part],
            logprobs["top_logprobs"][part],
            strict=True,
        )
    ]


def _id(label: str) -> int:
    if not label.startswith(PREFIX):
        raise ValueError(label)
    return int(label.removeprefix(PREFIX))


def _native_payload(model: str, ids: Sequence[int], k: int, tokens: int) -> dict[str, Any]:
    return {
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": k,
    }


def _native_rows(body: dict[str, Any], ids: Sequence[int]) -> list[Row]:
    """SGLang: [[nats, id, text], ...] and per position the same for the likeliest."""
    meta = body["meta_info"]
    rows = _native(meta["input_token_logprobs"][1:], meta["input_top_logprobs"][1:])
    if [token for token, _, _ in rows] != list(ids[1:]):
        raise ValueError(rows)
    return rows


def _native(tokens: list[Any], tops: list[Any]) -> list[Row]:
    return [
        _row(int(token[1]), token[0], {int(entry[1]): _nats(entry[0]) for entry in top})
        for token, top in zip(tokens, tops, strict=True)
    ]


SCORING = (
    Form("prompt_logprobs", "/completions", _prompt_payload, _prompt_rows),
    Form("echo", "/completions", _echo_payload, _echo_rows),
    Form("generate", "/generate", _native_payload, _native_rows, beside=True),
)


# --- scoring what follows a prompt, greedily -----------------------------------------------------


def _next_payload(model: str, ids: Sequence[int], k: int, tokens: int) -> dict[str, Any]:
    return _completion(model, ids, tokens, logprobs=k, return_tokens_as_token_ids=True)


def _next_rows(body: dict[str, Any], ids: Sequence[int]) -> list[Row]:
    return _labelled(body["choices"][0]["logprobs"], slice(None))


def _native_next_payload(model: str, ids: Sequence[int], k: int, tokens: int) -> dict[str, Any]:
    return {
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": tokens, "temperature": 0},
        "return_logprob": True,
        "top_logprobs_num": k,
    }


def _native_next_rows(body: dict[str, Any], ids: Sequence[int]) -> list[Row]:
    meta = body["meta_info"]
    return _native(meta["output_token_logprobs"], meta["output_top_logprobs"])


def _own_payload(field: str) -> Callable[[str, Sequence[int], int, int], dict[str, Any]]:
    def payload(model: str, ids: Sequence[int], k: int, tokens: int) -> dict[str, Any]:
        wanted = {"return_token_ids": True} if field == "return_token_ids" else {field: False}
        return _completion(model, ids, tokens, logprobs=1, **wanted)

    return payload


def _own_rows(body: dict[str, Any], ids: Sequence[int]) -> list[Row]:
    choice = body["choices"][0]
    pairs = zip(choice["token_ids"], choice["logprobs"]["token_logprobs"], strict=True)
    return [_row(int(token), logprob, {}) for token, logprob in pairs]


DECODING = (
    Form("completions", "/completions", _next_payload, _next_rows),
    Form("generate", "/generate", _native_next_payload, _native_next_rows, beside=True),
    Form("return_token_ids", "/completions", _own_payload("return_token_ids"), _own_rows),
    Form("detokenize", "/completions", _own_payload("detokenize"), _own_rows),
)
OWN_IDS = ("return_token_ids", "detokenize")  # alternatives are known by text only


def with_ignored_eos(form: Form, payload: dict[str, Any]) -> dict[str, Any]:
    """`payload` that goes on past an end token: `ignore_eos` of vLLM, SGLang and TensorRT-LLM."""
    if form.beside:
        return {**payload, "sampling_params": {**payload["sampling_params"], "ignore_eos": True}}
    return {**payload, "ignore_eos": True}
