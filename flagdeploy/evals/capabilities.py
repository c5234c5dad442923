"""What an endpoint can do, found by asking, because servers of one protocol differ."""

from dataclasses import asdict, dataclass
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.client import Client, Reply
from flagdeploy.evals.wire import DECODING, OWN_IDS, SCORING, Form, with_ignored_eos

TOP_K = (20, 10, 5, 1)  # vLLM's --max-logprobs is 20 unless raised
DECODED = 4  # tokens asked for to see whether decoded ones come with log-probabilities


@dataclass(frozen=True)
class Capabilities:
    """Facts of one endpoint.

    `prompt_logprobs` is the most alternatives per prompt token it returns for a prompt given as
    token ids (0: none), `scoring` the form that gets them (`wire.SCORING`). `logprobs` and
    `decoding` (`wire.DECODING`) are the same for tokens that follow the prompt; `decodes` whether
    for more than one of them, `ignore_eos` whether also past an end token. `echo_logprobs`:
    OpenAI's older form of prompt log-probabilities is answered.
    """

    model: str
    max_model_len: int | None
    return_token_ids: bool
    prompt_logprobs: int
    echo_logprobs: bool
    version: str | None
    scoring: str = ""
    decoding: str = ""
    logprobs: int = 0
    decodes: bool = False
    ignore_eos: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        """How its tokens can be scored, the best first: S, D, P of `scoring`."""
        able = {"S": self.scoring, "D": self.decoding and self.decodes, "P": self.decoding}
        return tuple(mode for mode, can in able.items() if can)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


async def probe(client: Client) -> Capabilities:
    """Ask `client`'s endpoint; raise EvalError when it serves no model or not the wanted one."""
    listed = await client.get("/models")
    card = _served(client, listed)
    model = str(card["id"])
    chat = await client.post(
        "/chat/completions",
        {
            "model": model,
            "messages": [{"role": "user", "content": "1+1="}],
            "max_tokens": 1,
            "temperature": 0,
            "return_token_ids": True,
        },
    )
    if chat.status in ("error", "timeout"):
        what = (chat.error or "").splitlines()[0][:200]
        raise EvalError(
            f"{client.base} lists {model}, but does not answer a chat: {what}",
            "look at `flagdeploy status` and `flagdeploy logs`",
        )
    prompt = (chat.body or {}).get("prompt_token_ids")
    ids = prompt or [1, 2]
    version = await client.get_beside("/version")
    scoring, most = await _scoring(client, model, ids)
    decoding = await _decoding(client, model, ids)
    return Capabilities(
        model=model,
        max_model_len=card.get("max_model_len"),
        return_token_ids=bool(prompt),
        prompt_logprobs=most,
        echo_logprobs=await _echo_logprobs(client, model, ids),
        version=(version.body or {}).get("version"),
        scoring=scoring,
        **decoding,
    )


def _served(client: Client, listed: Reply) -> dict[str, Any]:
    if listed.body is None:
        raise _not_served(client, listed)
    cards = _cards(listed.body)
    wanted = client.endpoint.model
    if wanted is None and cards:
        return next(iter(cards.values()))
    if wanted is None or wanted not in cards:
        raise EvalError(
            f"{client.base} serves {', '.join(cards) or 'no model'}, not {wanted or 'any'}",
            hint="a stale server on the same port, or another served_model_name?",
        )
    return cards[wanted]


def _not_served(client: Client, listed: Reply) -> EvalError:
    if listed.http is None:
        return EvalError(
            f"{client.base}/models does not answer: {listed.error}",
            hint="is the deployment running? `flagdeploy status` shows it",
        )
    what = (listed.error or "").splitlines()[0][:200]
    hint = "is this the URL of an OpenAI-compatible endpoint?"
    if listed.http in (401, 403):
        hint = "give its key in FLAGDEPLOY_API_KEY"
    return EvalError(f"{client.base}/models answers {what}", hint)


def _cards(body: Any) -> dict[str, dict[str, Any]]:
    """Models by name; none where the answer is no list of models at all."""
    rows = body.get("data") if isinstance(body, dict) else None
    models = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {str(model["id"]): model for model in models if "id" in model}


async def _scoring(client: Client, model: str, ids: list[int]) -> tuple[str, int]:
    """The first form that scores a prompt, and the most alternatives it gives."""
    for form in SCORING:
        for k in TOP_K:
            reply = await send(client, form, form.payload(model, ids, k, 1))
            if form.read(reply.body, ids) is not None:
                return form.name, k
            if reply.status != "refused":  # neither fewer alternatives will help it
                break
    return "", 0


async def _decoding(client: Client, model: str, ids: list[int]) -> dict[str, Any]:
    """The first form that scores following tokens; a form that gives just one comes last."""
    single: dict[str, Any] = {}
    for form in DECODING:
        for k in TOP_K[-1:] if form.name in OWN_IDS else TOP_K:
            for ignored in (True, False):
                payload = form.payload(model, ids, k, DECODED)
                payload = with_ignored_eos(form, payload) if ignored else payload
                rows = form.read((await send(client, form, payload)).body, ids)
                if not rows:
                    continue
                found = {"decoding": form.name, "logprobs": k, "ignore_eos": ignored}
                if len(rows) > 1:
                    return {**found, "decodes": True}
                single = single or found
    return single


async def _echo_logprobs(client: Client, model: str, ids: list[int]) -> bool:
    payload = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0}
    reply = await client.post("/completions", {**payload, "echo": True, "logprobs": 1})
    choices = (reply.body or {}).get("choices") or [{}]
    scored = (choices[0].get("logprobs") or {}).get("token_logprobs") or []
    return len(scored) >= len(ids)


async def send(client: Client, form: Form, payload: dict[str, Any]) -> Reply:
    post = client.post_beside if form.beside else client.post
    return await post(form.path, payload)
