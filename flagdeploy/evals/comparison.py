"""What a comparison found: every test of two sides, ready to be reported. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals import agreement, conformance, parity, tiers
from flagdeploy.evals.answers import Answer, account
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.pairing import drawn, findings_of, flips, identical, pair_up
from flagdeploy.evals.sequential import Look
from flagdeploy.evals.tables import Row, Score, Table, normalized
from flagdeploy.evals.tiers import Tier
from flagdeploy.evals.totals import aggregates
from flagdeploy.evals.verdict import ALPHA, EXIT_CODES, Finding, Verdict, judged, overall

RESULT_FORMAT = "flagdeploy-compare/1"
FLIPS_SHOWN = 10
WHOLE = Look()  # everything was asked before anything was looked at


@dataclass(frozen=True)
class CompareResult:
    """Everything a report needs; `to_json()` is what `--json` writes.

    `mode` is ``paired with teacher forcing``, ``paired answers only`` or ``published totals``:
    results of different modes are not comparable with each other. `tiers` says what ran and why
    the rest did not; `looks`, where the run looked more than once, at which share of its plan it
    ended and what it had spent of alpha by then; `scoring` in which mode tokens were scored.
    """

    verdict: Verdict
    mode: str
    suite: str
    findings: tuple[Finding, ...]
    baseline: Mapping[str, Any]
    candidate: Mapping[str, Any]
    answers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    flips: tuple[Mapping[str, Any], ...] = ()
    flip_count: int = 0
    identical: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)  # what a report draws
    tiers: tuple[Tier, ...] = ()
    looks: Mapping[str, Any] = field(default_factory=dict)
    scoring: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": RESULT_FORMAT,
            "verdict": self.verdict,
            "mode": self.mode,
            "suite": self.suite,
            "tiers": [tier.to_json() for tier in self.tiers],
            "looks": dict(self.looks),
            "scoring": dict(self.scoring),
            "tests": [finding.to_json() for finding in self.findings],
            "answers": self.answers,
            "identical": self.identical,
            "flip_count": self.flip_count,
            "flips": list(self.flips),
            "figures": self.figures,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "differences": list(_differences(self.baseline, self.candidate)),
            "started": self.started,
            "seconds": round(self.seconds, 1),
        }


def recordings(a: Bundle, b: Bundle) -> CompareResult:
    theirs = {answer.item for answer in b.answers}
    pairs = [answer for answer in a.answers if answer.item in theirs]
    if not pairs:
        raise EvalError(f"{a.name} and {b.name} have no question in common")
    known = {prompt.name: prompt for prompt in b.prompts}
    both = [(prompt, known[prompt.name]) for prompt in a.prompts if prompt.name in known]
    differences = parity.differences([x for x, _ in both], [y for _, y in both])
    found = [agreement.parity(differences, len(both))]
    if a.manifest.get("parameters") and b.manifest.get("parameters"):
        found += conformance.compared(a.manifest["parameters"], b.manifest["parameters"])
    about = {"name": b.name, **b.manifest}
    sampled = b.manifest["sampling"]["temperature"] != 0
    result = paired(a, about, found, a.answers, b.answers, "paired answers only", sampled=sampled)
    no_endpoint = "both sides are recordings, and scoring takes an endpoint"
    return replace(
        result,
        tiers=(
            Tier(tiers.PARITY, True, f"{len(both)} recorded prompts"),
            Tier(tiers.FORCING, False, no_endpoint),
            Tier(tiers.OWN_FLOOR, False, no_endpoint),
            Tier(tiers.ANSWERS, True, f"{len(pairs)} recorded answers on both sides"),
        ),
    )


def paired(
    a: Bundle,
    about: Mapping[str, Any],
    findings: Sequence[Finding],
    recorded: Sequence[Answer],
    answers: Sequence[Answer],
    mode: str,
    figures: Mapping[str, Any] | None = None,
    *,
    look: Look = WHOLE,
    planned: int = 0,
    sampled: bool = False,
) -> CompareResult:
    """`findings` of the tiers before, and every test of the answers to the same questions.

    `look` says how much of the plan the answers are, `planned` how many tests the whole plan
    makes where it has not made all yet. The baseline's own sampling tells whether replies are
    greedy; `sampled` where this run asked otherwise.
    """
    questions = pair_up(recorded, answers)
    greedy = a.manifest["sampling"]["temperature"] == 0 and not sampled
    findings = judged([*findings, *findings_of(a, questions, greedy, look)], planned)
    flipped = flips(
        questions, {item.key: item.messages[-1]["content"] for item in a.items if item.messages}
    )
    counted = (
        [x for q in questions for x in q.baseline],
        [x for q in questions for x in q.candidate],
    )
    return CompareResult(
        verdict=overall(findings),
        mode=mode,
        suite="",
        findings=tuple(findings),
        baseline={"name": a.name, **a.manifest},
        candidate=about,
        answers={"baseline": account(counted[0]), "candidate": account(counted[1])},
        flips=tuple(flipped[:FLIPS_SHOWN]),
        flip_count=len(flipped),
        identical=identical(questions) if greedy else None,
        figures={**(figures or {}), **drawn(a, questions, greedy)},
        looks=_looks(look),
    )


def _looks(look: Look) -> dict[str, Any]:
    """What a report says of a run that looked more than once; empty for one look."""
    if len(look.information) == 1:
        return {}
    return {
        "number": look.number,
        "information": list(look.information),
        "spending": look.spending,
        "alpha": ALPHA,
        "spent": look.spent(ALPHA),
        "nominal": look.nominal(ALPHA),
    }


def scored(a: Table, answers: Sequence[Answer]) -> list[Row]:
    """The table's rows beside totals of `answers`; a missing answer counts as wrong.

    Several answers to a question are one of it, their mean: they are no further questions.
    """
    rows = []
    for task, score in a.scores.items():
        mine: dict[str, list[float]] = {}
        for answer in answers:
            if normalized(answer.task) == normalized(task):
                mine.setdefault(answer.item, []).append(answer.score or 0.0)
        means = [math.fsum(scores) / len(scores) for scores in mine.values()]
        value = Score(math.fsum(means) / len(means), len(means)) if means else None
        rows.append(Row(task, score, value))
    return rows


def totals(
    rows: Sequence[Row],
    about_a: Mapping[str, Any],
    about_b: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
    margin_pp: float | None = None,
) -> CompareResult:
    findings = judged(aggregates(rows, margin_pp))
    return CompareResult(
        verdict=overall(findings),
        mode="published totals",
        suite="",
        findings=tuple(findings),
        baseline=about_a,
        candidate=about_b,
        answers={"candidate": counts} if counts else {},
    )


def about_table(table: Table) -> dict[str, Any]:
    return {"name": table.name, "title": table.title, "source": table.source}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Facts that both sides state and that differ, by dotted key."""
    theirs = dict(_leaves(b))
    for key, value in _leaves(a):
        if key != "created" and key in theirs and theirs[key] != value:
            yield {"key": key, "baseline": value, "candidate": theirs[key]}


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
