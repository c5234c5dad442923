"""MATH-500: the 500 problems of MATH (arXiv 2103.03874) that prm800k held out."""

from flagdeploy.evals.dataset import DataSet, Hub, Question, Row


def read(row: Row) -> Question:
    return Question(row["problem"], row["answer"])


DATASET = DataSet(
    title="MATH-500",
    licence="MIT",
    source=Hub(
        "HuggingFaceH4/MATH-500",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        {"test.jsonl": "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"},
    ),
    files=("test.jsonl",),
    read=read,
    prompt=("{question}\nPlease reason step by step, and put your final answer within \\boxed{}."),
    grader="math500",
    rows=500,
)
