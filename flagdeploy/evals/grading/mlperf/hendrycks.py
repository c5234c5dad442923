"""String normalisation of the MATH data set (Hendrycks et al. 2021, `math_equivalence`).

The form that prm800k's grader compares first (prm800k/grading/math_normalize.py). Where a step
cannot make sense of the text, the text stays as it came: that is part of the rule.
"""

import re

ENCLOSED = re.compile(r"^\\text\{(.+?)\}$")
REMOVED = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")


class _NoSense(Exception):
    """The reference fails at this point and keeps the answer unchanged."""


def normalized(answer: str) -> str:
    """`answer` in the form in which two equal strings are one answer."""
    answer = answer.strip()
    if enclosed := ENCLOSED.search(answer):
        answer = enclosed[1].strip()
    try:
        return _stripped(answer)
    except _NoSense:
        return answer


def _stripped(text: str) -> str:
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for removed in REMOVED:
        text = text.replace(removed, "")
    text = _without_unit(text).replace("\\%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:  # "x = 5"
        text = sides[1]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _fraction_of_slash("\\frac{1}{2}" if text == "0.5" else text)


def _without_unit(text: str) -> str:
    value, *rest = text.split("\\text{ ")
    if len(rest) > 1:
        raise _NoSense
    return value


def _braced_roots(text: str) -> str:
    """``\\sqrt3`` becomes ``\\sqrt{3}``."""
    head, *tails = text.split("\\sqrt")
    for tail in tails:
        if not tail:
            raise _NoSense
        head += "\\sqrt" + (tail if tail[0] == "{" else f"{{{tail[0]}}}{tail[1:]}")
    return head


def _braced_fractions(text: str) -> str:
    """``\\frac12`` and ``\\frac1{2}`` become ``\\frac{1}{2}``; ``\\frac{1}2`` stays."""
    head, *tails = text.split("\\frac")
    for tail in tails:
        if not tail:
            raise _NoSense
        if tail[0] == "{":
            head += "\\frac" + tail
        elif len(tail) < 2:
            return text
        elif tail[1] == "{":
            head += f"\\frac{{{tail[0]}}}{tail[1:]}"
        else:
            head += f"\\frac{{{tail[0]}}}{{{tail[1]}}}{tail[2:]}"
    return head


def _fraction_of_slash(text: str) -> str:
    """``3/4`` of two integers written plainly becomes ``\\frac{3}{4}``."""
    parts = text.split("/")
    if len(parts) != 2:
        return text
    try:
        over, under = (int(part) for part in parts)
    except ValueError:
        return text
    return f"\\frac{{{over}}}{{{under}}}" if text == f"{over}/{under}" else text
