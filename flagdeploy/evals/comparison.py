"""What a comparison found: every test of two sides, ready to be reported. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals import agreement, parity
from flagdeploy.evals.accuracy import Pair, accuracy
from flagdeploy.evals.answers import Answer, account
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.divergence import divergence, parting
from flagdeploy.evals.lengths import output_length, truncation
from flagdeploy.evals.tables import Row, Score, Table, normalized
from flagdeploy.evals.totals import aggregates
from flagdeploy.evals.verdict import EXIT_CODES, Finding, Verdict, judged, overall

RESULT_FORMAT = "flagdeploy-compare/1"
FLIPS_SHOWN = 10


@dataclass(frozen=True)
class CompareResult:
    """Everything a report needs; `to_json()` is what `--json` writes.

    `mode` is ``paired with teacher forcing``, ``paired answers only`` or ``published totals``:
    results of different modes are not comparable with each other.
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
            "tests": [finding.to_json() for finding in self.findings],
            "answers": self.answers,
            "identical": self.identical,
            "flip_count": self.flip_count,
            "flips": list(self.flips),
            "baseline": self.baseline,
            "candidate": self.candidate,
            "differences": list(_differences(self.baseline, self.candidate)),
            "started": self.started,
            "seconds": round(self.seconds, 1),
        }


def recordings(a: Bundle, b: Bundle) -> CompareResult:
    theirs = {answer.item: answer for answer in b.answers}
    pairs = [(answer, theirs[answer.item]) for answer in a.answers if answer.item in theirs]
    if not pairs:
        raise EvalError(f"{a.name} and {b.name} have no question in common")
    known = {prompt.name: prompt for prompt in b.prompts}
    both = [(prompt, known[prompt.name]) for prompt in a.prompts if prompt.name in known]
    differences = parity.differences([x for x, _ in both], [y for _, y in both])
    finding = agreement.parity(differences, len(both))
    about = {"name": b.name, **b.manifest}
    ours, others = [x for x, _ in pairs], [y for _, y in pairs]
    return paired(a, about, [finding], ours, others, "paired answers only")


def paired(
    a: Bundle,
    about: Mapping[str, Any],
    findings: Sequence[Finding],
    recorded: Sequence[Answer],
    answers: Sequence[Answer],
    mode: str,
) -> CompareResult:
    both = list(zip(recorded, answers, strict=True))
    clusters = {item.key: item.cluster for item in a.items}
    pairs = [
        Pair(x.item, x.task, x.score or 0.0, y.score, _subject(x.item, clusters)) for x, y in both
    ]
    tokens = [
        (x.completion_tokens, y.completion_tokens)
        for x, y in both
        if x.completion_tokens and y.completion_tokens
    ]
    if both:
        tests = accuracy(pairs, a.margins_pp, a.noise_floor.get("discordant"))
        cut = [(x.status == "length", y.status == "length") for x, y in both if y.score is not None]
        findings = [*findings, *tests, output_length(tokens), truncation(cut), *_greedy(a, answers)]
    findings = judged(findings)
    flips = [_flip(x, y) for x, y in both if y.score is not None and x.score != y.score]
    return CompareResult(
        verdict=overall(findings),
        mode=mode,
        suite="",
        findings=tuple(findings),
        baseline={"name": a.name, **a.manifest},
        candidate=about,
        answers={"baseline": account(recorded), "candidate": account(answers)},
        flips=tuple(flips[:FLIPS_SHOWN]),
        flip_count=len(flips),
        identical=sum(x.content == y.content for x, y in both) / len(both) if both else None,
    )


def _subject(item: str, clusters: Mapping[str, str]) -> str:
    """The item's subject; a question without one is recorded as its own, which is none."""
    cluster = clusters.get(item, "")
    return "" if cluster == item else cluster


def _greedy(a: Bundle, answers: Sequence[Answer]) -> list[Finding]:
    """First divergence of greedy replies whose tokens both sides know; none where they sample."""
    if a.manifest["sampling"]["temperature"] != 0:
        return []
    theirs = {answer.item: answer for answer in answers if answer.token_ids}
    partings = [
        parting(
            passage.key,
            passage.continuation,
            theirs[passage.key].token_ids or (),
            cut=theirs[passage.key].status == "length",
            positions=passage.positions,
        )
        for passage in a.passages
        if passage.key in theirs
    ]
    floor = a.noise_floor.get("divergence")
    return [divergence(partings, floor)] if partings else []


def _flip(x: Answer, y: Answer) -> dict[str, Any]:
    sides = {"baseline": x, "candidate": y}
    shown = {
        side: {
            "prediction": answer.prediction,
            "score": answer.score,
            "status": answer.status,
            "content": answer.content,
        }
        for side, answer in sides.items()
    }
    return {"item": x.item, "task": x.task, "gold": x.gold, **shown}


def scored(a: Table, answers: Sequence[Answer]) -> list[Row]:
    """The table's rows beside totals of `answers`; a missing answer counts as wrong."""
    rows = []
    for task, score in a.scores.items():
        mine = [x.score or 0.0 for x in answers if normalized(x.task) == normalized(task)]
        rows.append(Row(task, score, Score(sum(mine) / len(mine), len(mine)) if mine else None))
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
