"""MMLU, test split (arXiv 2009.03300), 57 subjects, which are its clusters.

Read from the hub's parquet, from the authors' ``data/test/SUBJECT_test.csv`` without header, or
from one table with the columns Question, A, B, C, D, Answer, Subject.
"""

from pathlib import PurePosixPath

from flagdeploy.evals.dataset import DataSet, Hub, Question, Row

PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of "
    "the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think "
    "step by step before answering.\n\n{question}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}"
)


def read(row: Row) -> Question:
    if "choices" in row:
        gold = row["answer"] if isinstance(row["answer"], str) else "ABCD"[row["answer"]]
        return Question(row["question"], gold, row["choices"], row["subject"])
    row = {key.lower(): value for key, value in row.items()}
    subject = row.get("subject") or PurePosixPath(row["path"]).stem.removesuffix("_test")
    return Question(row["question"], row["answer"], [row[x] for x in "abcd"], subject)


DATASET = DataSet(
    title="MMLU",
    licence="MIT",
    source=Hub(
        "cais/mmlu",
        "c30699e8356da336a370243923dbaf21066bb9fe",
        {
            "all/test-00000-of-00001.parquet": (
                "74a41822ce7d3def56e1682f958469c04642a5336a5ce912fa375fdb90fb25d7"
            )
        },
    ),
    files=("all/test-*.parquet", "test-*.parquet", "mmlu.csv", "test/*_test.csv", "*_test.csv"),
    read=read,
    columns=("question", "A", "B", "C", "D", "answer"),
    prompt=PROMPT,
    grader="mmlu",
    rows=14042,
)
