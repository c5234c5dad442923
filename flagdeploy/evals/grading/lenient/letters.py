"""The letter of a multiple-choice reply, in English and Chinese.

Linear time: repetitions are possessive, and what opens an answer never reaches into the next.
"""

import re
from functools import cache

_OPENING = r"(?:[\s*_$\"'`(\[{（【]|\\(?:text|textbf|mathbf|mathrm)\b)*+"
_BOX = rf"\\(?:boxed|fbox)\{{{_OPENING}"
_ENGLISH = (
    r"(?i:\b(?:answer|option|choice)\b)[\s*_]*+(?i:is\b|would\s++be\b)?[\s*_]*+[:：=]?"
    rf"{_OPENING}(?:(?i:option|choice)\b{_OPENING})?"
)
_CHINESE = (
    r"(?:答案|正确选项|故选|应选|选择|选)[\s*_]*+(?:应为|应该是|是|为|选)?[\s*_]*+[:：]?"
    rf"{_OPENING}"
)
_CALLED = rf"(?:(?:{_ENGLISH}|{_CHINESE})(?:{_BOX})?|{_BOX})"
_CLOSING = r"[)\].}*$：:,，。;\"'`]"


def read_letter(text: str, last_option: str) -> str | None:
    """The last letter that the text calls its answer, in upper case.

    Else the letter that opens the last line opened by one: ``(B)``, ``B.``, ``**B) because``.
    A small letter counts only where no word can be meant.
    """
    found = None
    for match in _called(last_option).finditer(text):
        found = (match[1] or match[2]).upper()
    if found is None:
        for match in _opening_a_line(last_option).finditer(text):
            found = match[1].upper()
    return found


def same_letter(prediction: str, gold: str) -> bool:
    return prediction == gold.strip().upper()


@cache
def _called(last: str) -> re.Pattern[str]:
    # "I think" and "a cat" are words, so neither is an option.
    capital = rf"([A-{last}])(?![A-Za-z0-9'’])(?!(?<=I)\s[a-z])"
    small = rf"([a-{last.lower()}])(?={_CLOSING}|[ \t]*+(?:\n|$))(?!\.[a-z])"
    return re.compile(rf"{_CALLED}(?:{capital}|{small})")


@cache
def _opening_a_line(last: str) -> re.Pattern[str]:
    return re.compile(rf"^[ \t*_$\"'`(\[{{（【]*+([A-{last}])(?={_CLOSING}|[ \t]*+$)", re.MULTILINE)
