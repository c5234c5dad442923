"""Is this deployment the same model as that one? Collect, test, and say so.

A side is a live endpoint, a recorded bundle or a table of published scores. What can be tested
follows from the pair: items paired by content where both sides have answers, totals otherwise,
token by token only where a live candidate scores a bundle's sequences.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import UsageError
from flagdeploy.evals import agreement, parity, teacher_forcing
from flagdeploy.evals.answers import Answer, AnswerLog, account, ask
from flagdeploy.evals.benchmarks import Item, load_benchmarks
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint, Patience, base_url, run
from flagdeploy.evals.comparison import (
    CompareResult,
    about_table,
    paired,
    recordings,
    scored,
    totals,
)
from flagdeploy.evals.tables import Table, normalized, pair_tables, read_pairs
from flagdeploy.evals.verdict import Finding, Verdict
from flagdeploy.records import report as reports
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows import baseline as baselines
from flagdeploy.workflows.sides import Side, baseline_side, candidate_side, check_baseline, deployed


@dataclass(frozen=True)
class Suite:
    """How much is asked: at most `sequences` of a bundle's, and all of its questions."""

    sequences: int


SUITES = {"quick": Suite(sequences=64)}


def compare(
    candidate: Side | str | None = None,
    baseline: Side | str | None = None,
    *,
    workspace: Path | str | None = None,
    suite: str = "quick",
    from_table: Path | None = None,
    benchmarks: Path | None = None,
    concurrency: int = 16,
    limit: int | None = None,
    record_dir: Path | None = None,
    margin_pp: float | None = None,
    patience: Patience | None = None,
    report: Report = silent,
) -> CompareResult:
    """Compare `candidate` with `baseline`; both sides may be names, paths, URLs or loaded.

    Without `candidate` it is the deployment that runs. `from_table` gives both sides as published
    totals instead. `benchmarks` is the folder with benchmark.yaml, wanted only where the baseline
    brings no questions. `record_dir` keeps every answer as it comes, and an interrupted run with
    the same folder goes on where it was. `limit` asks fewer questions of each benchmark.
    `margin_pp`: points of accuracy that may be lost, in the place of each benchmark's own.

    Raises UsageError for unknown names, EvalError when a side cannot be asked.
    """
    if suite not in SUITES:
        raise UsageError(f"unknown suite `{suite}`", hint=f"there is: {', '.join(SUITES)}")
    clock = time.time()
    if from_table is not None:
        about_a, about_b = {"name": f"{from_table}: base"}, {"name": "cand"}
        result = totals(read_pairs(from_table), about_a, about_b, margin_pp=margin_pp)
    else:
        root = workspaces.find(str(workspace) if workspace else None)
        check_baseline(baseline, root)
        b = candidate_side(candidate, root)
        a = baseline_side(baseline, b, root)
        name = b.name if isinstance(b, Endpoint) else ""
        folder = benchmarks or (root / "examples" / name if name else None)
        about = {"deployment": deployed(b, root)} if name and isinstance(b, Endpoint) else {}
        work = _Work(
            SUITES[suite],
            folder,
            concurrency,
            limit,
            record_dir,
            patience,
            report,
            about,
            margin_pp,
        )
        a = _recorded(a, work) if isinstance(a, Endpoint) else a
        if isinstance(a, Bundle) and margin_pp is not None:
            a = a.with_margin(margin_pp)
        result = _compared(a, b, work)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock))
    result = replace(result, suite=suite, started=started, seconds=time.time() - clock)
    if record_dir is not None and record_dir.is_dir():
        _keep(result, record_dir)
    return result


def new_record_dir(workspace: str | None = None) -> Path:
    """A folder name under `runs/` that no earlier comparison used; nothing is created yet.

    Never an old one by itself: answers of a deployment that has since changed must not count.
    """
    root = workspaces.find(workspace)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return workspaces.state_folder(root) / f"compare-{stamp}-{os.getpid()}"


def _keep(result: CompareResult, folder: Path) -> None:
    data = result.to_json()
    text = json.dumps(data, indent=2, ensure_ascii=False, default=str)
    (folder / "result.json").write_text(text + "\n", "utf-8")
    (folder / "report.md").write_text(reports.markdown(data), "utf-8")


@dataclass(frozen=True)
class _Work:
    suite: Suite
    folder: Path | None
    concurrency: int
    limit: int | None
    record_dir: Path | None
    patience: Patience | None
    report: Report
    about: Mapping[str, Any]  # what is known of a live candidate beside what probing finds
    margin_pp: float | None


def _recorded(endpoint: Endpoint, work: _Work) -> Bundle:
    if work.folder is None or work.record_dir is None:
        raise UsageError(
            "a live baseline is recorded first, which needs questions and a place to put it",
            hint="name the deployment, or give --benchmarks FOLDER, and --record FOLDER",
        )
    return baselines.record(
        endpoint,
        work.record_dir / "baseline.jsonl.gz",
        benchmarks=work.folder,
        limit=work.limit,
        record_dir=work.record_dir,
        patience=work.patience,
        report=work.report,
    )


