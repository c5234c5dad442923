"""Grade School Math 8K, test split (arXiv 2110.14168): the number after ``####`` is gold."""

from flagdeploy.evals.dataset import DataSet, Question, Row, Web

COMMIT = "3101c7d5072418e28b9008a6636bde82a006892c"


def read(row: Row) -> Question:
    return Question(row["question"], row["answer"].split("####")[-1].strip())


DATASET = DataSet(
    title="GSM8K",
    licence="MIT",
    source=Web(
        {
            "test.jsonl": (
                "https://raw.githubusercontent.com/openai/grade-school-math/"
                f"{COMMIT}/grade_school_math/data/test.jsonl",
                "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
            )
        }
    ),
    files=("test.jsonl", "main/test-*.parquet", "test-*.parquet"),
    read=read,
    prompt=("{question}\nPlease reason step by step, and put your final answer within \\boxed{}."),
    grader="gsm8k",
    rows=1319,
)
