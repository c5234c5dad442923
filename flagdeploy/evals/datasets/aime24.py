"""AIME 2024, I and II: as AIME 2025."""

from flagdeploy.evals.dataset import DataSet, Hub
from flagdeploy.evals.datasets.aime25 import PROMPT, read

DATASET = DataSet(
    title="AIME 2024",
    licence="none declared by the publisher; the problems are the MAA's",
    source=Hub(
        "HuggingFaceH4/aime_2024",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        {
            "data/train-00000-of-00001.parquet": (
                "26139847601a5037c237d5928b195e7260ca8074cf4f264b794af42847f79ccf"
            )
        },
    ),
    files=("data/train-*.parquet", "test.jsonl", "*.jsonl", "*.parquet"),
    read=read,
    prompt=PROMPT,
    grader="aime24",
    rows=30,
    temperature=0.6,
    top_p=0.95,
    repeats=16,
    margin_pp=5.0,
)
