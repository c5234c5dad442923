"""Record a baseline from a live endpoint, and say what it holds.

Kept free of the configuration loader, so that a machine with an accelerator and little else
installed can record.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flagdeploy import __version__
from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import EvalError, UsageError
from flagdeploy.evals import parameters, parity, scoring
from flagdeploy.evals.answers import MISSING, Answer, AnswerLog, account, ask
from flagdeploy.evals.benchmarks import Benchmark, benchmarks_of, of_dataset
from flagdeploy.evals.bundle import SUFFIX, Bundle, fingerprint, write_bundle
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.divergence import partings
from flagdeploy.evals.items import Item, questions
from flagdeploy.evals.noise_floor import distance, largest
from flagdeploy.evals.suites import chosen, suite_named
from flagdeploy.evals.tables import Table
from flagdeploy.evals.teacher_forcing import Passage, Position, differences
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.sides import deployed, endpoint_of, folders

SEQUENCES, MOST_SEQUENCES = 64, 256
TOP_K = 20
CONCURRENCY = (16, 64)

Scores = dict[str, tuple[Position, ...]]


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
    if suite is not None:
        size = suite_named(suite)
        kept = {item.key for item in chosen(items, size.questions)}
        items = [item for item in items if item.key in kept]
        most = size.sequences or MOST_SEQUENCES
    else:
        most = SEQUENCES
    sequences = most if sequences is None else sequences
    _check_places(out, checkpoint)
    clients = [Client(endpoint, width, patience) for width in concurrency]
    bundle = run(_record(clients, items, sequences, mode, record_dir, report))
    manifest = {
        **bundle.manifest,
        "benchmarks": [_summary(row, bundle.answers) for row in asked],
        "deployment": deployment,
        "facts": dict(facts or {}),
        "lock_sha256": _digest(deployment) if deployment else None,
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


@dataclass(frozen=True)
class _Run:
    """Everything asked once: answers and scores by mode."""

    answers: list[Answer]
    scores: dict[str, Scores]


async def _record(
    clients: Sequence[Client],
    items: Sequence[Item],
    sequences: int,
    mode: str | None,
    record_dir: Path | None,
    report: Report,
) -> Bundle:
    runs: list[_Run] = []
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
                modes = modes_of(capabilities, mode)
                prompts = await parity.count(client, capabilities, parity.cases(items))
                facts = await _parameters(client, capabilities, items, answers)
                passages = choose(items, answers, sequences)
            scores = {m: await _scores(client, capabilities, passages, m, report) for m in modes}
            if not modes:
                report(Event("score", "the endpoint scores no given tokens: accuracy only"))
            runs.append(_Run(answers, scores))
    repeats = _repeats(runs, clients)
    first = runs[0]
    manifest = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "flagdeploy": __version__,
        "python": platform.python_version(),
        "endpoint": capabilities.to_json(),
        "parameters": facts,
        "sampling": {"temperature": 0},
        "concurrency": [client.concurrency for client in clients],
        "modes": modes,
        "prompt_logprobs": alternatives(capabilities, modes),
        "repeats": [_shown(row) for row in repeats],
        "noise_floor": _floor(repeats, clients),
    }
    return Bundle(
        name="",
        manifest=manifest,
        prompts=tuple(prompts),
        items=tuple(items),
        answers=tuple(first.answers),
        passages=tuple(in_modes(passage, first.scores, modes) for passage in passages),
    )


def modes_of(capabilities: Capabilities, mode: str | None) -> list[str]:
    """The modes a baseline is scored in: the best, or `mode`, and by decoding too where it can.

    So a candidate that can only the one or the other finds its counterpart.
    """
    best = scoring.check_mode(capabilities, mode)
    both = mode is None and "D" in capabilities.modes
    return list(dict.fromkeys([best, "D"] if both else [best])) if best else []


def alternatives(capabilities: Capabilities, modes: Sequence[str]) -> int:
    """How many are asked for at every position, over all `modes`."""
    by_mode = {"S": capabilities.prompt_logprobs}
    return min(TOP_K, max((by_mode.get(mode, capabilities.logprobs) for mode in modes), default=0))


async def _parameters(
    client: Client, capabilities: Capabilities, items: Sequence[Item], answers: Sequence[Answer]
) -> dict[str, Any]:
    facts = await parameters.observe(client, capabilities, parameters.asked(items, answers))
    needed = [
        (answer.prompt_tokens or 0) + item.max_tokens
        for item, answer in zip(items, answers, strict=True)
    ]
    return {**facts, "longest": max(needed, default=0)}


def in_modes(passage: Passage, scores: Mapping[str, Scores], modes: Sequence[str]) -> Passage:
    """`passage` with its positions in the first of `modes`, and by decoding if that comes next."""
    if not scores:
        return passage
    positions = {mode: scores[mode][passage.key] for mode in modes}
    decoded = positions["D"] if modes[1:] else ()
    return replace(passage, positions=positions[modes[0]], mode=modes[0], decoded=decoded)


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
            if answer.prompt_token_ids
            and answer.token_ids
            and len(answer.prompt_token_ids) < scoring.LONGEST
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
    client: Client,
    capabilities: Capabilities,
    passages: Sequence[Passage],
    mode: str,
    report: Report,
) -> Scores:
    scores = await scoring.score(
        client, capabilities, passages, TOP_K, report, mode, scoring.POSITIONS
    )
    if len(scores) < len(passages):
        raise EvalError(f"{len(passages) - len(scores)} of {len(passages)} sequences not scored")
    return scores


def _repeats(runs: Sequence[_Run], clients: Sequence[Client]) -> list[dict[str, Any]]:
    """How far every further run is from the first, each with what tells whether it is the same."""
    first, rows = runs[0], []
    for client, again in zip(clients[1:], runs[1:], strict=True):
        pairs = list(zip(first.answers, again.answers, strict=True))
        apart = [differences(scores, again.scores[mode]) for mode, scores in first.scores.items()]
        best, *more = apart or [[]]
        parted = partings(first.answers, again.answers)
        row = distance([(a.score, b.score) for a, b in pairs], best, parted)
        if more:
            decoded = distance([(0.0, 0.0)], more[0], [])
            row["decoded"] = {key: decoded[key] for key in FORCED if key in decoded}
        row["different_text"] = sum(a.content != b.content for a, b in pairs) / len(pairs)
        row["concurrency"] = client.concurrency
        row["texts_sha256"] = _digest([answer.content for answer in again.answers])
        rows.append(row)
    return rows


FORCED = ("top1", "delta_nll", "kl", "logit_noise", "sequences")
NO_FIGURE = ("concurrency", "texts_sha256", "decoded")


def _floor(repeats: Sequence[Mapping[str, Any]], clients: Sequence[Client]) -> dict[str, Any]:
    """The largest distance of any repeat from the first run; empty without repeats."""
    if not repeats:
        return {}
    widths = [client.concurrency for client in clients]
    figures = [{k: v for k, v in row.items() if k not in NO_FIGURE} for row in repeats]
    floor = {"runs": len(clients), "concurrency": widths, **largest(figures)}
    decoded = [row["decoded"] for row in repeats if "decoded" in row]
    if decoded:
        floor["decoded"] = largest(decoded)
    return floor


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A repeat without what each sequence differed: the floor holds the largest of that."""
    return {
        key: _shown(value) if isinstance(value, Mapping) else value
        for key, value in row.items()
        if key != "sequences"
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


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
    lines += [f"{name} sha256 {digest[:16]}" for name, digest in _digests(manifest)]
    lines += [
        f"  {row['name']:<12} {row['accuracy']:.2%} of {row['n']}" for row in manifest["benchmarks"]
    ]
    tokens = sum(len(passage.continuation) for passage in found.passages)
    modes = " and ".join(manifest.get("modes", ()))
    scored = f", scored in mode {modes}" if modes else ""
    lines.append(
        f"{len(found.passages)} sequences of {tokens} tokens{scored}, {len(found.prompts)} prompts"
    )
    if manifest.get("parameters"):
        lines += [f"parameters: {line}" for line in parameters.described(manifest["parameters"])]
    floor = found.noise_floor
    if floor:
        lines.append(f"noise floor over {floor['runs']} runs: {_figures(floor)}")
    if "decoded" in floor:
        lines.append(f"noise floor of mode D: {_figures(floor['decoded'])}")
    return "\n".join(lines)


def _digests(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if manifest.get("lock_sha256"):
        yield "configuration", manifest["lock_sha256"]
    if manifest.get("checkpoint"):
        yield "checkpoint", manifest["checkpoint"]["sha256"]


def _figures(floor: Mapping[str, Any]) -> str:
    hidden = ("runs", "sequences", "decoded")
    return ", ".join(f"{key} {floor[key]}" for key in floor if key not in hidden)
