"""The number of a word problem. Every repetition is possessive or cannot overlap: linear time."""

import re
import unicodedata
from fractions import Fraction

from flagdeploy.evals.grading.replies import last_boxed

# Longer numbers are nobody's answer, and would be slow to compare.
LONGEST = 100

NUMBER = re.compile(r"-?(?:\d[\d,]*+(?:\.\d++)?|\.\d++)")
_SAYS = re.compile(
    r"(?:####|(?i:answer)[\s*_]*+(?i:is\b)?[\s*_]*+[:=]?|答案[\s*_]*+(?:是|为)?[\s*_]*+:?)"
    r"[\s*_$\\(]*+(-?(?:\d[\d,]*+(?:\.\d++)?|\.\d++))"
)
_FRACTION = re.compile(
    r"(-?)\\[dt]?frac\{(\d{1,100}+)\}\{(\d{1,100}+)\}|(-?\d{1,100}+)/(\d{1,100}+)"
)


def read_number(text: str) -> str | None:
    """What the last ``\\boxed{}`` holds when that is a number or has just one in it; else the
    last number that follows ``answer``, ``####`` or their Chinese like; else the last number.

    Full-width digits and signs are read as the plain ones.
    """
    text = unicodedata.normalize("NFKC", text).replace("{,}", ",").replace("\u2212", "-")
    box = last_boxed(text)
    if box is not None:
        if as_fraction(box) is not None:
            return box.strip()
        inside = NUMBER.findall(box)
        if len(inside) == 1:
            return str(inside[0])
    named = [match[1] for match in _SAYS.finditer(text)]
    numbers = named or NUMBER.findall(text)
    return str(numbers[-1]).rstrip(",") if numbers else None


def same_number(prediction: str, gold: str) -> bool:
    """Equal as rational numbers: ``1,000.0``, ``$1000`` and ``1000``; ``\\frac12`` and ``0.5``."""
    value = as_fraction(prediction)
    return value is not None and value == as_fraction(gold)


def as_fraction(text: str) -> Fraction | None:
    """The number that `text` is, without currency, percent sign, thousands commas and spaces."""
    text = re.sub(r"\\text\{([^{}]*+)\}", r"\1", text)
    text = re.sub(r"\\[!,;]|\\(?=[$%])|[,$%\s\u20ac\u00a5\u00a3]", "", text)
    if fraction := _FRACTION.fullmatch(text):
        sign, over, under, left, right = fraction.groups()
        top, bottom = int(f"{sign}{over}" if over else left), int(under or right)
        return Fraction(top, bottom) if bottom else None
    if len(text) > LONGEST or not re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)", text):
        return None
    return Fraction(text)
