"""Servers of one model that speak different dialects of one protocol, after their sources.

====== ============ ==============================================================================
vllm                `prompt_logprobs` of a prompt, ids as ``token_id:N`` or beside the text
echo                OpenAI's older form: echo and logprobs, ids as ``token_id:N``
sglang              its own /generate; what /v1 says of tokens is text
trtllm              refuses every field it does not know; `detokenize` false gives ids
single              log-probabilities of the first new token only, and no way past an end
text                log-probabilities of texts and no ids: nothing that can be compared
====== ============ ==============================================================================
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from evals.stub_endpoint import Stub

END = 0
SAME_TEXT = (5, 6)  # two ids that decode alike
Model = Callable[[tuple[int, ...]], dict[int, float]]

OPENAI = {"model", "prompt", "max_tokens", "temperature", "logprobs", "echo", "messages", "stop"}
KNOWN = {
    "vllm": OPENAI
    | {"prompt_logprobs", "return_tokens_as_token_ids", "return_token_ids", "ignore_eos"},
    "echo": OPENAI | {"return_tokens_as_token_ids", "ignore_eos"},
    "sglang": OPENAI | {"ignore_eos", "input_ids"},
    "trtllm": OPENAI | {"detokenize", "ignore_eos"},
    "single": OPENAI | {"return_tokens_as_token_ids"},
    "text": OPENAI,
}


def drawn(seed: int = 0, noise: float = 0.0, vocabulary: int = 40) -> Model:
    """A model of `vocabulary` tokens whose logits are drawn anew for every prefix."""

    def logprobs(prefix: tuple[int, ...]) -> dict[int, float]:
        digest = hashlib.sha256(f"{seed} {prefix}".encode()).digest()
        rng = random.Random(digest)
        own = random.Random(digest + b"noise")
        logits = [rng.gauss(0, 2.5) + noise * own.gauss(0, 1) for _ in range(vocabulary)]
        total = math.log(math.fsum(map(math.exp, logits)))
        return {token: logit - total for token, logit in enumerate(logits)}

    return logprobs


def greedy(model: Model, prompt: Sequence[int], tokens: int) -> tuple[int, ...]:
    found: list[int] = []
    for _ in range(tokens):
        logprobs = model((*prompt, *found))
        found.append(max(logprobs, key=lambda token: logprobs[token]))
    return tuple(found)


def text_of(token: int) -> str:
    return "same" if token in SAME_TEXT else f"<{token}>"


@dataclass
class Dialect(Stub):
    """`cap` is the server's --max-logprobs, `refused` counts requests with an unknown field."""

    dialect: str = "vllm"
    tokens: Model = drawn()
    cap: int = 20
    refused: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return self.get(request)
        body = await request.json()
        native = request.path == "/generate"
        wrong = native and self.dialect != "sglang"
        wrong |= not native and bool(body.keys() - KNOWN[self.dialect])
        most = body.get("logprobs") or body.get("prompt_logprobs") or 0
        if wrong or (not isinstance(most, bool) and most > self.cap):
            self.refused += 1
            return web.json_response({"error": "extra inputs are not permitted"}, status=400)
        if native:
            self.seen.append(body)
            return web.json_response(self.generate(body))
        return await super().handle(request)

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, k = body["prompt"], body.get("logprobs")
        new = self.decode(prompt, body["max_tokens"], bool(body.get("ignore_eos")))
        choice: dict[str, Any] = {"text": "".join(map(text_of, new)), "finish_reason": "length"}
        if body.get("prompt_logprobs"):
            choice["prompt_logprobs"] = [
                None,
                *(self.ranked(prompt, at, body["prompt_logprobs"]) for at in range(1, len(prompt))),
            ]
        if k is not None:
            ids = [*prompt, *new]
            echoed = bool(body.get("echo")) and self.dialect in ("vllm", "echo")
            first = 0 if echoed else len(prompt)
            last = len(prompt) + len(new[:1] if self.dialect == "single" else new)
            choice["logprobs"] = self.table(ids, range(first, last), k, body)
        if body.get("return_token_ids") or body.get("detokenize") is False:
            choice["token_ids"] = new
        return {"choices": [choice], "usage": {}}

    def decode(self, prompt: Sequence[int], tokens: int, past_end: bool) -> list[int]:
        found = greedy(self.tokens, prompt, tokens)
        if END in found and not past_end:
            found = found[: found.index(END)]  # the end token is not shown
        return list(found)

    def top(self, ids: Sequence[int], at: int, k: int) -> dict[int, float]:
        """The k likeliest at position `at`, and the token that stands there."""
        logprobs = self.tokens(tuple(ids[:at]))
        likeliest = sorted(logprobs, key=lambda token: -logprobs[token])[:k]
        return {token: logprobs.get(token, -30.0) for token in (*likeliest, ids[at])}

    def ranked(self, ids: Sequence[int], at: int, k: int) -> dict[str, Any]:
        return {str(id_): {"logprob": nats} for id_, nats in self.top(ids, at, k).items()}

    def table(
        self, ids: Sequence[int], places: range, k: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        as_ids = body.get("return_tokens_as_token_ids")

        def label(token: int) -> str:
            return f"token_id:{token}" if as_ids else text_of(token)

        tops = [self.top(ids, at, k) if at else None for at in places]
        return {
            "tokens": [label(ids[at]) for at in places],
            "token_logprobs": [top and top[ids[at]] for top, at in zip(tops, places, strict=True)],
            "top_logprobs": [top and {label(t): x for t, x in top.items()} for top in tops],
        }

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, asked = body["input_ids"], body["sampling_params"]
        new = self.decode(prompt, asked["max_new_tokens"], bool(asked.get("ignore_eos")))
        ids, k = [*prompt, *new], body["top_logprobs_num"]
        rows = [self.rows(ids, at, k) for at in range(1, len(ids))]
        split = len(prompt) - 1
        meta: dict[str, Any] = {
            "output_token_logprobs": [row[0] for row in rows[split:]],
            "output_top_logprobs": [row[1] for row in rows[split:]],
        }
        if body.get("logprob_start_len") == 0:
            meta["input_token_logprobs"] = [[None, ids[0], None], *(r[0] for r in rows[:split])]
            meta["input_top_logprobs"] = [None, *(row[1] for row in rows[:split])]
        return {"text": "", "meta_info": meta}

    def rows(self, ids: Sequence[int], at: int, k: int) -> tuple[list[Any], list[Any]]:
        logprobs = self.top(ids, at, k)
        best = sorted(logprobs, key=lambda token: -logprobs[token])[:k]
        return [logprobs[ids[at]], ids[at], None], [[logprobs[t], t, None] for t in best]
