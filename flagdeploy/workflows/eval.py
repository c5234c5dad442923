"""eval: find the questions > probe > ask and record > grade by both rules > run code, or not."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flagdeploy import __version__
from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import UsageError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals import lm_eval_results
from flagdeploy.evals.address import base_url
from flagdeploy.evals.answers import AnswerLog, Sampling, ask
from flagdeploy.evals.arrivals import OpenLoop
from flagdeploy.evals.benchmarks import Benchmark, fitting, load_benchmarks, of_dataset
from flagdeploy.evals.capabilities import Capabilities, probe
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.grading import shapes
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.evals.grading.grader import Grades
from flagdeploy.evals.items import Item, load_items, load_repeated
from flagdeploy.evals.scores import Judged, Result, mlperf_gate
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.records.files import write_private
from flagdeploy.workflows import eval_code
from flagdeploy.workflows.sides import endpoint_of


@dataclass(frozen=True)
class Asking:
    """How questions are asked, where that is not as their set usually is (None)."""

    repeats: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    limit: int | None = None
    rate: float | None = None  # requests per second, at random moments; None: as slots get free

    def sampling(self, benchmark: Benchmark) -> Sampling:
        """Raises UsageError for repeats that would all be the same."""
        usual = datasets.load(benchmark.dataset) if benchmark.dataset else None
        temperature = self.temperature
        if temperature is None:
            temperature = usual.temperature if usual else 0.0
        greedy = temperature == 0.0
        repeats = self.repeats or (usual.repeats if usual and not greedy else 1)
        if greedy and repeats > 1:
            raise UsageError(
                f"--repeats {repeats}: a greedy answer asked again is the same answer, no further "
                f"sample of {benchmark.name}",
                hint="give a --temperature, or ask once",
            )
        top_p = self.top_p if self.top_p is not None or usual is None else usual.top_p
        if self.temperature is not None and self.top_p is None:
            top_p = None
        effort = usual.reasoning_effort if usual else None
        return Sampling(temperature, top_p, self.seed, repeats, reasoning_effort=effort)


@dataclass(frozen=True)
class EvalResult:
    """All benchmarks of one endpoint, in the order asked."""

    endpoint: dict[str, Any]
    url: str
    results: tuple[Result, ...]
    record_dir: Path | None

    @property
    def model(self) -> str:
        return str(self.endpoint["model"])

    def to_json(self) -> dict[str, Any]:
        return {
            "flagdeploy": __version__,
            "url": self.url,
            "endpoint": self.endpoint,
            "results": [result.to_json() for result in self.results],
        }


def evaluate(
    source: str | Endpoint | None,
    names: Sequence[str] = (),
    *,
    benchmarks: Path | None = None,
    data: Path | None = None,
    asking: Asking | None = None,
    concurrency: int = 16,
    code_image: str | None = None,
    hosts: str | None = None,
    record_dir: Path | None = None,
    lm_eval: Path | None = None,
    workspace: str | None = None,
    patience: Patience | None = None,
    report: Report = silent,
) -> EvalResult:
    """Ask `source` (a URL, or a deployment that runs) the public data sets `names`, or the folder
    `benchmarks`, or what the deployment brings, and grade the answers.

    Sets are found in `data` or where `dataset.find_files` looks. With `record_dir` an interrupted
    run goes on where it was. Generated code runs in containers of `code_image` on the first of
    `hosts`, or not at all. `lm_eval` is a folder for lm-evaluation-harness's files.

    Raises UsageError for what cannot be asked so, EvalError when the endpoint is gone.
    """
    root = workspaces.find(workspace)
    asking = asking or Asking()
    endpoint = source if isinstance(source, Endpoint) else None
    asked = [of_dataset(name, data, root) for name in names]
    samplings = [asking.sampling(benchmark) for benchmark in asked]
    endpoint = endpoint or endpoint_of(source if isinstance(source, str) else None, root)
    if not names:
        folder = benchmarks or (root / "examples" / endpoint.name if endpoint.name else None)
        if folder is None:
            raise UsageError(
                "what shall be asked?",
                "--dataset NAME, and `flagdeploy pull --dataset list` names them",
            )
        asked = load_benchmarks(folder)
        samplings = [asking.sampling(benchmark) for benchmark in asked]
    work = _Work(asking, concurrency, record_dir, patience, report)
    capabilities, results = run(_asked(endpoint, list(zip(asked, samplings, strict=True)), work))
    results = [
        _gated(
            eval_code.graded(result, benchmark, code_image, hosts, root, data, report), benchmark
        )
        for result, benchmark in zip(results, asked, strict=True)
    ]
    url = base_url(endpoint.url)
    found = EvalResult(capabilities.to_json(), url, tuple(results), record_dir)
    if record_dir is not None:
        text = json.dumps(found.to_json(), indent=2, ensure_ascii=False)
        write_private(record_dir / "result.json", text.encode() + b"\n")
    if lm_eval is not None:
        about = {"flagdeploy_version": __version__}
        when = datetime.now(UTC).replace(tzinfo=None)
        path = lm_eval_results.write(lm_eval, found.model, url, results, about, when)
        report(Event("eval", f"written: {path}"))
    return found


def _gated(result: Result, benchmark: Benchmark) -> Result:
    dataset = datasets.load(benchmark.dataset) if benchmark.dataset else None
    note = mlperf_gate(result, dataset) if dataset else None
    return replace(result, notes=(*result.notes, note)) if note else result


def new_record_dir(workspace: str | None = None) -> Path:
    """A folder name under `runs/` that no earlier evaluation used; nothing is created yet."""
    root = workspaces.find(workspace)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return workspaces.state_folder(root) / f"eval-{stamp}-{os.getpid()}"


@dataclass(frozen=True)
class _Work:
    asking: Asking
    concurrency: int
    record_dir: Path | None
    patience: Patience | None
    report: Report


async def _asked(
    endpoint: Endpoint, asked: Sequence[tuple[Benchmark, Sampling]], work: _Work
) -> tuple[Capabilities, list[Result]]:
    async with Client(endpoint, work.concurrency, work.patience) as client:
        capabilities = await probe(client)
        results = [
            await _one(client, capabilities, benchmark, sampling, work)
            for benchmark, sampling in asked
        ]
    return capabilities, results


async def _one(
    client: Client,
    capabilities: Capabilities,
    benchmark: Benchmark,
    sampling: Sampling,
    work: _Work,
) -> Result:
    most, notes = _max_tokens(benchmark, capabilities, work.asking)
    benchmark = replace(benchmark, max_tokens=most)
    both = _Both()
    path = work.record_dir / f"answers-{benchmark.name}.jsonl" if work.record_dir else None
    judged: list[Judged] = []
    rate = work.asking.rate
    open_loop = OpenLoop(rate, work.asking.seed or 0) if rate else None
    for times, items in _by_repeats(benchmark, work.asking.limit).items():
        answers = await ask(
            client,
            capabilities,
            items,
            log=AnswerLog(path),
            report=work.report,
            stage=benchmark.name,
            sampling=replace(sampling, repeats=sampling.repeats * times),
            grade=both,
            open_loop=open_loop,
        )
        by_key = {item.key: item for item in items}
        judged += [both.judged(by_key[answer.item], answer) for answer in answers]
    settings = {
        **benchmark.to_json(),
        "prompt": benchmark.prompt,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "repeats": sampling.repeats,
        "limit": work.asking.limit,
        "concurrency": client.concurrency,
        "rate": rate,
    }
    title = datasets.load(benchmark.dataset).title if benchmark.dataset else benchmark.name
    if open_loop and open_loop.late:
        notes = (
            *notes,
            f"requests sent late: {open_loop.late}; {rate:g} a second want more than "
            f"{client.concurrency} in flight (--concurrency)",
        )
    notes = (*notes, *_about_files(benchmark, settings["sha256"]), *_unanswered(judged))
    return Result(benchmark.name, title, tuple(judged), settings, notes)


def _max_tokens(
    benchmark: Benchmark, capabilities: Capabilities, asking: Asking
) -> tuple[int, tuple[str, ...]]:
    """What was asked for; else what is usual, as far as the endpoint's context holds it."""
    if asking.max_tokens:
        return asking.max_tokens, ()
    most = fitting(benchmark, capabilities.max_model_len).max_tokens
    if most == benchmark.max_tokens:
        return most, ()
    return most, (
        f"replies were limited to {most} tokens instead of {benchmark.max_tokens}, because the "
        f"endpoint's context has {capabilities.max_model_len}",
    )


