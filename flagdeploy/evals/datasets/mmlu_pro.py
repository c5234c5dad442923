"""MMLU-Pro, test split (arXiv 2406.01574): up to ten options, 14 categories."""

from flagdeploy.evals.dataset import DataSet, Hub, Question, Row


def read(row: Row) -> Question:
    return Question(row["question"], row["answer"], row["options"], row["category"])


DATASET = DataSet(
    title="MMLU-Pro",
    licence="MIT",
    source=Hub(
        "TIGER-Lab/MMLU-Pro",
        "b189ec765aa7ed75c8acfea42df31fdae71f97be",
        {
            "data/test-00000-of-00001.parquet": (
                "0e24a191921c2f453518a537a8b2117bd137e7714d4ef1565e9ba06c1ecb9ad8"
            )
        },
    ),
    files=("data/test-*.parquet", "test-*.parquet", "test.jsonl"),
    read=read,
    prompt=(
        "Answer the following multiple choice question. The last line of your response should be "
        "of the following format: 'Answer: $LETTER' (without quotes) where LETTER is the letter "
        "of one of the options. Think step by step before answering.\n\n{question}\n\n{options}"
    ),
    grader="mmlu_pro",
    rows=12032,
)
