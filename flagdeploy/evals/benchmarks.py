"""Which questions to ask: `benchmark.yaml` and the files of its folder, or public sets.

::

    benchmarks:
      - name: arithmetic
        shape: gsm8k            # gsm8k | mmlu | aime: the keys of the file and the grader
        file: questions/arithmetic.jsonl
        prompt: "{question}\\nPut the final answer within \\\\boxed{}."
        max_tokens: 160
        margin_pp: 3.0          # optional: how many points lower still counts as the same
      - dataset: gsm8k          # a public set (datasets/), where `find_files` finds it; name,
                                # file, prompt, max_tokens and margin_pp say something else

`items` reads the questions themselves and fills the prompt.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import ConfigError, Problem, UsageError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals.grading.plain import RULES

PROMPT_TOKENS = 4096  # what is left for the question where a reply may fill the context


@dataclass(frozen=True)
class Benchmark:
    """One benchmark; `margin_pp` in percentage points, None for the default of 1% of the score.

    `shape` names how it is graded, see grading/shapes.py. Of a public set, `dataset` is its name,
    `files` are its files and `file` is the first.
    """

    name: str
    shape: str
    file: Path
    prompt: str
    max_tokens: int
    margin_pp: float | None = None
    dataset: str | None = None
    files: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What a record keeps of it: all but the prompt, and the questions' SHA-256; of several
        files that of their hashes."""
        hashes = [_sha256(path) for path in self.files or (self.file,)]
        joined = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode())
        return {
            "name": self.name,
            "shape": self.shape,
            "file": self.file.name,
            "max_tokens": self.max_tokens,
            "margin_pp": self.margin_pp,
            "sha256": joined if isinstance(joined, str) else joined.hexdigest(),
            **({"dataset": self.dataset, "files": len(hashes)} if self.dataset else {}),
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_benchmarks(folder: Path) -> list[Benchmark]:
    """Read `folder`/benchmark.yaml; raise ConfigError with every problem of the file."""
    path = folder / "benchmark.yaml"
    if not path.is_file():
        raise UsageError(
            f"{folder} has no benchmark.yaml, so there are no questions to ask",
            hint="name a folder that has one, or compare against a bundle, which brings its own",
        )
    rows = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("benchmarks", [])
    problems = [
        Problem(str(path), f"benchmarks[{index}].{key}", what)
        for index, row in enumerate(rows)
        for key, what in _problems(row, folder)
    ]
    if problems or not rows:
        raise ConfigError(problems or [Problem(str(path), "benchmarks", "is empty or missing")])
    return [_benchmark(row, folder) for row in rows]


def fitting(benchmark: Benchmark, context: int | None) -> Benchmark:
    """`benchmark` with replies as long as a `context` of so many tokens holds beside a question.

    A request for more is refused by most engines, and says nothing about the model then.
    """
    if context is None or benchmark.max_tokens + PROMPT_TOKENS <= context:
        return benchmark
    most = max(context - PROMPT_TOKENS, context // 2)
    return replace(benchmark, max_tokens=min(benchmark.max_tokens, most))


def benchmarks_of(given: Path | Sequence[Benchmark]) -> list[Benchmark]:
    """Those of a folder, or those given."""
    return load_benchmarks(given) if isinstance(given, Path) else list(given)


def _benchmark(row: dict[str, Any], folder: Path) -> Benchmark:
    if "dataset" not in row:
        return Benchmark(**{**row, "file": folder / row["file"]})
    data = folder / row["file"] if "file" in row else None
    told = {key: row[key] for key in row.keys() - {"dataset", "file"}}
    return replace(of_dataset(row["dataset"], data, workspaces.find(cwd=folder)), **told)


def of_dataset(name: str, data: Path | None = None, workspace: Path | None = None) -> Benchmark:
    """The public set `name` as a benchmark; raises UsageError when it is unknown or not here."""
    dataset = datasets.load(name)
    name = datasets.canonical(name)
    files = tuple(datasets.find_files(name, data, workspace))
    return Benchmark(
        name=name,
        shape=f"{dataset.rule}:{dataset.grader}",
        file=files[0],
        prompt=dataset.prompt,
        max_tokens=dataset.max_tokens,
        margin_pp=dataset.margin_pp,
        dataset=name,
        files=files,
    )


def _problems(row: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    if "dataset" in row:
        yield from _dataset_problems(row, folder)
        return
    required = {"name": str, "shape": str, "file": str, "prompt": str, "max_tokens": int}
    for key, kind in required.items():
        if not isinstance(row.get(key), kind):
            yield key, f"must be given as {kind.__name__}"
    for key in row.keys() - required.keys() - {"margin_pp"}:
        yield key, "unknown key"
    if row.get("shape") not in RULES:
        yield "shape", f"`{row.get('shape')}` is not one of {', '.join(RULES)}"
    if "{question}" not in str(row.get("prompt")):
        yield "prompt", "has no {question}"
    if not (folder / str(row.get("file"))).is_file():
        yield "file", f"{folder / str(row.get('file'))} does not exist"


def _dataset_problems(row: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
    optional: dict[str, Any] = {
        "name": str,
        "file": str,
        "prompt": str,
        "max_tokens": int,
        "margin_pp": (int, float),
    }
    for key in row.keys() - {"dataset"}:
        if key not in optional:
            yield key, "unknown key"
        elif not isinstance(row[key], optional[key]):
            yield key, f"`{row[key]}` is of the wrong type"
    if "{question}" not in str(row.get("prompt", "{question}")):
        yield "prompt", "has no {question}"
    data = folder / str(row["file"]) if "file" in row else None
    try:
        datasets.find_files(
            datasets.canonical(str(row["dataset"])), data, workspaces.find(cwd=folder)
        )
    except UsageError as error:
        yield "dataset", f"{error}: {error.hint}"
