"""MGSM in Chinese (arXiv 2210.03057): 250 problems of GSM8K, translated by people."""

from flagdeploy.evals.dataset import DataSet, Question, Row, Web

COMMIT = "452a21ad3dae5668c06ceeac21ff073e1e40f9be"


def read(row: Row) -> Question:
    return Question(row["question"], row["answer"].strip())


DATASET = DataSet(
    title="MGSM-zh",
    licence="CC BY 4.0",
    source=Web(
        {
            "mgsm_zh.tsv": (
                "https://raw.githubusercontent.com/google-research/url-nlp/"
                f"{COMMIT}/mgsm/mgsm_zh.tsv",
                "b2fa63151022370a0de1f4211c8c284eae74b0f5a3b003b1d5982c0d4a73f661",
            )
        }
    ),
    files=("mgsm_zh.tsv",),
    read=read,
    columns=("question", "answer"),
    prompt=(
        "{question}\n\u8bf7\u9010\u6b65\u63a8\u7406\uff0c\u5e76\u628a\u6700\u7ec8\u7b54\u6848"
        "\u653e\u5728 \\boxed{} \u4e2d\u3002"
    ),
    grader="mgsm_zh",
    rows=250,
)
