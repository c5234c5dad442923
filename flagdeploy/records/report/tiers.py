"""Which kinds of test a comparison ran, and why it ran no others."""

from typing import NamedTuple

from flagdeploy.records.report.wording import Result


class Tier(NamedTuple):
    """A kind of test: the beginnings of its tests' names, and what it catches."""

    name: str
    tests: tuple[str, ...]
    catches: str


TIERS = (
    Tier("Parity of prompts", ("parity",), "another chat template, tokenizer or system prompt"),
    Tier(
        "Teacher forcing",
        ("teacher-forced", "finite log-probabilities", "top-5", "lumped"),
        "other weights, numbers or kernels, token by token",
    ),
    Tier("Greedy divergence", ("greedy",), "replies that part where the baseline was sure"),
    Tier("Paired accuracy", ("accuracy", "answer flips"), "answers that became worse"),
    Tier("Output length", ("output length", "truncated"), "lost stop tokens, cut replies"),
    Tier("Published totals", (), "scores that differ by more than their sampling error"),
)


class Run(NamedTuple):
    """A tier in one result; `why` it was not run where `tests` is empty."""

    tier: Tier
    tests: list[str]
    why: str


def tiers(result: Result) -> list[Run]:
    names = [str(test["name"]) for test in result["tests"]]
    return [_run(tier, names, result) for tier in TIERS if _known(tier, result)]


def _known(tier: Tier, result: Result) -> bool:
    return bool(tier.tests) or result["mode"] == "published totals"


def _run(tier: Tier, names: list[str], result: Result) -> Run:
    published = result["mode"] == "published totals"
    if not tier.tests:
        return Run(tier, names, "")
    found = [] if published else [name for name in names if name.startswith(tier.tests)]
    return Run(tier, found, "" if found else _why(tier, result))


def _why(tier: Tier, result: Result) -> str:
    if result["mode"] == "published totals":
        return "published totals hold no single answers"
    if result["mode"] == "stopped at parity":
        return "the comparison stopped at parity"
    return {
        "Teacher forcing": "a side gives no log-probabilities of given tokens",
        "Greedy divergence": "a side gives no token ids, or does not answer greedily",
    }.get(tier.name, "was not asked for")
