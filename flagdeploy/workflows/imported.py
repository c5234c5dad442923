"""Comparisons with what other tools recorded: their answers, and token references."""

import math

from flagdeploy.errors import UsageError
from flagdeploy.evals import scoring
from flagdeploy.evals.address import base_url
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.capabilities import probe
from flagdeploy.evals.client import Client, Endpoint, run
from flagdeploy.evals.comparison import CompareResult, about_table, scored, totals
from flagdeploy.evals.readers.comparison import compared
from flagdeploy.evals.readers.recorded import of_bundle
from flagdeploy.evals.readers.refpt import TOP, TokenReference
from flagdeploy.evals.readers.samples import Samples
from flagdeploy.evals.tables import Table
from flagdeploy.evals.teacher_forcing import Passage, Position
from flagdeploy.evals.token_accuracy import token_accuracy
from flagdeploy.evals.verdict import judged, overall
from flagdeploy.workflows.sides import Side
from flagdeploy.workflows.tiers import about_endpoint
from flagdeploy.workflows.work import Work


def with_imported(a: Side, b: Side, work: Work) -> CompareResult:
    """Candidate `b` against baseline `a`, of which at least one came from another tool.

    Raises UsageError for a pair of which nothing can be said, EvalError when no question is on
    both sides.
    """
    match a, b:
        case TokenReference(), Endpoint():
            return run(_teacher_forced(a, b, work))
        case TokenReference(), _:
            raise UsageError(
                f"{a.name} holds tokens for an endpoint to score", "name one that runs, or its URL"
            )
        case _, TokenReference():
            raise UsageError(f"{b.name} can be a baseline only: it holds tokens to be scored")
        case Table(), Samples():
            rows = scored(a, b.answers)
            return totals(rows, about_table(a), b.about(), margin_pp=work.margin_pp)
        case ((Samples() | Bundle()), (Samples() | Bundle())):
            return compared(_samples(a), _samples(b), _margins(a, work))
        case Samples(), Endpoint():
            raise UsageError(
                f"{a.name} holds answers to questions as {a.tool} asked them",
                hint=f"ask the candidate with {a.tool} too and name what it writes as candidate",
            )
    raise UsageError(f"{a.name} holds recorded answers, the candidate is a table of totals")


def _samples(side: Samples | Bundle) -> Samples:
    return of_bundle(side) if isinstance(side, Bundle) else side


def _margins(a: Samples | Bundle, work: Work) -> dict[str, float | None]:
    if isinstance(a, Bundle):
        return a.margins_pp
    return dict.fromkeys((answer.task for answer in a.answers), work.margin_pp)


async def _teacher_forced(a: TokenReference, b: Endpoint, work: Work) -> CompareResult:
    """The endpoint scores the reference's texts, each in the requests its mode takes."""
    # As many positions as there are tokens: all of a text is scored, however long it is.
    nothing = Position(math.nan, {})
    passages = [
        Passage(
            str(at),
            "reference",
            entry.prompt,
            entry.continuation,
            (nothing,) * len(entry.continuation),
        )
        for at, entry in enumerate(a.entries)
    ]
    async with Client(b, work.concurrency, work.patience) as client:
        capabilities = await probe(client)
        mode = scoring.check_mode(capabilities, work.mode)
        if not mode:
            raise UsageError(
                f"{b.name or base_url(b.url)} gives no log-probabilities of given tokens, so it "
                f"cannot be compared with {a.name}"
            )
        scores = await scoring.score(client, capabilities, passages, TOP, work.report, mode)
    findings = judged(token_accuracy(a, {int(key): found for key, found in scores.items()}))
    return CompareResult(
        verdict=overall(findings),
        mode="teacher forcing on reference tokens",
        suite="",
        findings=tuple(findings),
        baseline=_about(a),
        candidate=about_endpoint(b, capabilities, work),
        scoring={"mode": mode, "baseline": None, "why": "the reference holds tokens only"},
    )


def _about(a: TokenReference) -> dict[str, object]:
    tokens = sum(len(entry.continuation) for entry in a.entries)
    about = {"name": a.name, "tool": "refpt", "layout": a.layout, "texts": len(a.entries)}
    cut = {"left_out": f"{a.left_out} tokens, predicted without those before them"}
    return {**about, "tokens": tokens, **(cut if a.left_out else {})}
