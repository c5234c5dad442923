"""Is this deployment the same model as that one? Collect, test, and say so.

A side is a live endpoint, a recorded bundle or a table of published scores. What can be tested
follows from the pair: items paired by content where both sides have answers, totals otherwise,
token by token only where a live candidate scores a bundle's sequences (`tiers`).
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import UsageError
from flagdeploy.evals import dataset as public
from flagdeploy.evals import tiers
from flagdeploy.evals.answers import account, ask
from flagdeploy.evals.benchmarks import Benchmark, benchmarks_of, fitting, of_dataset
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.capabilities import probe
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.comparison import CompareResult, about_table, recordings, scored, totals
from flagdeploy.evals.items import questions
from flagdeploy.evals.readers.refpt import TokenReference
from flagdeploy.evals.readers.samples import Samples
from flagdeploy.evals.repeats import sampling
from flagdeploy.evals.suites import chosen, suite_named
from flagdeploy.evals.tables import Table, normalized, pair_tables, read_pairs
from flagdeploy.evals.tiers import Tier
from flagdeploy.records import report as reports
from flagdeploy.records.events import Report, silent
from flagdeploy.workflows import baseline as baselines
from flagdeploy.workflows.imported import with_imported
from flagdeploy.workflows.sides import (
    Side,
    baseline_side,
    candidate_side,
    check_baseline,
    check_filter,
    lock,
)
from flagdeploy.workflows.tiers import about_endpoint, against_bundle, against_endpoint
from flagdeploy.workflows.work import OTHER_CONCURRENCY, Work


def compare(
    candidate: Side | str | None = None,
    baseline: Side | str | None = None,
    *,
    workspace: Path | str | None = None,
    suite: str = "quick",
    from_table: Path | None = None,
    benchmarks: Path | None = None,
    datasets: Sequence[str] = (),
    data: Path | None = None,
    concurrency: int = 16,
    limit: int | None = None,
    record_dir: Path | None = None,
    margin_pp: float | None = None,
    early: bool = False,
    all_tiers: bool = False,
    repeats: int | str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    filter_name: str | None = None,
    mode: str | None = None,
    patience: Patience | None = None,
    report: Report = silent,
) -> CompareResult:
    """Compare `candidate` with `baseline`; both sides may be names, paths, URLs or loaded.

    Without `candidate` it is the deployment that runs. `from_table` gives both sides as published
    totals instead. `benchmarks` is the folder with benchmark.yaml, wanted only where the baseline
    brings no questions; `datasets` are public sets in its place, found in `data` or where
    `dataset.find_files` looks. `record_dir` keeps every answer as it comes, and an interrupted
    run with the same folder goes on where it was. `limit` asks fewer questions of each benchmark.
    `margin_pp`: points of accuracy that may be lost, in the place of each benchmark's own.

    A tier that shows FAIL ends the run, and where tokens show DIFFERENT, answers are asked only
    until harm is shown or excluded; `all_tiers` asks everything all the same. `early` ends a run
    at PASS too, at the price of some power. `repeats` answers to each question, ``auto`` for 1, 2,
    4, 8, 16 until decided, sampled at `temperature` with `top_p`; None leaves them to the suite.

    Two live sides are asked the same questions in turn, at equal concurrency. `filter_name`
    chooses among lm-eval's filters. `mode` scores tokens in that mode of `evals.scoring` and not in
    the best one that both sides have.

    Raises UsageError for unknown names, EvalError when a side cannot be asked.
    """
    asked = suite_named(suite)
    if early and all_tiers:
        raise UsageError("--early and --all-tiers exclude each other")
    clock = time.time()
    if from_table is not None:
        about_a, about_b = {"name": f"{from_table}: base"}, {"name": "cand"}
        result = totals(read_pairs(from_table), about_a, about_b, margin_pp=margin_pp)
    else:
        root = workspaces.find(str(workspace) if workspace else None)
        check_baseline(baseline, root)
        b = candidate_side(candidate, root, filter_name)
        a = baseline_side(baseline, b, root, filter_name)
        check_filter(filter_name, a, b)
        if datasets and isinstance(a, Bundle):
            raise UsageError(
                f"--dataset: {a.name} is a recorded baseline, which brings its own questions",
                hint="leave it out, or record one with `baseline record --dataset`",
            )
        name = b.name if isinstance(b, Endpoint) else ""
        own = root / "examples" / name if name else None
        sets = [of_dataset(one, data, root) for one in datasets]
        work = Work(
            suite=asked,
            benchmarks=sets or benchmarks or own,
            concurrency=concurrency,
            limit=limit,
            record_dir=record_dir,
            patience=patience,
            report=report,
            about=lock(b, root) if isinstance(b, Endpoint) else {},
            margin_pp=margin_pp,
            early=early,
            all_tiers=all_tiers,
            mode=mode,
        )
        if isinstance(a, Endpoint) and not isinstance(b, Endpoint):
            a = _recorded(a, work)
        if isinstance(b, Endpoint) and isinstance(a, Endpoint | Bundle):
            recorded = a if isinstance(a, Bundle) else None
            how, note = sampling(asked, recorded, repeats, temperature, top_p)
            work = replace(work, sampling=how, note=note)
        elif (repeats, temperature, top_p) != (None, None, None):
            raise UsageError("--repeats, --temperature and --top-p need a candidate that is asked")
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
    names = (reports.RESULT_FILE, "report.md", "report.html")
    reports.write_reports(result.to_json(), [folder / name for name in names])


def _recorded(endpoint: Endpoint, work: Work) -> Bundle:
    if work.benchmarks is None or work.record_dir is None:
        raise UsageError(
            "a live baseline is recorded for a recorded candidate, which needs questions and a "
            "place to put it",
            hint="name the deployment, or give --benchmarks FOLDER or --dataset NAME, "
            "and --record FOLDER",
        )
    return baselines.record(
        endpoint,
        work.record_dir / "baseline.jsonl.gz",
        benchmarks=work.benchmarks,
        concurrency=(work.concurrency, OTHER_CONCURRENCY * work.concurrency),
        limit=work.limit,
        record_dir=work.record_dir,
        patience=work.patience,
        report=work.report,
    )


def _compared(a: Side, b: Side, work: Work) -> CompareResult:
    match a, b:
        case (Samples() | TokenReference(), _) | (_, Samples() | TokenReference()):
            return with_imported(a, b, work)
        case Bundle(), Endpoint():
            return run(against_bundle(a, b, work))
        case Endpoint(), Endpoint():
            return run(against_endpoint(a, b, work))
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
    raise UsageError(
        "the candidate is a table of totals, so the baseline must be one too",
        hint="a recorded or live baseline needs an endpoint, or a recording, as the candidate",
    )


def _as_in(a: Table, benchmark: Benchmark) -> Benchmark | None:
    """`benchmark` under the name that the table has for it or for the title of its public set."""
    names = [benchmark.name]
    if benchmark.dataset:
        names.append(public.load(benchmark.dataset).title)
    tasks = {normalized(task): task for task in a.scores}
    found = [tasks[normalized(name)] for name in names if normalized(name) in tasks]
    return replace(benchmark, name=found[0]) if found else None


async def _live_totals(a: Table, b: Endpoint, work: Work) -> CompareResult:
    if work.benchmarks is None:
        raise UsageError(
            f"{a.name} is a table of published scores, so the questions must come from here",
            hint="give --dataset NAME, or --benchmarks FOLDER with a benchmark.yaml",
        )
    asked = [named for row in benchmarks_of(work.benchmarks) if (named := _as_in(a, row))]
    if not asked:
        raise UsageError(
            f"{a.name} holds published scores of {', '.join(a.scores)}, and none of these is in "
            "what is asked",
            hint="--dataset gsm8k,mmlu asks such sets (`flagdeploy pull --dataset list` names "
            "them); a recorded baseline (env/baselines/DEPLOYMENT/) brings its own questions",
        )
    async with Client(b, work.concurrency, work.patience) as client:
        capabilities = await probe(client)
        asked = [fitting(row, capabilities.max_model_len) for row in asked]
        items = chosen(questions(asked), work.suite.questions, work.limit)
        answers = await ask(
            client,
            capabilities,
            items,
            log=work.log("answers.jsonl"),
            report=work.report,
            stage="answer",
        )
    about = about_endpoint(b, capabilities, work)
    result = totals(scored(a, answers), about_table(a), about, account(answers), work.margin_pp)
    published = "the baseline is published totals"
    left_out = (tiers.PARITY, tiers.FORCING, tiers.OWN_FLOOR)
    ran = [Tier(name, False, published) for name in left_out]
    asked_for = f"{len(items)} questions, as the {work.suite.name} suite asks"
    return replace(result, tiers=(*ran, Tier(tiers.ANSWERS, True, asked_for)))
