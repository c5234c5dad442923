"""AIME: an integer from 0 to 999 (eval_accuracy.py `parse_aime_answer`)."""

import re

PATTERNS = (
    re.compile(r"\\boxed\{\s*+(\d++)\s*+\}"),
    re.compile(r"[Aa](?i:nswer):\s*+(\d++)(?!\.)\b"),
)


def read_integer(text: str) -> str | None:
    """The last ``\\boxed{int}``, else the last ``Answer: int``.

    ``\\boxed{042}`` is 42; ``\\boxed{12.0}``, ``Answer: 12.`` and anything above 999 are nothing.
    """
    for pattern in PATTERNS:
        digits = None
        for match in pattern.finditer(text):
            digits = match[1]
        if digits is not None:
            return _below_1000(digits)
    return None


def _below_1000(digits: str) -> str | None:
    try:
        value = int(digits)
    except ValueError:  # more digits than Python converts
        return None
    return str(value) if value <= 999 else None


def same_integer(prediction: str, gold: str) -> bool:
    try:
        return int(prediction) == int(gold)
    except ValueError:
        return False
