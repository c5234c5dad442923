"""From a reply to a prediction and a score, one rule per question shape.

Only the text after the last ``</think>`` is read, so thoughts are never graded. A reply whose
thinking never ended has no prediction: it is `unparsed`, not wrong in silence.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation


@dataclass(frozen=True)
class Grade:
    """`prediction` is None when no answer was found in the reply; it then scores 0."""

    prediction: str | None
    score: float


def grade(shape: str, reply: str, gold: str, finish_reason: str | None = None) -> Grade:
    """Score 1.0 or 0.0 for `reply` against `gold` by the rule of `shape` (a key of RULES)."""
    read, equal = RULES[shape]
    answer = final_text(reply, finish_reason)
    prediction = None if answer is None else read(answer)
    correct = prediction is not None and equal(prediction, gold)
    return Grade(prediction, 1.0 if correct else 0.0)


def final_text(reply: str, finish_reason: str | None = None) -> str | None:
    """What follows the thoughts, or None when they were cut off.

    Templates in the manner of DeepSeek-R1 open ``<think>`` inside the prompt, so a reply cut by
    its token limit without ``</think>`` is taken for unfinished thoughts too.
    """
    thoughts, closed, answer = reply.rpartition("</think>")
    if closed:
        return None if "<think>" in answer else answer
    if "<think>" in reply or finish_reason == "length":
        return None
    return reply


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
        r"(?i:answer)\s*[:\uff1a]\s*[*\s]*\(?\$?([A-Ja-j])\b"
        r"|\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Ja-j])\)?\s*\}"
    )
    letters: list[tuple[str, str]] = re.findall(pattern, text)
    return "".join(letters[-1]).upper() if letters else None


def same_letter(prediction: str, gold: str) -> bool:
    return prediction == gold.strip().upper()


def read_aime(text: str) -> str | None:
    """An integer from 0 to 999: the last ``\\boxed{int}``, else the last ``Answer: int``.

    Rule of MLPerf Inference, language/deepseek-r1/eval_accuracy.py `parse_aime_answer`:
    ``\\boxed{042}`` is 42, ``\\boxed{12.0}`` and ``Answer: 12.`` are nothing.
    """
    for pattern in (r"\\boxed\{\s*(\d+)\s*\}", r"(?im)Answer:\s*(\d+)(?!\.)\b"):
        found: list[str] = re.findall(pattern, text)
        if found:
            return str(int(found[-1])) if int(found[-1]) <= 999 else None
    return None


def same_integer(prediction: str, gold: str) -> bool:
    return int(prediction) == int(gold)


def last_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}``, braces matched; None when it never closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start:position]
    return None


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
    "aime": (read_aime, same_integer),
}