def _by_repeats(benchmark: Benchmark, limit: int | None) -> dict[int, list[Item]]:
    """Questions by how many rows of their set they are, nearly always one.

    Of each benchmark the `limit` with the smallest content hash, as `baseline record` has it.
    """
    rows = (
        load_repeated(benchmark)
        if benchmark.dataset
        else [(item, 1) for item in load_items(benchmark)]
    )
    kept = set(sorted(item.key for item, _ in rows)[:limit])
    groups: dict[int, list[Item]] = {}
    for item, times in rows:
        if item.key in kept:
            groups.setdefault(times, []).append(item)
    return groups


def _about_files(benchmark: Benchmark, found: str) -> tuple[str, ...]:
    """A note when the one file of a set is not the one that its hash is known of."""
    if not benchmark.dataset or len(benchmark.files) != 1:
        return ()
    known = {h for h in datasets.load(benchmark.dataset).hashes.values() if len(h) == len(found)}
    if not known or found in known:
        return ()
    return (f"{benchmark.file} is not the published file: its sha256 is {found[:16]}...",)


def _unanswered(judged: Sequence[Judged]) -> tuple[str, ...]:
    """What the endpoint said to the first question that it gave no reply to."""
    said = [one.answer.error for one in judged if one.answer.error]
    more = f", and {len(said) - 1} more" if len(said) > 1 else ""
    return (f"without a reply: {said[0][:300]}{more}",) if said else ()


class _Both:
    """Grades by both rules, and keeps both; gives the one that the question's shape names."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str | None], Grades] = {}

    def __call__(self, item: Item, text: str, finish_reason: str | None) -> Grade:
        grades = shapes.both(item.shape, text, item.gold, finish_reason)
        self._found[item.key, text, finish_reason] = grades
        return shapes.primary(item.shape, grades)

    def judged(self, item: Item, answer: Any) -> Judged:
        key = (item.key, answer.content, answer.finish_reason)
        grades = self._found.get(key)
        if grades is None and answer.score is not None:  # refused: graded as saying nothing
            grades = shapes.both(item.shape, "", item.gold)
        return Judged(item, answer, grades)
