"""gpt-oss: replies in the Harmony format (language/gpt-oss-120b/eval_accuracy.py).

Boxes and AIME integers are read from the whole text, as for DeepSeek-R1.
"""

import re
from functools import cache

from flagdeploy.evals.grading.mlperf.choice import last_answer, last_letter
from flagdeploy.evals.grading.mlperf.text import cleaned, unescaped

FINAL = re.compile(
    r"<\|channel\|>final[^<]*+<\|message\|>(.*?)(?:<\|return\|>|$)", re.DOTALL
)  # the marker may carry junk, as in `final537`


def final_section(text: str) -> str:
    """The message of the first ``final`` channel, or the whole text when there is none."""
    match = FINAL.search(text)
    return match[1].strip() if match else text


def read_choice(text: str, last_option: str) -> str | None:
    """In this order: a letter that opens the final section; its first ``Answer: X``; the last
    ``ANSWER: X`` of the whole text; with ten options the last lone letter of the final section.

    So "A tricky question. Answer: D" answers A, and a draft in the analysis can win over "The
    answer is D." in the final section.
    """
    text = cleaned(text)
    final = unescaped(re.sub(r"\*\*([^*]++)\*\*", r"\1", final_section(text)))
    if opening := _opening(last_option).match(final.strip()):
        return opening[1].upper()
    if first := _first_answer(last_option).search(final):
        return first[1].upper()
    whole = text.replace(r"\n", "\n").replace(r"\'", "'")
    return last_answer(whole, last_option) or (
        last_letter(final, last_option) if last_option == "J" else None
    )


def read_code(text: str) -> str | None:
    """The last block fenced as ``python``, else the last plain one: final section first."""
    text = cleaned(text)
    final = final_section(text)
    found = _last_block(final) if final != text else None
    return found if found is not None else _last_block(text)


def _last_block(text: str) -> str | None:
    if blocks := re.findall(r"```python(.*?)```", text, re.DOTALL):
        return str(blocks[-1]).strip()
    if blocks := re.findall(r"```(.*?)```", text, re.DOTALL):
        return re.sub(r"^(?:python|py)\s*\n", "", str(blocks[-1]).strip(), flags=re.IGNORECASE)
    return None


@cache
def _opening(last_option: str) -> re.Pattern[str]:
    return re.compile(rf"[^a-zA-Z]*+([A-{last_option}])(?:[^a-zA-Z]|$)", re.IGNORECASE)


@cache
def _first_answer(last_option: str) -> re.Pattern[str]:
    return re.compile(rf"[Aa](?i:nswer)(?<=\b.{{6}})\s*+(?:[:.]\s*+)?((?i:[A-{last_option}]))\b")
