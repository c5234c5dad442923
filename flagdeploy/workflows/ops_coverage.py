"""`flagdeploy ops coverage`: whose kernels do a model's work, of a deployment or in traces."""

import json
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, zip_longest
from pathlib import Path
from typing import Any

from flagdeploy import engines
from flagdeploy.config import workspace as workspaces
from flagdeploy.engines.arguments import Table
from flagdeploy.errors import ConfigError, EvalError, UsageError
from flagdeploy.evals.benchmarks import load_benchmarks
from flagdeploy.evals.client import Client, Endpoint, Reply, run
from flagdeploy.evals.items import Message, load_items
from flagdeploy.evals.prompts import read_prompts
from flagdeploy.operators import scan
from flagdeploy.operators.attribution import evidence
from flagdeploy.operators.coverage import Coverage, measure
from flagdeploy.operators.trace import read_traces
from flagdeploy.operators.trace_files import SUFFIXES
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.files import write_private
from flagdeploy.workflows import places as placed
from flagdeploy.workflows import sides
from flagdeploy.workflows.profile import Place, folder_of, profile

LIBRARY = "flag_gems"
REQUESTS = 8
MAX_TOKENS = 64


@dataclass(frozen=True)
class Asking:
    """What is asked while the profile runs, all at once; `warm_up` before (None: as many), so that
    kernels are compiled and tuned by then. `prompts` is a file of prompts; without one the
    questions of the deployment's benchmark.yaml are asked. Replies are greedy.

    The warm-up asks the same, so that every shape was there; but others of an engine that would
    take the prompts from its prefix cache."""

    requests: int = REQUESTS
    warm_up: int | None = None
    max_tokens: int = MAX_TOKENS
    prompts: Path | None = None

    @property
    def before(self) -> int:
        return self.requests if self.warm_up is None else self.warm_up


def of_deployment(
    name: str | None = None,
    asking: Asking | None = None,
    *,
    timeout_s: float = 1800.0,
    workspace: str | None = None,
    report: Report = silent,
) -> Coverage:
    """Profile the running deployment `name` (None: the only one) with real requests.

    Traces, evidence and result are kept in a new folder under `runs/`, whose path is in `about`.
    Raises UsageError for a deployment that does not run or was served without its profiler,
    EvalError when requests fail, and what `profile` raises.
    """
    asking = asking or Asking()
    root = workspaces.find(workspace)
    endpoint = sides.endpoint_of(name, root)
    if not endpoint.name:
        raise UsageError(f"{name}: only a deployment's traces can be fetched", "--trace FILE")
    config = sides.deployed(endpoint, root) or {}
    folder = folder_of(endpoint.name, config)
    table = engines.load(config["engine"], root).table
    questions = _questions(endpoint.name, asking, root)
    warm_up = _warm_up(questions, asking, caches=_caches_prefixes(table, config))
    record = _new_record(root)
    report(Event("warm-up", f"warming up with {asking.before} requests"))
    _asked(endpoint, warm_up, asking.max_tokens)
    replies: list[Reply] = []

    def ask() -> None:
        report(Event("ask", f"asking {asking.requests} requests"))
        asked = list(islice(cycle(questions), asking.requests))
        replies.extend(_asked(endpoint, asked, asking.max_tokens))

    with placed.launchers(endpoint.name, root) as launchers:
        ranks = [
            Place(rank, launcher, folder)
            for launcher in launchers.values()
            for rank in launcher.running(endpoint.name)
            if rank.state == "running" and not rank.stage
        ]
        packages = {"library": [LIBRARY], "engine": list(table.packages)}
        found = profile(
            ranks, endpoint, ask, packages,
            to=record / "traces", timeout_s=timeout_s, report=report,
        )  # fmt: skip
    write_private(record / "evidence.json", json.dumps(found.scans).encode())
    about = {
        "deployment": endpoint.name,
        "engine": f"{table.title} {config['engine_version']}".strip(),
        "library": config["operators"]["library"],
        "requests": len(replies),
        "warm_up": asking.before,
        "max_tokens": asking.max_tokens,
        "prompt_tokens": _tokens(replies, "prompt_tokens"),
        "completion_tokens": _tokens(replies, "completion_tokens"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "folder": str(record),
        "command": _command(endpoint.name, asking, workspace),
    }
    report(Event("measure", f"reading {len(found.traces)} traces"))
    coverage = measure(read_traces(found.traces), evidence(found.scans), about)
    text = json.dumps(coverage.to_dict(), indent=2, ensure_ascii=False)
    write_private(record / "coverage.json", text.encode() + b"\n")
    return coverage


def of_traces(
    traces: Sequence[Path],
    *,
    triton_caches: Sequence[Path] = (),
    library_sources: Sequence[Path] = (),
    engine_sources: Sequence[Path] = (),
    evidence_file: Path | None = None,
) -> Coverage:
    """Read traces that exist (files, or folders of them), of one profile, each of them once.

    What says whose kernels they are is read from the folders of Triton's cache and of the packages'
    sources, or from what `of_deployment` kept. Raises UsageError for what cannot be read.
    """
    for folder in (*triton_caches, *library_sources, *engine_sources):
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder")
    files = _once(file for path in traces for file in _files(path))
    scans = _kept(evidence_file) if evidence_file else []
    if triton_caches or library_sources or engine_sources:
        request = {
            "library": [str(path.absolute()) for path in library_sources],
            "engine": [str(path.absolute()) for path in engine_sources],
            "caches": [str(path) for path in triton_caches],
            "code_caches": [],
        }
        # What is installed here made no such trace.
        scans.append({**scan.scan(request), "versions": {}})
    options = {
        "--trace": traces,
        "--triton-cache": triton_caches,
        "--library-source": library_sources,
        "--engine-source": engine_sources,
        "--evidence": [evidence_file] if evidence_file else [],
    }
    words = [word for option, paths in options.items() for p in paths for word in (option, str(p))]
    about = {"command": shlex.join(["flagdeploy", "ops", "coverage", *words])}
    return measure(read_traces(files), evidence(scans), about)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.rglob("*") if one.name.endswith(SUFFIXES) and one.is_file())
    if not found:
        raise UsageError(f"{path}: holds no traces ({', '.join(SUFFIXES)})")
    return found


