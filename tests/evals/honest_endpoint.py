"""A stub that does what requests ask of it, and ways not to: one for each fault of a deployment.

Its tokens are characters, as those of `Stub`; the last of a reply that ends is `END`.
"""

import random
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from evals.stub_endpoint import Stub

END = "\x00"
STORY = "Once upon a time there was a model that did as it was told, and it lived happily."


@dataclass
class Honest(Stub):
    """`ignores` are parameters without effect. `always`: the temperature of every request.
    `end`: ``late`` goes on after the end of a reply, ``early`` ends at the first space.
    `keeps_stop`: replies hold the stop string that cut them. `offers` are optional parameters that
    are not refused; `context` in tokens, beyond which a prompt is refused unless `truncates`;
    `most_tokens` of a reply, whatever was asked.
    """

    ignores: frozenset[str] = frozenset()
    always: float | None = None
    end: str = ""
    keeps_stop: bool = False
    stop_reason: str = "stop"
    offers: frozenset[str] = frozenset({"n", "seed", "logprobs"})
    context: int = 4096
    most_tokens: int = 10**6
    truncates: bool = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            body = await request.json()
            if body.get("model") != self.model:
                return web.json_response({"error": "no such model"}, status=404)
            refused = {"n", "seed", "logprobs"} - self.offers
            long = len(body.get("prompt", ())) + body["max_tokens"] > self.context
            if refused & body.keys() or (long and not self.truncates):
                return web.json_response({"error": "refused"}, status=400)
        return await super().handle(request)

    def get(self, request: web.Request) -> web.Response:
        if request.path == "/version":
            return super().get(request)
        card = {"id": self.model, "max_model_len": self.context}
        return web.json_response({"data": [card]})

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = {key: value for key, value in body.items() if key not in self.ignores}
        texts = [self.text(asked) for _ in range(asked.get("n", 1))]
        answer = super().chat(body)
        answer["model"] = self.model
        answer["choices"] = [self.choice(asked, *text) for text in texts]
        answer["usage"]["completion_tokens"] = len(texts[0][0])
        return answer

    def text(self, asked: dict[str, Any]) -> tuple[str, str, int]:
        """Text, finish reason, and how many characters are not the likeliest ones."""
        content = asked["messages"][-1]["content"]
        text = self.reply(content)
        if self.end == "early":
            text = text.split(" ")[0]
        if self.end == "late":
            text += " And so on, and so on, for ever and ever."
        hot = self.always if self.always is not None else asked.get("temperature", 1.0)
        changed = 0
        if hot and asked.get("top_p", 1.0) > 0.01:
            rng = random.Random(asked.get("seed"))
            places = [at for at in range(len(text)) if rng.random() < 0.2 * hot]
            changed = len(places)
            text = "".join("#" if at in places else c for at, c in enumerate(text))
            text = text[:1] + rng.choice("abcdefgh") + text[1:]
        finish = "stop"
        for stop in asked.get("stop", ()):
            if stop in text:
                text = text[: text.index(stop) + (len(stop) if self.keeps_stop else 0)]
                finish = self.stop_reason
        limit = min(self.most_tokens, asked.get("max_tokens", 10**6))
        if len(text) > limit:
            return text[:limit], "length", changed
        return text, finish, changed

    def choice(self, asked: dict[str, Any], text: str, finish: str, changed: int) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish,
            "token_ids": list(map(ord, text)),
        }
        if asked.get("logprobs"):
            choice["logprobs"] = {
                "content": [
                    {
                        "token": c,
                        "logprob": -3.0 if at < changed else -0.1,
                        "top_logprobs": [{"token": "x", "logprob": -0.1}],
                    }
                    for at, c in enumerate(text)
                ]
            }
        return choice
