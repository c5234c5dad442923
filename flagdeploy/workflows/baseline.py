"""Record a baseline from a live endpoint.

Kept free of the configuration loader, so that a machine with an accelerator and little else
installed can record.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import UsageError
from flagdeploy.evals.answers import Answer, account
from flagdeploy.evals.benchmarks import Benchmark, benchmarks_of, of_dataset
from flagdeploy.evals.bundle import SUFFIX, Bundle, digest, fingerprint, write_bundle
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.items import Item, questions
from flagdeploy.evals.passages import SEQUENCES
from flagdeploy.evals.suites import chosen, suite_named
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.recording import Recording
from flagdeploy.workflows.sides import deployed, endpoint_of, folders

MOST_SEQUENCES = 256  # of a suite without a number of its own
CONCURRENCY = (16, 64)


def record(
    endpoint: Endpoint,
    out: Path,
    *,
    benchmarks: Path | Sequence[Benchmark],
    concurrency: Sequence[int] = CONCURRENCY,
    suite: str | None = None,
    sequences: int | None = None,
    limit: int | None = None,
    mode: str | None = None,
    deployment: Mapping[str, Any] | None = None,
    facts: Mapping[str, str] | None = None,
    checkpoint: Path | None = None,
    record_dir: Path | None = None,
    patience: Patience | None = None,
    report: Report = silent,
) -> Bundle:
    """Ask `endpoint` everything in `benchmarks`, a folder or a list, and freeze it in `out`.

    The first of `concurrency` gives the recorded answers, each further one a repeat whose
    distance from them is the noise floor. With `record_dir` an interrupted recording goes on
    where it was. `suite` asks as much as a comparison of that suite may, else it is every question
    and SEQUENCES sequences; `limit` and `sequences` go before it. `facts` (device, engine, ...)
    are for the reader. `mode` scores the sequences in that mode alone (`evals.scoring`); else in
    the best the endpoint can and, beside it, D.

    Raises EvalError when the endpoint is gone or left questions without answer.
    """
    asked = benchmarks_of(benchmarks)
    items = questions(asked, limit)
    most = SEQUENCES
    if suite is not None:
        items, most = _of_suite(suite, items)
    sequences = most if sequences is None else sequences
    _check_places(out, checkpoint)
    clients = [Client(endpoint, width, patience) for width in concurrency]
    recording = Recording(items, sequences, mode, record_dir, report)
    bundle = run(recording.carry_out(clients))
    manifest = {
        **bundle.manifest,
        "benchmarks": [_summary(row, bundle.answers) for row in asked],
        "deployment": deployment,
        "facts": dict(facts or {}),
        "lock_sha256": digest(deployment) if deployment else None,
        "checkpoint": fingerprint(checkpoint) if checkpoint else None,
    }
    name = out.name.removesuffix(SUFFIX)
    bundle = replace(bundle, name=name, manifest=manifest)
    write_bundle(out, bundle)
    report(Event("record", f"{out}: {len(items)} answers, {len(bundle.passages)} sequences"))
    return bundle


def _of_suite(name: str, items: Sequence[Item]) -> tuple[list[Item], int]:
    """The questions and the number of sequences that the suite `name` asks at most."""
    suite = suite_named(name)
    kept = {item.key for item in chosen(items, suite.questions)}
    most = suite.sequences or MOST_SEQUENCES
    return [item for item in items if item.key in kept], most


def _check_places(out: Path, checkpoint: Path | None) -> None:
    """What could only fail after every question was answered fails before the first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise UsageError(f"{out}: no file can be written there", "--out takes another path")
    if checkpoint and not checkpoint.is_dir():
        raise UsageError(f"--checkpoint {checkpoint}: no such folder")


def _summary(benchmark: Benchmark, answers: Sequence[Answer]) -> dict[str, Any]:
    mine = [answer for answer in answers if answer.task == benchmark.name]
    return {
        **benchmark.to_json(),
        "n": len(mine),
        "accuracy": sum(answer.score or 0.0 for answer in mine) / max(1, len(mine)),
        "answers": account(mine),
    }


def record_named(
    source: str | None,
    alias: str,
    *,
    out: Path | None = None,
    benchmarks: Path | Sequence[Benchmark] | None = None,
    datasets: Sequence[str] = (),
    data: Path | None = None,
    workspace: str | None = None,
    **options: Any,
) -> tuple[Path, Bundle]:
    """`record` for a URL or a running deployment, into env/baselines/DEPLOYMENT/ALIAS.jsonl.gz.

    Questions are those of `benchmarks`, of the public `datasets` (found in `data`, or where
    `find_files` looks), or the deployment's own.
    """
    root = workspaces.find(workspace)
    if not alias or "/" in alias or alias.startswith("."):
        raise UsageError(f"--as {alias}: is no name for a baseline", "--out takes a path")
    if datasets:
        benchmarks = [of_dataset(name, data, root) for name in datasets]
    endpoint = endpoint_of(source, root)
    if endpoint.name:
        benchmarks = benchmarks or root / "examples" / endpoint.name
        out = out or folders(root)[0] / endpoint.name / f"{alias}{SUFFIX}"
    if benchmarks is None or out is None:
        raise UsageError(
            "an endpoint given by URL needs --benchmarks DIR or --dataset NAME, and --out FILE"
        )
    deployment = deployed(endpoint, root)
    return out, record(endpoint, out, benchmarks=benchmarks, deployment=deployment, **options)
