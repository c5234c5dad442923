"""The questions of a benchmark: read from its files, put into its prompt, named by their content.

`{question}` and, for mmlu, `{options}` or each of `{A}`, `{B}`... are replaced in a prompt; other
braces stay. A multiple-choice prompt that places no options gets them below the question.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals import dataset as datasets
from flagdeploy.evals.benchmarks import Benchmark
from flagdeploy.evals.dataset import DataSet, Question
from flagdeploy.evals.grading import shapes
from flagdeploy.evals.grading.plain import RULES

Message = dict[str, str]


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


def questions(benchmarks: Sequence[Benchmark], limit: int | None = None) -> list[Item]:
    """Every question once, or of each benchmark the `limit` with the smallest content hash.

    By hash and not by position, because files are often sorted by difficulty. A question that
    stands there twice, as in some public sets, says nothing new the second time.
    """
    items: dict[str, Item] = {}
    for benchmark in benchmarks:
        found = load_items(benchmark)
        kept = set(sorted({item.key for item in found})[:limit])
        items |= {item.key: item for item in found if item.key in kept}
    return list(items.values())


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
