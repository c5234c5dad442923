"""One rule per question shape of a benchmark folder, the same for every benchmark of that shape.

Only the text after the last ``</think>`` is read, so thoughts are never graded. A reply whose
thinking never ended has no prediction: it is `truncated`, not wrong in silence.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from flagdeploy.evals.grading.grade import Grade, Status, status_of
from flagdeploy.evals.grading.mlperf.integer import read_integer, same_integer
from flagdeploy.evals.grading.replies import final_text, last_boxed


def grade(shape: str, reply: str, gold: str, finish_reason: str | None = None) -> Grade:
    """Score 1.0 or 0.0 for `reply` against `gold` by the rule of `shape` (a key of RULES)."""
    read, equal = RULES[shape]
    answer = final_text(reply, finish_reason)
    if answer is None:
        return Grade(None, 0.0, Status.TRUNCATED)
    prediction = read(answer)
    correct = prediction is not None and equal(prediction, gold)
    return Grade(prediction, 1.0 if correct else 0.0, status_of(prediction, finish_reason))


def read_number(text: str) -> str | None:
    """The last ``\\boxed{}`` that holds a number, else the last number of the text."""
    box = last_boxed(text)
    if box is not None and as_decimal(box) is not None:
        return box.strip()
    numbers: list[str] = re.findall(r"-?(?:\d[\d,]*\.?\d*|\.\d+)", text)
    return numbers[-1].rstrip(".,") if numbers else None


def same_number(prediction: str, gold: str) -> bool:
    """Equal as decimals: ``1,000.0``, ``$1000`` and ``1000`` are one number."""
    value = as_decimal(prediction)
    return value is not None and value == as_decimal(gold)


def read_letter(text: str) -> str | None:
    """The last of ``Answer: B`` (also ``**Answer:** (B)``) and ``\\boxed{B}``, in upper case."""
    pattern = (
        r"(?i:answer)\s*+[:\uff1a][*\s]*+\(?\$?([A-Ja-j])\b"
        r"|\\boxed\{\s*+(?:\\text\{)?\s*+\(?([A-Ja-j])\)?\s*+\}"
    )
    letters: list[tuple[str, str]] = re.findall(pattern, text)
    return "".join(letters[-1]).upper() if letters else None


def same_letter(prediction: str, gold: str) -> bool:
    return prediction == gold.strip().upper()


def as_decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(re.sub(r"[,$%\s]|\\(?=[$%])", "", text))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


Rule = tuple[Callable[[str], str | None], Callable[[str, str], bool]]
RULES: dict[str, Rule] = {
    "gsm8k": (read_number, same_number),
    "mmlu": (read_letter, same_letter),
    "aime": (read_integer, same_integer),
}
