"""What an endpoint makes of the parameters of a request: a few dozen short requests, no statistics.

`observe` records facts, `conformance` judges those of two endpoints. Only fields of OpenAI's API
are sent, so that strict servers answer too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.at_once import all_of
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.chat_reply import completion_tokens, finish_reason, logprobs, parts
from flagdeploy.evals.client import Client, Reply
from flagdeploy.evals.items import Item

OPEN = ("Tell me a short story.", "Count from one to ten in words.", "Write the alphabet.")
OPEN_TOKENS = 32
SHORT = 4  # recorded questions with the shortest replies, for how a reply ends
LONG, LONG_TOKENS = 2, 1024  # and with the longest, but not longer, for a limit nobody asked for
HOT, TIMES = 1.5, 4
FEW = 5  # max_tokens of the probe of max_tokens
OFF_TOP = 0.02  # nats below the most likely token: more than a tie
LONGEST_CONTEXT = 300_000  # tokens; a longer prompt is no cheap request

OFFERS = ("n", "seed", "top_logprobs", "usage", "model", "unknown_model", "max_model_len")

Facts = Mapping[str, Any]


def asked(items: Sequence[Item], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The prompts of a recording: the open ones, and questions whose replies ended by themselves.

    Each a dict of `messages`, `max_tokens` and `ends` (whether it ended at the baseline).
    """
    rows: list[dict[str, Any]] = [
        {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": OPEN_TOKENS,
            "ends": False,
        }
        for text in OPEN
    ]
    ended = sorted(
        (answer.completion_tokens, item.key, item)
        for item, answer in zip(items, answers, strict=True)
        if answer.finish_reason == "stop" and answer.completion_tokens
    )
    short = [(min(item.max_tokens, 4 * tokens + 16), item) for tokens, _, item in ended[:SHORT]]
    rest = [row for row in ended[SHORT:] if row[0] <= LONG_TOKENS]
    long = [(item.max_tokens, item) for _, _, item in rest[-LONG:]]
    for limit, item in [*short, *long]:
        rows.append({"messages": list(item.messages), "max_tokens": limit, "ends": True})
    return rows


