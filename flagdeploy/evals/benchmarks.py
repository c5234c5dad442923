"""Questions to ask: of a benchmark folder, `benchmark.yaml` and JSONL files, or of public sets.

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

`{question}` and, for mmlu, `{options}` or each of `{A}`, `{B}`... are replaced; other braces stay.
A multiple-choice prompt that places no options gets them below the question.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from flagdeploy.config import workspace as workspaces
from flagdeploy.errors import ConfigError, EvalError, Problem, UsageError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals.dataset import DataSet, Question
from flagdeploy.evals.grading import shapes
from flagdeploy.evals.grading.plain import RULES

Message = dict[str, str]
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


@dataclass(frozen=True)
class Item:
    """One question. `key` names it by content, so files may be reordered or cut."""

    key: str
    task: str
    shape: str
    messages: tuple[Message, ...]
    gold: str
    cluster: str
    max_tokens: int


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
    if row.get("shape") not in SHAPES:
        yield "shape", f"`{row.get('shape')}` is not one of {', '.join(SHAPES)}"
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


def load_items(benchmark: Benchmark) -> list[Item]:
    """Every question of one benchmark, in file order; raise EvalError naming file and line.

    Of a public set those that can be graded without running generated code, each once.
    """
    if benchmark.dataset:
        items = [item for item, _ in load_repeated(benchmark) if not shapes.runs_code(item.shape)]
        if not items:
            raise EvalError(
                f"{benchmark.name} is graded by running programs, which only `eval` does",
                hint=f"flagdeploy eval --dataset {benchmark.name} --code-image python:3.12-slim",
            )
        return items
    items = []
    with benchmark.file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                items.append(_item(benchmark, json.loads(line)))
            except (ValueError, KeyError, IndexError) as error:
                raise EvalError(
                    f"{benchmark.file}:{number}: not a question of shape {benchmark.shape}: "
                    f"{type(error).__name__} {error}"
                ) from None
    return items


def load_repeated(benchmark: Benchmark) -> list[tuple[Item, int]]:
    """Every question of a public set in the order of its files, and how many of its rows it is.

    More than one only where a set writes repeats as rows.
    """
    assert benchmark.dataset is not None
    dataset = datasets.load(benchmark.dataset)
    items = [_asked(benchmark, dataset, one) for one in dataset.questions(benchmark.files)]
    if not dataset.rows_are_repeats:
        return [(item, 1) for item in items]
    counts = Counter(item.key for item in items)
    return [(item, counts[item.key]) for item in {item.key: item for item in items}.values()]


def _asked(benchmark: Benchmark, dataset: DataSet, question: Question) -> Item:
    """A question of a public set; of a mixed set each names the rule it is graded by."""
    grader = question.benchmark or dataset.grader
    prompt = fill(benchmark.prompt, question.text, question.options)
    messages = question.messages or ({"role": "user", "content": prompt},)
    return _made(benchmark, f"{dataset.rule}:{grader}", messages, question.gold, question.cluster)


def _item(benchmark: Benchmark, row: dict[str, Any]) -> Item:
    question, options, gold, cluster = SHAPES[benchmark.shape](row)
    messages = ({"role": "user", "content": fill(benchmark.prompt, question, options)},)
    return _made(benchmark, benchmark.shape, messages, gold, cluster)


def _made(
    benchmark: Benchmark, shape: str, messages: tuple[Message, ...], gold: str, cluster: str
) -> Item:
    prompt = "|".join(message["content"] for message in messages)
    key = item_key(benchmark.name, prompt, gold)
    return Item(
        key=key,
        task=benchmark.name,
        shape=shape,
        messages=messages,
        gold=gold,
        cluster=cluster or key,
        max_tokens=benchmark.max_tokens,
    )


def fill(prompt: str, question: str, options: Sequence[str]) -> str:
    """`prompt` with the question and its options in their places, as described above."""
    lettered = dict(zip("ABCDEFGHIJ", options, strict=False))
    listed = "\n".join(f"{letter}. {text}" for letter, text in lettered.items())
    if options and not ("{options}" in prompt or "{A}" in prompt):
        question = f"{question}\n{listed}"
    values = {"question": question, "options": listed, **lettered}
    # In one pass, so that a question may contain braces; str.format would choke on \\boxed{}.
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), prompt)


def item_key(task: str, prompt: str, gold: str) -> str:
    """The identity of a question: the first 16 hex digits of sha256(task|prompt|gold)."""
    return hashlib.sha256("|".join((task, prompt, gold)).encode()).hexdigest()[:16]


Read = tuple[str, Sequence[str], str, str]  # question, options, gold answer, cluster


def _gsm8k(row: dict[str, Any]) -> Read:
    # openai/grade-school-math: the gold answer follows "####" at the end of the solution.
    return row["question"], (), row["answer"].split("####")[-1].strip(), ""


def _mmlu(row: dict[str, Any]) -> Read:
    # deepseek-ai/DeepSeek-Math mmlu_stem: question, options, answer (letter), topic.
    options = [str(option) for option in row["options"]]  # some are written as numbers
    return row["question"], options, row["answer"], str(row.get("topic", ""))


def _aime(row: dict[str, Any]) -> Read:
    return row.get("problem") or row["question"], (), str(int(row["answer"])), ""


SHAPES: dict[str, Callable[[dict[str, Any]], Read]] = {
    "gsm8k": _gsm8k,
    "mmlu": _mmlu,
    "aime": _aime,
}
assert SHAPES.keys() == RULES.keys()
