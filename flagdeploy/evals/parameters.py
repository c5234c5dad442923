"""Does an endpoint do what a request asks of it? A few dozen short requests, no statistics.

`observe` records facts, `compared` judges those of two endpoints. What changes the replies a user
gets fails: temperature or top_p ignored, tokens at temperature 0 that were not the most likely,
stop strings or max_tokens not kept, replies that go on past their end or stop before it. Engines
may differ in what they offer (`n`, seeds, log-probabilities, the context length, whether an
unknown model is refused): that is listed and not judged, with two exceptions that are DIFFERENT: a
prompt beyond the context that is served instead of refused was cut silently, and a context in
which the baseline's own replies do not fit serves less of the model. Only fields of OpenAI's API
are sent, so that strict servers answer too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flagdeploy.evals.answers import Answer
from flagdeploy.evals.at_once import all_of
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.client import Client, Reply
from flagdeploy.evals.items import Item
from flagdeploy.evals.verdict import Finding, Verdict

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
    longest = max(open_, key=lambda pair: _completion_tokens(pair[1]) or 0)[0]
    return {
        "asked": [dict(row) for row in prompts],
        "greedy": [
            {
                "text": "".join(_parts(reply)),
                "finish_reason": _finish(reply),
                "completion_tokens": _completion_tokens(reply),
                "off_top": _off_top(reply) if top else None,
            }
            for reply in greedy
        ],
        "repeated": [
            _parts(a) == _parts(b) for (_, a), b in zip(open_, again, strict=True) if a.body
        ],
        "hot_texts": [await probe.hot_texts(row) for row, _ in open_],
        "narrow": [await probe.narrow(row, first) for row, first in open_],
        "stop": [await probe.stop(row, first) for row, first in open_],
        "max_tokens": await probe.max_tokens(longest),
        "n": await probe.n(prompts[0]),
        "seed": await probe.seed(prompts[0]),
        "top_logprobs": top,
        "usage": all(_completion_tokens(reply) is not None for reply in greedy),
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
            if any(entry.get("top_logprobs") for entry in _content_logprobs(reply)):
                return k
        return 0

    async def hot_texts(self, row: Mapping[str, Any]) -> int | None:
        """How many different texts at a high temperature; None where it is refused."""
        replies = await all_of(self.chat(row, temperature=HOT) for _ in range(TIMES))
        return len({_parts(reply) for reply in replies if reply.body}) or None

    async def narrow(self, row: Mapping[str, Any], greedy: Reply) -> bool | None:
        """Whether a top_p that leaves one token gives the greedy reply."""
        reply = await self.chat(row, temperature=HOT, top_p=1e-4)
        return _parts(reply) == _parts(greedy) if reply.body else None

    async def stop(self, row: Mapping[str, Any], greedy: Reply) -> dict[str, Any] | None:
        """``cut`` before the stop string, ``kept`` with it, ``ignored``, or ``other`` text."""
        text = next(filter(None, _parts(greedy)), "")
        at = _stop_at(text)
        if at is None:
            return None
        stop = text[at : at + 3]
        reply = await self.chat(row, temperature=0, stop=[stop])
        if reply.body is None:
            return {"outcome": "refused", "finish_reason": None}
        found = "".join(_parts(reply))
        outcome = "other"
        if found.rstrip() == text[:at].rstrip():
            outcome = "cut"
        elif stop in found:
            outcome = "kept" if found.endswith(stop) else "ignored"
        return {"outcome": outcome, "finish_reason": _finish(reply)}

    async def max_tokens(self, row: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self.chat({**row, "max_tokens": FEW}, temperature=0)
        return {
            "asked": FEW,
            "completion_tokens": _completion_tokens(reply),
            "finish_reason": _finish(reply),
        }

    async def n(self, row: Mapping[str, Any]) -> int:
        """Choices returned for n=2; 0 where it is refused."""
        reply = await self.chat({**row, "max_tokens": 1}, temperature=1, n=2)
        return len((reply.body or {}).get("choices") or [])

    async def seed(self, row: Mapping[str, Any]) -> str:
        replies = [await self.chat(row, temperature=HOT, seed=7) for _ in range(2)]
        if not all(reply.body for reply in replies):
            return "refused"
        return "repeats" if _parts(replies[0]) == _parts(replies[1]) else "does not repeat"

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


def _choice(reply: Reply) -> dict[str, Any]:
    choice: dict[str, Any] = ((reply.body or {}).get("choices") or [{}])[0]
    return choice


def _parts(reply: Reply) -> tuple[str, str]:
    """Thoughts and answer, wherever a reasoning parser put the thoughts."""
    message = _choice(reply).get("message") or {}
    thoughts = message.get("reasoning") or message.get("reasoning_content") or ""
    return thoughts, message.get("content") or ""


def _finish(reply: Reply) -> str | None:
    return _choice(reply).get("finish_reason")


def _completion_tokens(reply: Reply) -> int | None:
    return ((reply.body or {}).get("usage") or {}).get("completion_tokens")


def _content_logprobs(reply: Reply) -> list[dict[str, Any]]:
    return (_choice(reply).get("logprobs") or {}).get("content") or []


def _off_top(reply: Reply) -> int:
    """Tokens less likely than the most likely one, by the reply's own log-probabilities."""
    return sum(
        entry["logprob"] < max(top["logprob"] for top in entry["top_logprobs"]) - OFF_TOP
        for entry in _content_logprobs(reply)
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
    stops = sorted({row["outcome"] for row in _known(facts["stop"])})
    limit = facts["max_tokens"]
    offers = {name.replace("_", " "): facts[name] for name in OFFERS}
    return [
        f"temperature 0 repeats {facts['repeated'].count(True)} of {len(facts['repeated'])} "
        f"replies, {HOT} gives {'/'.join(map(str, facts['hot_texts']))} texts of {TIMES}",
        f"stop: {', '.join(stops) or 'unknown'}; max_tokens {limit['asked']}: "
        f"{limit['completion_tokens']} tokens, ends as {limit['finish_reason']}",
        ", ".join(f"{name} {value}" for name, value in offers.items()),
    ]


def compared(a: Facts, b: Facts) -> list[Finding]:
    """`a` of the baseline, `b` of the candidate: one required finding, one that only informs."""
    broken = [line for rule in (_temperature, _top_p, _stops, _limit, _ends) for line in rule(a, b)]
    cut = _context(a, b)
    others = [f"{name} {b[name]} (baseline {a[name]})" for name in OFFERS if a[name] != b[name]]
    test, n = "exact comparison of what requests ask for and get", 5
    if broken or cut:
        verdict = Verdict.FAIL if broken else Verdict.DIFFERENT
        sentence = "; ".join([*broken, *cut])
    else:
        verdict = Verdict.PASS
        sentence = "temperature, top_p, stop, max_tokens and the end of a reply work alike"
    findings = [Finding("parameters", verdict, sentence, required=True, test=test, n=n)]
    if others:
        sentence = f"offered otherwise: {', '.join(others)}"
        findings.append(Finding("what the endpoint offers", Verdict.INFO, sentence))
    return findings


def _temperature(a: Facts, b: Facts) -> list[str]:
    lines = []
    hot_a, hot_b = _known(a["hot_texts"]), _known(b["hot_texts"])
    if hot_b and max(hot_b) == 1 and max(hot_a, default=0) >= TIMES - 1:
        lines.append(
            f"temperature is ignored: {len(hot_b)} prompts, each asked {TIMES} times at {HOT}, "
            "always get the same reply"
        )
    off_a, off_b = (_known([row["off_top"] for row in x["greedy"]]) for x in (a, b))
    # Where log-probabilities tell, a reply that changes without any is rounding.
    if off_b and sum(off_b) >= 2 and sum(off_a) == 0:
        lines.append(
            f"at temperature 0 {sum(off_b)} tokens are not the most likely ones: "
            "sampled, or drafts accepted unchecked"
        )
    elif not off_b and all(a["repeated"]) and sum(b["repeated"]) * 2 < len(b["repeated"]):
        lines.append(
            f"at temperature 0 {b['repeated'].count(False)} of {len(b['repeated'])} prompts get "
            "another reply when asked again"
        )
    return lines


def _top_p(a: Facts, b: Facts) -> list[str]:
    narrow_a, narrow_b = _known(a["narrow"]), _known(b["narrow"])
    greedy = sum(b["repeated"]) * 2 > len(b["repeated"])
    if greedy and narrow_a and all(narrow_a) and narrow_b and not any(narrow_b):
        return ["top_p is ignored: with one that leaves a single token replies are not the greedy"]
    return []


def _stops(a: Facts, b: Facts) -> list[str]:
    ours, theirs = _known(a["stop"]), _known(b["stop"])
    cut_a, cut_b = (
        {row["finish_reason"] for row in rows if row["outcome"] == "cut"} for rows in (ours, theirs)
    )
    odd = {row["outcome"] for row in theirs} - {"cut", "other"}
    if cut_a and not cut_b and odd:
        how = " and ".join(sorted(odd)).replace("kept", "kept in the reply")
        return [f"stop strings are {how}; the baseline cuts before them"]
    if cut_a and cut_b and not cut_a & cut_b:
        return [
            f"a reply cut by a stop string ends as {cut_b.pop()}, {cut_a.pop()} at the baseline"
        ]
    return []


def _limit(a: Facts, b: Facts) -> list[str]:
    ours, theirs = a["max_tokens"], b["max_tokens"]
    lines = []
    if ours["completion_tokens"] == ours["asked"] and theirs["completion_tokens"] not in (
        None,
        theirs["asked"],
    ):
        lines.append(f"max_tokens {theirs['asked']} gives {theirs['completion_tokens']} tokens")
    if ours["finish_reason"] == "length" != theirs["finish_reason"]:
        lines.append(f"a reply cut by max_tokens ends as {theirs['finish_reason']}, not as length")
    room = b["max_model_len"] or math.inf
    for row, reply in zip(b["asked"], b["greedy"], strict=True):
        tokens = reply["completion_tokens"]
        if reply["finish_reason"] == "length" and tokens and tokens < row["max_tokens"] < room / 2:
            lines.append(f"a reply is cut after {tokens} tokens, max_tokens is {row['max_tokens']}")
            break
    return lines


def _ends(a: Facts, b: Facts) -> list[str]:
    """Replies of equal beginning of which one stops and the other goes on.

    Rounding can make one reply end elsewhere where two tokens tie, so it takes most of them. Of two
    recordings that were asked other questions nothing is said.
    """
    if a["asked"] != b["asked"]:
        return []
    kinds: dict[str, int] = {"go on past their end": 0, "stop early": 0, "end otherwise": 0}
    alike = 0
    for row, x, y in zip(a["asked"], a["greedy"], b["greedy"], strict=True):
        text_a, text_b = x["text"].strip(), y["text"].strip()
        if not row["ends"] or not (text_a.startswith(text_b) or text_b.startswith(text_a)):
            continue
        alike += 1
        if len(text_b) > len(text_a):
            kinds["go on past their end"] += 1
        elif len(text_b) < len(text_a):
            kinds["stop early"] += y["finish_reason"] == "stop"
        else:
            kinds["end otherwise"] += x["finish_reason"] != y["finish_reason"]
    wrong = sum(kinds.values())
    if wrong < 2 or 2 * wrong <= alike:
        return []
    how = " or ".join(kind for kind, count in kinds.items() if count)
    return [f"{wrong} of {alike} replies that begin alike {how}: another end token?"]


def _context(a: Facts, b: Facts) -> list[str]:
    lines = []
    if (a["beyond_context"], b["beyond_context"]) == ("refused", "served"):
        lines.append("a prompt longer than the context is served, so it is cut silently")
    room, needed = b["max_model_len"], a.get("longest")
    if room and needed and room < needed:
        lines.append(
            f"a context of {room} tokens cannot hold the {needed} that the baseline's questions ask"
        )
    return lines


def _known(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None]
