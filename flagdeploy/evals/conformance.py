"""Do two endpoints honour the parameters of a request alike? Rules on what `parameters` observed.

What changes the replies a user gets fails: temperature or top_p ignored, tokens at temperature 0
that were not the most likely, stop strings or max_tokens not kept, replies that go on past their
end or stop before it. Engines may differ in what they offer (`n`, seeds, log-probabilities, the
context length, whether an unknown model is refused): that is listed and not judged, with two
exceptions that are DIFFERENT: a prompt beyond the context that is served instead of refused was
cut silently, and a context in which the baseline's own replies do not fit serves less of the model.
"""

import math

from flagdeploy.evals.parameters import HOT, OFFERS, TIMES, Facts, known
from flagdeploy.evals.verdict import Finding, Verdict


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
    hot_a, hot_b = known(a["hot_texts"]), known(b["hot_texts"])
    if hot_b and max(hot_b) == 1 and max(hot_a, default=0) >= TIMES - 1:
        lines.append(
            f"temperature is ignored: {len(hot_b)} prompts, each asked {TIMES} times at {HOT}, "
            "always get the same reply"
        )
    off_a, off_b = (known([row["off_top"] for row in x["greedy"]]) for x in (a, b))
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
    narrow_a, narrow_b = known(a["narrow"]), known(b["narrow"])
    greedy = sum(b["repeated"]) * 2 > len(b["repeated"])
    if greedy and narrow_a and all(narrow_a) and narrow_b and not any(narrow_b):
        return ["top_p is ignored: with one that leaves a single token replies are not the greedy"]
    return []


def _stops(a: Facts, b: Facts) -> list[str]:
    ours, theirs = known(a["stop"]), known(b["stop"])
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