def _compared(a: Side, b: Side, work: _Work) -> CompareResult:
    match a, b:
        case Bundle(), Endpoint():
            return run(_live(a, b, work))
        case Bundle(), Bundle():
            return recordings(a, b)
        case Table(), Table():
            rows = pair_tables(a, b)
            return totals(rows, about_table(a), about_table(b), margin_pp=work.margin_pp)
        case Table(), Bundle():
            rows = scored(a, b.answers)
            about = {"name": b.name, **b.manifest}
            return totals(rows, about_table(a), about, margin_pp=work.margin_pp)
        case Table(), Endpoint():
            return run(_live_totals(a, b, work))
    raise UsageError("the candidate is a table of totals, so the baseline must be one too")


async def _live(a: Bundle, b: Endpoint, work: _Work) -> CompareResult:
    async with Client(b, work.concurrency, work.patience) as client:
        capabilities = await probe(client)
        about = _about(b, capabilities, work)
        findings = [await _parity(client, capabilities, a)]
        if findings[0].verdict is Verdict.FAIL:
            return paired(a, about, findings, [], [], "stopped at parity")
        forced = await _teacher_forced(client, capabilities, a, work)
        items, recorded = _limited(a, work.limit)
        path = work.record_dir / "answers.jsonl" if work.record_dir else None
        answers = await ask(
            client,
            capabilities,
            items,
            log=AnswerLog(path),
            report=work.report,
            stage="answer",
            token_ids=capabilities.return_token_ids,
        )
    mode = "paired with teacher forcing" if forced else "paired answers only"
    return paired(a, about, [*findings, *forced], recorded, answers, mode)


def _about(b: Endpoint, capabilities: Capabilities, work: _Work) -> dict[str, Any]:
    return {"name": b.name or base_url(b.url), "endpoint": capabilities.to_json(), **work.about}


async def _parity(client: Client, capabilities: Capabilities, a: Bundle) -> Finding:
    known = [prompt for prompt in a.prompts if prompt.error is None]
    seen = await parity.count(client, capabilities, known)
    return agreement.parity(parity.differences(known, seen), len(known))


async def _teacher_forced(
    client: Client, capabilities: Capabilities, a: Bundle, work: _Work
) -> list[Finding]:
    passages = [passage for passage in a.passages if passage.positions][: work.suite.sequences]
    if not passages or not capabilities.prompt_logprobs:
        side = "candidate" if passages else "baseline"
        work.report(Event("score", f"the {side} has no prompt log-probabilities: accuracy only"))
        return []
    k = int(a.manifest["prompt_logprobs"])
    scores = await teacher_forcing.score(client, capabilities, passages, k, work.report)
    apart = [
        teacher_forcing.difference(passage.key, passage.positions, scores[passage.key])
        for passage in passages
        if passage.key in scores
    ]
    return agreement.teacher_forced(apart, len(passages) - len(apart), a.noise_floor)


def _limited(a: Bundle, limit: int | None) -> tuple[list[Item], list[Answer]]:
    """The bundle's questions with its answers; of each benchmark the `limit` smallest keys."""
    ranks: dict[str, int] = {}
    kept = set()
    for key, task in sorted((item.key, item.task) for item in a.items):
        ranks[task] = ranks.get(task, 0) + 1
        if limit is None or ranks[task] <= limit:
            kept.add(key)
    pairs = zip(a.items, a.answers, strict=True)
    chosen = [(item, answer) for item, answer in pairs if item.key in kept]
    return [item for item, _ in chosen], [answer for _, answer in chosen]


async def _live_totals(a: Table, b: Endpoint, work: _Work) -> CompareResult:
    if work.folder is None:
        raise UsageError(
            f"{a.name} is a table of published scores, so the questions must come from here",
            hint="name the deployment, or give --benchmarks FOLDER with a benchmark.yaml",
        )
    known = {normalized(task) for task in a.scores}
    asked = [row for row in load_benchmarks(work.folder) if normalized(row.name) in known]
    if not asked:
        raise UsageError(
            f"{a.name} holds published scores of {', '.join(a.scores)}, and none of these is in "
            f"{work.folder}/benchmark.yaml",
            hint="a recorded baseline (env/baselines/DEPLOYMENT/) brings its own questions",
        )
    items = baselines.questions(asked, work.limit)
    async with Client(b, work.concurrency, work.patience) as client:
        capabilities = await probe(client)
        path = work.record_dir / "answers.jsonl" if work.record_dir else None
        answers = await ask(
            client, capabilities, items, log=AnswerLog(path), report=work.report, stage="answer"
        )
    about = _about(b, capabilities, work)
    return totals(scored(a, answers), about_table(a), about, account(answers), work.margin_pp)
