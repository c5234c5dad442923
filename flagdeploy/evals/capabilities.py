"""What an endpoint can do, found by asking, because servers of one protocol differ."""

from dataclasses import asdict, dataclass
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.client import Client, Reply
from flagdeploy.evals.shape import is_scored

TOP_K = (20, 10, 5, 1)  # vLLM's --max-logprobs is 20 unless raised


@dataclass(frozen=True)
class Capabilities:
    """Facts of one endpoint.

    `prompt_logprobs` is the most alternatives per prompt token it returns for a prompt given as
    token ids (0: none). `echo_logprobs` is OpenAI's older form of the same, recorded only.
    """

    model: str
    max_model_len: int | None
    return_token_ids: bool
    prompt_logprobs: int
    echo_logprobs: bool
    version: str | None

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
    return Capabilities(
        model=model,
        max_model_len=card.get("max_model_len"),
        return_token_ids=bool(prompt),
        prompt_logprobs=await _most_prompt_logprobs(client, model, ids),
        echo_logprobs=await _echo_logprobs(client, model, ids),
        version=(version.body or {}).get("version"),
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


async def _most_prompt_logprobs(client: Client, model: str, ids: list[int]) -> int:
    for k in TOP_K:
        reply = await client.post("/completions", scoring_payload(model, ids, k))
        if prompt_logprobs(reply, len(ids)) is not None:
            return k
    return 0


async def _echo_logprobs(client: Client, model: str, ids: list[int]) -> bool:
    payload = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0}
    reply = await client.post("/completions", {**payload, "echo": True, "logprobs": 1})
    choices = (reply.body or {}).get("choices") or [{}]
    scored = (choices[0].get("logprobs") or {}).get("token_logprobs") or []
    return len(scored) >= len(ids)


def scoring_payload(model: str, ids: list[int], k: int) -> dict[str, Any]:
    """The request that scores a prompt of token ids: one new token, k alternatives per position.

    Wire format: vLLM `prompt_logprobs` of /v1/completions (also of this project's server).
    """
    return {
        "model": model,
        "prompt": ids,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": k,
    }


def prompt_logprobs(reply: Reply, length: int) -> list[dict[str, Any] | None] | None:
    """`choices[0].prompt_logprobs` of a reply: `length` entries, the first null; None if absent."""
    if reply.body is None:
        return None
    entries = (reply.body.get("choices") or [{}])[0].get("prompt_logprobs")
    if (
        not isinstance(entries, list)
        or len(entries) != length
        or not all(map(is_scored, entries[1:]))
    ):
        return None
    return entries
