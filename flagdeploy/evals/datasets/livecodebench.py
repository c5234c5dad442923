"""LiveCodeBench, code generation, release v6 (arXiv 2403.07974): the six files together.

`jobs` makes the tests of an answer; they are run in a container only. The private tests are a text
in a pickle in zlib in base64, read as data.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flagdeploy.evals import rows
from flagdeploy.evals.dataset import DataSet, Hub, Question, Row
from flagdeploy.evals.grading.code_job import CodeJob
from flagdeploy.formats import pickle

MAX_TESTS_BYTES = 1 << 30
COMMIT = "0fe84c3912ea0c4d4a78037083943e8f0c4dd505"
HASHES = (
    "2bd02b38beb48e8c46b5b9987095d999ff38cd8efc255ea5d58974317c48f63f",
    "095df7c5daf15f882c51a9deb84085cff1e073495a5dbcf95015a564d485f3a3",
    "28ed26cc83363ce3f1fe2d5fad9f8393077beb1907b167a31bd3b32f80801b79",
    "d711138ddaebfcf5f8ec6a4283ee677298c0f5c5d374a235af92aaf0584510da",
    "7f77571c2a6df0c2a72a3277650309f67e01e0008e18117e624633df53f81214",
    "bb4c364f71921c4495a6ad15abe1a927350b720009f4933e2e71f8af0f6fd1f5",
)
_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose "
    "your code within delimiters."
)
_BY_STDIN = (
    "Read the inputs from stdin, solve the problem and write the answer to stdout. Enclose your "
    "code within delimiters."
)


def read(row: Row) -> Question:
    """`gold` is the question's id, by which `jobs` finds its tests."""
    starter = row["starter_code"]
    how = _WITH_STARTER if starter else _BY_STDIN
    text = (
        f"{row['question_title']}\n\n### Question:\n{row['question_content']}\n\n"
        f"### Format: {how}\n```python\n{starter or '# YOUR CODE HERE'}\n```\n### Answer:"
    )
    return Question(text, row["question_id"])


def jobs(
    files: Iterable[Path], programs: Mapping[str, Iterable[str]]
) -> Iterator[tuple[str, CodeJob]]:
    """The tests of `programs`, which are by the id of their question: each with that id.

    One at a time: all tests together are gigabytes. Raises ValueError for tests that are no data.
    """
    for path in files:
        for row in rows.read(path):
            for program in programs.get(row["question_id"], ()):
                yield row["question_id"], _job(row, program)


def _job(row: Mapping[str, Any], program: str) -> CodeJob:
    tests = [*json.loads(row["public_test_cases"]), *_private(row["private_test_cases"])]
    function = json.loads(row["metadata"] or "{}").get("func_name")
    return CodeJob(
        program,
        inputs=[test["input"] for test in tests],
        outputs=[test["output"] for test in tests],
        function=function,
    )


def _private(text: str) -> list[dict[str, Any]]:
    if not text.lstrip().startswith("["):
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(base64.b64decode(text), MAX_TESTS_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError(f"private tests of more than {MAX_TESTS_BYTES} bytes")
        text = pickle.parse(raw)
    tests: list[dict[str, Any]] = json.loads(text)
    return tests


DATASET = DataSet(
    title="LiveCodeBench v6",
    licence="CC, by the publisher; problems of their contests",
    source=Hub(
        "livecodebench/code_generation_lite",
        COMMIT,
        {f"test{n if n > 1 else ''}.jsonl": HASHES[n - 1] for n in range(1, 7)},
    ),
    files=("test*.jsonl", "*.jsonl"),
    read=read,
    prompt="{question}",
    grader="livecodebench",
    rows=1055,
    temperature=0.6,
    top_p=0.95,
    margin_pp=2.0,
)
