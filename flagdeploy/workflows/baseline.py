"""Record a baseline from a live endpoint, and say what it holds.

Kept free of the configuration loader, so that a machine with an accelerator and little else
installed can record.
"""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flagdeploy import __version__
from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import EvalError, UsageError
from flagdeploy.evals import parity, teacher_forcing
from flagdeploy.evals.answers import MISSING, Answer, AnswerLog, account, ask
from flagdeploy.evals.benchmarks import Benchmark, Item, benchmarks_of, load_items, of_dataset
from flagdeploy.evals.bundle import SUFFIX, Bundle, fingerprint, write_bundle
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.divergence import parting
from flagdeploy.evals.noise_floor import distance, largest
from flagdeploy.evals.tables import Table
from flagdeploy.evals.teacher_forcing import Passage, Position
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.sides import deployed, endpoint_of, folders

SEQUENCES = 64
TOP_K = 20
CONCURRENCY = (16, 64)


def record(
    endpoint: Endpoint,
    out: Path,
    *,
    benchmarks: Path | Sequence[Benchmark],
    concurrency: Sequence[int] = CONCURRENCY,
    sequences: int = SEQUENCES,
    limit: int | None = None,
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
    where it was. `facts` (device, engine, ...) are for the reader.

    Raises EvalError when the endpoint is gone or left questions without answer.
    """
    asked = benchmarks_of(benchmarks)
    items = questions(asked, limit)
    _check_places(out, checkpoint)
    clients = [Client(endpoint, width, patience) for width in concurrency]
    bundle = run(_record(clients, items, sequences, record_dir, report))
    manifest = {
        **bundle.manifest,
        "benchmarks": [_summary(row, bundle.answers) for row in asked],
        "deployment": deployment,
        "facts": dict(facts or {}),
        "checkpoint": fingerprint(checkpoint) if checkpoint else None,
    }
    name = out.name.removesuffix(SUFFIX)
    bundle = replace(bundle, name=name, manifest=manifest)
    write_bundle(out, bundle)
    report(Event("record", f"{out}: {len(items)} answers, {len(bundle.passages)} sequences"))
    return bundle


def _check_places(out: Path, checkpoint: Path | None) -> None:
    """What could only fail after every question was answered fails before the first."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK) or out.is_dir():
        raise UsageError(f"{out}: no file can be written there", "--out takes another path")
    if checkpoint and not checkpoint.is_dir():
        raise UsageError(f"--checkpoint {checkpoint}: no such folder")


def questions(benchmarks: Sequence[Benchmark], limit: int | None = None) -> list[Item]:
    """Every question, or of each benchmark the `limit` with the smallest content hash.

    By hash and not by position, because files are often sorted by difficulty.
    """
    items = []
    for benchmark in benchmarks:
        found = load_items(benchmark)
        kept = set(sorted(item.key for item in found)[:limit])
        items += [item for item in found if item.key in kept]
    return items


async def _record(
    clients: Sequence[Client],
    items: Sequence[Item],
    sequences: int,
    record_dir: Path | None,
    report: Report,
) -> Bundle:
    runs = []
    for number, client in enumerate(clients):
        path = f"answers-{number}-c{client.concurrency}.jsonl"
        log = AnswerLog(record_dir / path if record_dir else None)
        async with client:
            capabilities = await probe(client)
            stage = f"answer {client.concurrency}"
            answers = await ask(
                client,
                capabilities,
                items,
                log=log,
                report=report,
                stage=stage,
                token_ids=capabilities.return_token_ids,
            )
            _none_missing(answers)
            if number == 0:
                prompts = await parity.count(client, capabilities, parity.cases(items))
                passages = choose(items, answers, sequences)
            scores = await _scores(client, capabilities, passages, report)
            runs.append((answers, scores))
    first, first_scores = runs[0]
    concurrency = [client.concurrency for client in clients]
    manifest = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "flagdeploy": __version__,
        "python": platform.python_version(),
        "endpoint": capabilities.to_json(),
        "sampling": {"temperature": 0},
        "concurrency": concurrency,
        "prompt_logprobs": min(TOP_K, capabilities.prompt_logprobs),
        "noise_floor": _floor(runs, concurrency),
    }
    return Bundle(
        name="",
        manifest=manifest,
        prompts=tuple(prompts),
        items=tuple(items),
        answers=tuple(first),
        passages=tuple(
            replace(passage, positions=first_scores[passage.key]) for passage in passages
        ),
    )


