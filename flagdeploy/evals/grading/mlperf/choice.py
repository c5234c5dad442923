"""Multiple choice: GPQA (A to D) and MMLU-Pro (A to J).

Source: language/deepseek-r1/eval_accuracy.py `parse_multiple_choice`. Repetitions are possessive
here: whitespace can stand in one place only, so the matches are the same and the time is linear.
And a pattern starts with a plain set of characters and looks back from behind it: `re` finds
those thirty times as fast as a word boundary that ignores case, which tells on long thoughts.
"""

import re
from functools import cache

from flagdeploy.evals.grading.mlperf.text import cleaned, unescaped


def read_choice(text: str, last_option: str) -> str | None:
    """The letter of the last ``ANSWER: X``; of ten options else the last letter standing alone.

    So "I think so" answers I, and neither ``**Answer:** B`` nor ``The answer is B`` counts.
    """
    text = unescaped(cleaned(text))
    return last_answer(text, last_option) or (
        last_letter(text, last_option) if last_option == "J" else None
    )


def last_answer(text: str, last_option: str) -> str | None:
    return _last(_answer_pattern(last_option), text)


def last_letter(text: str, last_option: str) -> str | None:
    return _last(_letter_pattern(last_option), text)


def same_choice(prediction: str, gold: str) -> bool:
    """The gold letter in either case; not stripped, as in the reference."""
    return prediction == gold.upper()


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = None
    for match in pattern.finditer(text):
        found = match[1].upper()
    return found


@cache
def _answer_pattern(last_option: str) -> re.Pattern[str]:
    return re.compile(
        r"[Aa](?i:NSWER)\b(?:(?<=\b.{6})|(?<=\b(?i:FINAL).{6}))\s*+(?:[:=]\s*+)?(?:\(\s*+)?"
        rf"((?i:[A-{last_option}]))(?i:(?=[^A-Za-z])|$)"
    )


@cache
def _letter_pattern(last_option: str) -> re.Pattern[str]:
    small = last_option.lower()
    dotted = "\u0130\u0131" if last_option >= "I" else ""  # what else is an I in either case
    return re.compile(rf"([A-{last_option}a-{small}{dotted}])(?<=\b.)\b")
