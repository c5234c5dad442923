"""Is a MATH answer the gold answer? The rules of prm800k's `grade_answer` (grading/grader.py).

Equal when the MATH data set's normalisation agrees, or a second normalisation does, or sympy
finds the difference to be zero, element by element for tuples and intervals. sympy and
pylatexenc are the reference's own choice. There is no bound in time: run it in the pool.
"""

import re
from functools import cache
from typing import Any

from flagdeploy.evals.grading.mlperf import hendrycks

UNITS = (
    "degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week",
    "month", "year", "foot", "feet", "inch", "yard",
)  # fmt: skip
MAGNITUDES = {"million": "*10^6", "billion": "*10^9", "trillion": "*10^12"}
SYMBOLS = {"√": "sqrt", "π": "pi", "∞": "inf", "∪": "U", "·": "*", "×": "*"}
BRACKETS = "()[]"
ENCLOSED = re.compile(r"^\\text\{(.+?)\}$")
FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
# Powers that sympy may multiply out for ever: ^{..}, ^(..), chains, two digits and more.
TOO_LARGE = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]+")
THOUSANDS = re.compile(r"(\d),(\d\d\d)($|\D)")


def same_answer(given: str, gold: str) -> bool:
    """Whether `given` counts as `gold`; order matters, unreduced fractions are wrong."""
    if hendrycks.normalized(gold) == hendrycks.normalized(given):
        return True
    expected, found = normalized(gold), normalized(given)
    if expected == found:
        return True
    if not found:
        return False
    wanted, parts = elements(expected), elements(found)
    if len(wanted) > 1 and (expected[0] != found[0] or expected[-1] != found[-1]):
        return False
    return len(wanted) == len(parts) and all(map(_same_element, wanted, parts))


def normalized(text: str) -> str:
    """Units, currency, magnitudes and LaTeX resolved; lower case, no spaces, no braces."""
    if enclosed := ENCLOSED.search(text):
        text = enclosed[1]
    for sign in ("\\%", "\\$", "$", "%"):
        text = text.replace(sign, "" if len(sign) == 1 else sign[1])
    text = text.replace(" or ", " , ").replace(" and ", " , ")
    for word, power in MAGNITUDES.items():
        text = text.replace(word, power)
    for unit in UNITS:
        text = re.sub(unit + r"(es)?(s)? *(\^[0-9]+)?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    value = _number(text)
    if value is not None and _whole(value):
        text = str(round(value))
    if "\\" in text:
        text = _from_latex(text)
    text = re.sub(r"- *", "-", text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", text)  # 7 3/4 is 7+3/4
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return str(int(float(text.replace(",", "")))) if _is_integer(text) else text


def elements(text: str) -> list[str]:
    """The parts of a tuple or interval; anything else is one element."""
    text = _without_thousands(text)
    if not text:
        return []
    framed = len(text) > 2 and text[0] in BRACKETS and text[-1] in BRACKETS
    if framed and not any(bracket in text[1:-1] for bracket in BRACKETS):
        return [part.strip() for part in text[1:-1].split(",")]
    return [text]


def _same_element(gold: str, given: str) -> bool:
    if FRACTION.search(gold) and FRACTION.search(given):
        return gold == given  # a fraction that could be reduced is wrong
    if _is_integer(gold) != _is_integer(given):
        return False
    return _same_by_sympy(f"({gold})-({given})")


def _same_by_sympy(difference: str) -> bool:
    letters = {c for c in difference.replace("sqrt", "").replace("frac", "") if c.isalpha()}
    if len(letters) > 2 or TOO_LARGE.search(difference):
        return False
    from sympy import simplify

    try:
        return bool(simplify(_parsed(difference)) == 0)
    except MemoryError:
        raise
    except Exception:  # sympy raises almost anything for almost any text: not equal, says the rule
        return False


def _parsed(expression: str) -> Any:
    from sympy.parsing import sympy_parser

    return sympy_parser.parse_expr(
        expression.replace("^", "**"),
        transformations=(
            *sympy_parser.standard_transformations,
            sympy_parser.implicit_multiplication_application,
        ),
        global_dict=dict(_names()),
    )


@cache
def _names() -> dict[str, Any]:
    """What an expression may name. `parse_expr` evaluates Python, so no builtins are among it."""
    import sympy

    return {name: getattr(sympy, name) for name in sympy.__all__} | {"__builtins__": {}}


def _from_latex(text: str) -> str:
    from pylatexenc.latex2text import LatexNodes2Text

    plain = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac")
    plain = plain.replace("\\frac", " \\frac")  # 2\frac{1}{2} is a mixed number
    try:
        plain = LatexNodes2Text().latex_to_text(plain)
    except MemoryError:
        raise
    except Exception:  # not LaTeX: the rule goes on with the text as it is
        return text
    for symbol, name in SYMBOLS.items():
        plain = plain.replace(symbol, name)
    return str(plain.strip())


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _whole(value: float) -> bool:
    try:
        return abs(value - round(value)) <= 1e-7
    except (OverflowError, ValueError):  # infinity, nan
        return False


def _is_integer(text: str) -> bool:
    value = _number(_without_thousands(text))
    return value is not None and _whole(value)


def _without_thousands(text: str) -> str:
    while (shorter := THOUSANDS.sub(r"\1\2\3", text)) != text:
        text = shorter
    return text