def _once(files: Iterable[Path]) -> list[Path]:
    """Without those named again, also by a link or unpacked beside it, which would count twice."""
    return list({str(file.resolve()).removesuffix(".gz"): file for file in files}.values())


def _kept(path: Path) -> list[Mapping[str, Any]]:
    try:
        scans = json.loads(path.read_bytes())
        evidence(scans)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{path}: is no evidence.json", "`ops coverage NAME` keeps one beside its traces"
        ) from None
    return list(scans)


def _questions(name: str, asking: Asking, root: Path) -> list[tuple[Message, ...]]:
    """All there are, in the order of asking."""
    if asking.prompts:
        return [prompt.messages for prompt in read_prompts(asking.prompts)]
    try:
        sets = [load_items(one) for one in load_benchmarks(root / "examples" / name)]
    except (UsageError, ConfigError) as error:
        raise UsageError(f"no questions to ask: {error}", "--prompts FILE") from None
    # By hash, as `eval --limit` chooses, and from every benchmark in turn.
    sets = [sorted(items, key=lambda item: item.key) for items in sets]
    return [item.messages for item in chain(*zip_longest(*sets)) if item]


def _caches_prefixes(table: Table, config: Mapping[str, Any]) -> bool:
    key = "kv_cache.block_reuse"
    return key not in table.unsupported and config["kv_cache"]["block_reuse"] is not False


def _warm_up(
    questions: Sequence[tuple[Message, ...]], asking: Asking, *, caches: bool
) -> list[tuple[Message, ...]]:
    first = asking.requests if caches else 0
    return list(islice(cycle(questions), first, first + asking.before))


def _asked(
    endpoint: Endpoint, questions: Sequence[tuple[Message, ...]], max_tokens: int
) -> list[Reply]:
    """Raises EvalError when one is not answered: a profile of failures says nothing."""
    replies = run(_replies(endpoint, questions, max_tokens)) if questions else []
    failed = [reply for reply in replies if reply.status != "ok"]
    if failed:
        what = f"{len(failed)} of {len(replies)} requests failed: {failed[0].error}"
        raise EvalError(what, "flagdeploy logs")
    return replies


async def _replies(
    endpoint: Endpoint, questions: Sequence[tuple[Message, ...]], max_tokens: int
) -> list[Reply]:
    import asyncio

    async with Client(endpoint, len(questions)) as client:
        payload = {"model": endpoint.model, "max_tokens": max_tokens, "temperature": 0}
        posts = [
            client.post("/chat/completions", {**payload, "messages": list(messages)})
            for messages in questions
        ]
        return list(await asyncio.gather(*posts))


def _tokens(replies: Sequence[Reply], kind: str) -> int:
    return sum(int(((reply.body or {}).get("usage") or {}).get(kind) or 0) for reply in replies)


def _new_record(root: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return workspaces.state_folder(root) / f"coverage-{stamp}-{secrets.token_hex(2)}"


def _command(name: str, asking: Asking, workspace: str | None) -> str:
    words = ["flagdeploy", "ops", "coverage", name, "--requests", str(asking.requests)]
    words += ["--warm-up", str(asking.before), "--max-tokens", str(asking.max_tokens)]
    words += ["--prompts", str(asking.prompts)] if asking.prompts else []
    words += ["--workspace", workspace] if workspace else []
    return shlex.join(words)