async def observe(
    client: Client, capabilities: Capabilities, prompts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What this endpoint makes of every parameter, as plain data for a bundle.

    A fact is None where the endpoint gives no way to tell.
    """
    probe = _Probe(client, capabilities.model)
    top = await probe.most_top_logprobs(prompts[0])
    with_top = {"logprobs": True, "top_logprobs": top} if top else {}
    greedy = await all_of(probe.chat(row, temperature=0, **with_top) for row in prompts)
    open_ = [(row, first) for row, first in zip(prompts, greedy, strict=True) if not row["ends"]]
    again = await all_of(probe.chat(row, temperature=0) for row, _ in open_)
    longest = max(open_, key=lambda pair: completion_tokens(pair[1]) or 0)[0]
    return {
        "asked": [dict(row) for row in prompts],
        "greedy": [
            {
                "text": "".join(parts(reply)),
                "finish_reason": finish_reason(reply),
                "completion_tokens": completion_tokens(reply),
                "off_top": _off_top(reply) if top else None,
            }
            for reply in greedy
        ],
        "repeated": [
            parts(a) == parts(b) for (_, a), b in zip(open_, again, strict=True) if a.body
        ],
        "hot_texts": [await probe.hot_texts(row) for row, _ in open_],
        "narrow": [await probe.narrow(row, first) for row, first in open_],
        "stop": [await probe.stop(row, first) for row, first in open_],
        "max_tokens": await probe.max_tokens(longest),
        "n": await probe.n(prompts[0]),
        "seed": await probe.seed(prompts[0]),
        "top_logprobs": top,
        "usage": all(completion_tokens(reply) is not None for reply in greedy),
        "model": (greedy[0].body or {}).get("model"),
        "unknown_model": await probe.unknown_model(prompts[0]),
        "max_model_len": capabilities.max_model_len,
        "beyond_context": await probe.beyond_context(capabilities.max_model_len),
    }


class _Probe:
    def __init__(self, client: Client, model: str) -> None:
        self.client = client
        self.model = model

    async def chat(self, row: Mapping[str, Any], **fields: Any) -> Reply:
        payload = {
            "model": self.model,
            "messages": row["messages"],
            "max_tokens": row["max_tokens"],
            **fields,
        }
        return await self.client.post("/chat/completions", payload)

    async def most_top_logprobs(self, row: Mapping[str, Any]) -> int:
        for k in (20, 5, 1):
            reply = await self.chat(
                {**row, "max_tokens": 1}, temperature=0, logprobs=True, top_logprobs=k
            )
            if any(entry.get("top_logprobs") for entry in logprobs(reply)):
                return k
        return 0

    async def hot_texts(self, row: Mapping[str, Any]) -> int | None:
        """How many different texts at a high temperature; None where it is refused."""
        replies = await all_of(self.chat(row, temperature=HOT) for _ in range(TIMES))
        return len({parts(reply) for reply in replies if reply.body}) or None

    async def narrow(self, row: Mapping[str, Any], greedy: Reply) -> bool | None:
        """Whether a top_p that leaves one token gives the greedy reply."""
        reply = await self.chat(row, temperature=HOT, top_p=1e-4)
        return parts(reply) == parts(greedy) if reply.body else None

    async def stop(self, row: Mapping[str, Any], greedy: Reply) -> dict[str, Any] | None:
        """``cut`` before the stop string, ``kept`` with it, ``ignored``, or ``other`` text."""
        text = next(filter(None, parts(greedy)), "")
        at = _stop_at(text)
        if at is None:
            return None
        stop = text[at : at + 3]
        reply = await self.chat(row, temperature=0, stop=[stop])
        if reply.body is None:
            return {"outcome": "refused", "finish_reason": None}
        found = "".join(parts(reply))
        outcome = "other"
        if found.rstrip() == text[:at].rstrip():
            outcome = "cut"
        elif stop in found:
            outcome = "kept" if found.endswith(stop) else "ignored"
        return {"outcome": outcome, "finish_reason": finish_reason(reply)}

    async def max_tokens(self, row: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self.chat({**row, "max_tokens": FEW}, temperature=0)
        return {
            "asked": FEW,
            "completion_tokens": completion_tokens(reply),
            "finish_reason": finish_reason(reply),
        }

    async def n(self, row: Mapping[str, Any]) -> int:
        """Choices returned for n=2; 0 where it is refused."""
        reply = await self.chat({**row, "max_tokens": 1}, temperature=1, n=2)
        return len((reply.body or {}).get("choices") or [])

    async def seed(self, row: Mapping[str, Any]) -> str:
        replies = [await self.chat(row, temperature=HOT, seed=7) for _ in range(2)]
        if not all(reply.body for reply in replies):
            return "refused"
        return "repeats" if parts(replies[0]) == parts(replies[1]) else "does not repeat"

    async def unknown_model(self, row: Mapping[str, Any]) -> str:
        payload = {"model": f"{self.model}-not-served", "messages": row["messages"]}
        reply = await self.client.post("/chat/completions", {**payload, "max_tokens": 1})
        return "served" if reply.body else "refused"

    async def beyond_context(self, length: int | None) -> str | None:
        if length is None or length > LONGEST_CONTEXT:
            return None
        payload = {"model": self.model, "prompt": [10] * (length + 1), "max_tokens": 1}
        reply = await self.client.post("/completions", {**payload, "temperature": 0})
        return "served" if reply.body else "refused"


def _off_top(reply: Reply) -> int:
    """Tokens less likely than the most likely one, by the reply's own log-probabilities."""
    return sum(
        entry["logprob"] < max(top["logprob"] for top in entry["top_logprobs"]) - OFF_TOP
        for entry in logprobs(reply)
        if entry.get("top_logprobs")
    )


def _stop_at(text: str) -> int | None:
    """Where three characters begin, in the second half, that `text` does not hold before."""
    for at in range(len(text) // 2, len(text) - 3):
        stop = text[at : at + 3]
        if at and text.find(stop) == at and stop.strip() == stop and "\ufffd" not in stop:
            return at
    return None


def described(facts: Facts) -> list[str]:
    """What an endpoint makes of parameters, in a few lines for a reader."""
    stops = sorted({row["outcome"] for row in known(facts["stop"])})
    limit = facts["max_tokens"]
    offers = {name.replace("_", " "): facts[name] for name in OFFERS}
    return [
        f"temperature 0 repeats {facts['repeated'].count(True)} of {len(facts['repeated'])} "
        f"replies, {HOT} gives {'/'.join(map(str, facts['hot_texts']))} texts of {TIMES}",
        f"stop: {', '.join(stops) or 'unknown'}; max_tokens {limit['asked']}: "
        f"{limit['completion_tokens']} tokens, ends as {limit['finish_reason']}",
        ", ".join(f"{name} {value}" for name, value in offers.items()),
    ]


def known(values: Sequence[Any]) -> list[Any]:
    """Those that the endpoint gave a way to tell."""
    return [value for value in values if value is not None]