def _none_missing(answers: Sequence[Answer]) -> None:
    missing = [answer for answer in answers if answer.status in MISSING]
    if missing:
        raise EvalError(
            f"{len(missing)} of {len(answers)} questions got no answer, the first: "
            f"{missing[0].error}",
            hint="a baseline must be whole; the answers so far are kept in the record folder",
        )


def choose(items: Sequence[Item], answers: Sequence[Answer], count: int) -> list[Passage]:
    """`count` questions whose tokens are known, taken in turn from each benchmark by hash."""
    usable = sorted(
        (
            Passage(
                item.key,
                item.task,
                tuple(answer.prompt_token_ids),
                tuple(answer.token_ids),
                (),
            )
            for item, answer in zip(items, answers, strict=True)
            if answer.prompt_token_ids and answer.token_ids
        ),
        key=lambda passage: passage.key,
    )
    turns: dict[str, int] = {}
    ranked = []
    for passage in usable:
        turns[passage.task] = turns.get(passage.task, 0) + 1
        ranked.append((turns[passage.task], passage.task, passage))
    return [passage for _, _, passage in sorted(ranked, key=lambda row: row[:2])[:count]]


async def _scores(
    client: Client, capabilities: Capabilities, passages: Sequence[Passage], report: Report
) -> dict[str, tuple[Position, ...]]:
    if not passages:
        return {}
    if not capabilities.prompt_logprobs:
        report(Event("score", "the endpoint gives no prompt log-probabilities: accuracy only"))
        return {passage.key: () for passage in passages}
    scores = await teacher_forcing.score(client, capabilities, passages, TOP_K, report)
    if len(scores) < len(passages):
        raise EvalError(f"{len(passages) - len(scores)} of {len(passages)} sequences not scored")
    return scores


Run = tuple[list[Answer], dict[str, tuple[Position, ...]]]


def _floor(runs: Sequence[Run], concurrency: Sequence[int]) -> dict[str, Any]:
    """The largest distance of any repeat from the first run; empty without repeats."""
    if len(runs) < 2:
        return {}
    first, scores = runs[0]
    repeats = []
    for answers, again in runs[1:]:
        pairs = list(zip(first, answers, strict=True))
        apart = [
            teacher_forcing.difference(key, positions, again[key])
            for key, positions in scores.items()
            if positions
        ]
        partings = [
            parting(a.item, a.token_ids, b.token_ids, cut=b.status == "length")
            for a, b in pairs
            if a.token_ids and b.token_ids
        ]
        scored = [(a.score, b.score) for a, b in pairs]
        row = distance(scored, apart, partings)
        row["different_text"] = sum(a.content != b.content for a, b in pairs) / len(pairs)
        repeats.append(row)
    return {"runs": len(runs), "concurrency": list(concurrency), **largest(repeats)}


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


def described(found: Bundle | Table) -> dict[str, Any]:
    """A baseline as plain data: the manifest of a bundle, the scores of a table."""
    if isinstance(found, Table):
        return asdict(found)
    held = {"prompts": found.prompts, "answers": found.answers, "sequences": found.passages}
    return {**found.manifest, "holds": {name: len(rows) for name, rows in held.items()}}


def summary(found: Bundle | Table) -> str:
    """A baseline in a few lines of text."""
    if isinstance(found, Table):
        scores = (
            f"  {task:<12} {f'{score.value:.2%} of {score.n}' if score else '-'}"
            for task, score in found.scores.items()
        )
        return "\n".join([f"{found.title} ({found.source})", *scores])
    manifest = found.manifest
    endpoint = manifest["endpoint"]
    lines = [
        f"{found.name}: {endpoint['model']}, recorded {manifest['created']} "
        f"with flagdeploy {manifest['flagdeploy']}",
        f"engine version {endpoint['version'] or 'unknown'}, "
        f"context {endpoint['max_model_len'] or 'unknown'}, "
        f"{endpoint['prompt_logprobs']} log-probabilities per prompt token",
    ]
    lines += [f"{key}: {value}" for key, value in manifest["facts"].items()]
    lines += [
        f"  {row['name']:<12} {row['accuracy']:.2%} of {row['n']}" for row in manifest["benchmarks"]
    ]
    tokens = sum(len(passage.continuation) for passage in found.passages)
    lines.append(
        f"{len(found.passages)} sequences of {tokens} tokens, {len(found.prompts)} prompts"
    )
    floor = found.noise_floor
    if floor:
        hidden = ("runs", "sequences")
        rows = ", ".join(f"{key} {floor[key]}" for key in floor if key not in hidden)
        lines.append(f"noise floor over {floor['runs']} runs: {rows}")
    return "\n".join(lines)
