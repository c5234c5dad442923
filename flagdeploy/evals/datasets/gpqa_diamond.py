"""GPQA Diamond (arXiv 2311.12022): 198 questions, each asked eight times.

The order of the options is shuffled by the question's own hash, so that it is the same in every
run. Its authors ask that the questions never be published in plain text: gated, never shipped.
"""

import hashlib
import random

from flagdeploy.evals.dataset import DataSet, Hub, Question, Row
from flagdeploy.evals.datasets.mmlu import PROMPT


def read(row: Row) -> Question:
    text = row["Question"]
    right = row["Correct Answer"].strip()
    options = [right, *(row[f"Incorrect Answer {n}"].strip() for n in (1, 2, 3))]
    seed = hashlib.sha256(text.encode()).digest()[:8]
    order = list(range(4))
    random.Random(int.from_bytes(seed, "big")).shuffle(order)
    return Question(text.strip(), "ABCD"[order.index(0)], [options[place] for place in order])


DATASET = DataSet(
    title="GPQA-Diamond",
    licence="CC BY 4.0; its authors ask that questions are not published in plain text",
    source=Hub(
        "Idavidrein/gpqa",
        "633f5ee89ab8ad4522a9f850766b73f62147ffdd",
        {"gpqa_diamond.csv": "41d1213cd7a4998605a26c2798500652572007161b3a92817ba46b35befcd305"},
        gated=True,
    ),
    files=("gpqa_diamond.csv", "gpqa_diamond.jsonl", "gpqa_diamond.parquet"),
    read=read,
    prompt=PROMPT,
    grader="gpqa",
    rows=198,
    temperature=0.6,
    top_p=0.95,
    repeats=8,
    margin_pp=3.0,
)
