"""Which tiers of a comparison ran, what each would have shown, and why the others did not run."""

from collections.abc import Iterator
from typing import NamedTuple

from flagdeploy.records.report.wording import Result

SHOWS = {
    "parity": "another chat template, tokenizer or system prompt",
    "teacher forcing": "other weights, numbers or kernels, token by token",
    "own floor": "a candidate that does not repeat itself",
    "answers": "answers that became worse, longer or cut, or part from a greedy baseline's",
    "published totals": "scores that differ by more than their sampling error",
}
# The beginnings of the names of each tier's tests, for results that do not say what ran.
_TESTS = {
    "parity": "parity",
    "teacher forcing": "teacher-forced",
    "own floor": "candidate against itself",
    "answers": "accuracy",
}


class Tier(NamedTuple):
    """`why`: what it took, or why it did not run; may be empty."""

    name: str
    shows: str
    ran: bool
    why: str


def tiers(result: Result) -> list[Tier]:
    rows = result.get("tiers") or list(_derived(result))
    return [Tier(row["name"], SHOWS.get(row["name"], ""), row["ran"], row["why"]) for row in rows]


def _derived(result: Result) -> Iterator[dict[str, object]]:
    published = result["mode"] == "published totals"
    names = [] if published else [str(test["name"]) for test in result["tests"]]
    why = "published totals hold no single answers" if published else ""
    for tier, beginning in _TESTS.items():
        yield {"name": tier, "ran": any(n.startswith(beginning) for n in names), "why": why}
    if published:
        yield {"name": "published totals", "ran": True, "why": ""}
