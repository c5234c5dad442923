"""Questions of a benchmark folder: `benchmark.yaml` and JSONL files in well-known shapes.

::

    benchmarks:
      - name: arithmetic
        shape: gsm8k            # gsm8k | mmlu | aime: the keys of the file and the grader
        file: questions/arithmetic.jsonl
        prompt: "{question}\\nPut the final answer within \\\\boxed{}."
        max_tokens: 160
        margin_pp: 3.0          # optional: how many points lower still counts as the same

`{question}` and, for mmlu, `{options}` or each of `{A}`, `{B}`... are replaced; other braces stay.
A multiple-choice prompt that places no options gets them below the question.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flagdeploy.errors import ConfigError, EvalError, Problem, UsageError
from flagdeploy.evals.grading.plain import RULES

Message = dict[str, str]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark; `margin_pp` in percentage points, None for the default of 1% of the score."""

    name: str
    shape: str
    file: Path
    prompt: str
    max_tokens: int
    margin_pp: float | None = None


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
    return [Benchmark(**{**row, "file": folder / row["file"]}) for row in rows]


def _problems(row: dict[str, Any], folder: Path) -> Iterator[tuple[str, str]]:
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


def load_items(benchmark: Benchmark) -> list[Item]:
    """Every question of one benchmark, in file order; raise EvalError naming file and line."""
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


def _item(benchmark: Benchmark, row: dict[str, Any]) -> Item:
    question, options, gold, cluster = SHAPES[benchmark.shape](row)
    prompt = fill(benchmark.prompt, question, options)
    key = item_key(benchmark.name, prompt, gold)
    return Item(
        key=key,
        task=benchmark.name,
        shape=benchmark.shape,
        messages=({"role": "user", "content": prompt},),
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
    return row["question"], row["options"], row["answer"], str(row.get("topic", ""))


def _aime(row: dict[str, Any]) -> Read:
    return row.get("problem") or row["question"], (), str(int(row["answer"])), ""


SHAPES: dict[str, Callable[[dict[str, Any]], Read]] = {
    "gsm8k": _gsm8k,
    "mmlu": _mmlu,
    "aime": _aime,
}
assert SHAPES.keys() == RULES.keys()
