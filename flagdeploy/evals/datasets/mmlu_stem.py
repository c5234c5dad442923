"""The 3018 questions of MMLU on science, technology, engineering and mathematics, as DeepSeek-Math
chose them; topics are its clusters."""

from flagdeploy.evals.dataset import DataSet, Question, Row, Web
from flagdeploy.evals.datasets.mmlu import PROMPT

COMMIT = "b8b0f8ce093d80bf8e9a641e44142f06d092c305"


def read(row: Row) -> Question:
    options = [str(option) for option in row["options"]]  # some are written as numbers
    return Question(row["question"], row["answer"], options, row["topic"])


DATASET = DataSet(
    title="MMLU-STEM",
    licence="MIT",
    source=Web(
        {
            "test.jsonl": (
                "https://raw.githubusercontent.com/deepseek-ai/DeepSeek-Math/"
                f"{COMMIT}/evaluation/datasets/mmlu_stem/test.jsonl",
                "1c918d1df6de635a0202c989705c34f19b0c4ad858cbdb27135cdfc7fd44f14a",
            )
        }
    ),
    files=("test.jsonl",),
    read=read,
    prompt=PROMPT,
    grader="mmlu",
    rows=3018,
)
