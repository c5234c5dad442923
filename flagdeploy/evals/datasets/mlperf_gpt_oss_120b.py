"""MLPerf Inference's accuracy set for GPT-OSS-120B: 4395 rows, AIME 2025 (30 questions 8 times),
GPQA-Diamond (198, 5 times) and LiveCodeBench v6 (1055, 3 times); a question's rows are its repeats.

The reference (language/gpt-oss-120b) asks at temperature 1 with reasoning high and weights each
set by its questions. Prompts are conversations; where a file has them only in the
Harmony format, its messages are taken out of that.
"""

import re

from flagdeploy.evals.dataset import DataSet, Manifest, Question, Row

_HARMONY = re.compile(r"<\|start\|>(developer|user)<\|message\|>(.*?)<\|end\|>", re.DOTALL)
_ROLES = {"developer": "system", "user": "user", "system": "system", "assistant": "assistant"}


def read(row: Row) -> Question:
    given = row.get("original_messages")
    pairs = (
        [(message["role"], message["content"]) for message in given]
        if given is not None and len(given)
        else _HARMONY.findall(row["text_input"])
    )
    messages = tuple({"role": _ROLES[role], "content": content} for role, content in pairs)
    if not messages:
        raise ValueError("no messages")
    benchmark = row["dataset"].lower()
    return Question("", str(row["ground_truth"]), benchmark=benchmark, messages=messages)


DATASET = DataSet(
    title="MLPerf GPT-OSS-120B",
    licence="mixed: AIME of the MAA, GPQA CC BY 4.0, LiveCodeBench CC",
    source=Manifest(
        "https://inference.mlcommons-storage.org/metadata/gpt-oss-data.uri",
        {"acc/acc_eval_ref.parquet": "29d35424fc8d31461e73a7766446480e"},
    ),
    files=("acc/acc_eval_ref.parquet", "acc_eval_ref.parquet", "*.parquet", "*.jsonl"),
    read=read,
    prompt="{question}",
    grader="",
    rule="gpt-oss-120b",
    rows=4395,
    temperature=1.0,
    top_p=1.0,
    reasoning_effort="high",
    rows_are_repeats=True,
    reference=(83.13, 0.0),
)
