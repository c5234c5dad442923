"""AIME 2025, I and II: 30 problems whose answers are integers from 0 to 999.

Thirty questions say little, so each is asked sixteen times. The problems are the MAA's: never
shipped.
"""

from flagdeploy.evals.dataset import DataSet, Hub, Question, Row

PROMPT = (
    "Solve the following math problem step by step. Put your answer inside \\boxed{}.\n\n"
    "{question}\n\nRemember to put your answer inside \\boxed{}."
)


def read(row: Row) -> Question:
    text = row.get("problem") or row.get("Problem") or row["question"]
    return Question(text, str(int(row.get("answer", row.get("Answer")))))


DATASET = DataSet(
    title="AIME 2025",
    licence="Apache-2.0 by the publisher; the problems are the MAA's",
    source=Hub(
        "math-ai/aime25",
        "563bb8404243c5f09de6ec262f2db674fe5bce9b",
        {"test.jsonl": "b4e273c02d3e7fe1b74b59eae768fc8230bfb0f79539890cb56f4361caac0331"},
    ),
    files=("test.jsonl", "*.jsonl", "*.parquet"),
    read=read,
    prompt=PROMPT,
    grader="aime25",
    rows=30,
    temperature=0.6,
    top_p=0.95,
    repeats=16,
    margin_pp=5.0,
)
