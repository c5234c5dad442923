"""C-Eval, validation split, whose answers are public (arXiv 2305.08322): 52 subjects, which are its
clusters. Read from the hub's parquet or from ``ceval-exam.zip`` unpacked (``val/SUBJECT_val.csv``).

Not for commercial use, so never shipped.
"""

from pathlib import PurePosixPath

from flagdeploy.evals.dataset import DataSet, Hub, Question, Row


def read(row: Row) -> Question:
    path = PurePosixPath(row["path"])
    one_folder_each = path.suffix == ".parquet"
    subject = path.parent.name if one_folder_each else path.stem.removesuffix("_val")
    return Question(row["question"], row["answer"], [row[x] for x in "ABCD"], subject)


DATASET = DataSet(
    title="C-Eval",
    licence="CC BY-NC-SA 4.0: not for commercial use",
    source=Hub(
        "ceval/ceval-exam",
        "617524a00b307ff6f9933702f724131fe12ca7ce",
        {"*/val-*.parquet": None},
    ),
    files=("*/val-*.parquet", "val/*_val.csv", "*_val.csv"),
    read=read,
    prompt=(
        "\u4ee5\u4e0b\u662f\u4e00\u9053\u5355\u9879\u9009\u62e9\u9898\uff0c\u8bf7\u5148\u9010"
        "\u6b65\u63a8\u7406\u3002\u56de\u7b54\u7684\u6700\u540e\u4e00\u884c\u5e94\u8be5\u662f"
        "\u8fd9\u6837\u7684\u683c\u5f0f\uff1a\u201c\u7b54\u6848\uff1a[LETTER]\u201d\uff0c\u5176"
        "\u4e2d [LETTER] \u662f A\u3001B\u3001C\u3001D \u4e2d\u7684\u4e00\u4e2a\u3002\n\n"
        "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}"
    ),
    grader="ceval",
    rows=1346,
)
