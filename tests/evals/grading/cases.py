"""The golden cases of the graders, and replies that want to break them."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

CASES = Path(__file__).parents[2] / "cases" / "grading"


def cases(name: str) -> list[dict[str, Any]]:
    """The rows of one file of golden cases."""
    rows: list[dict[str, Any]] = yaml.safe_load((CASES / name).read_text(encoding="utf-8"))
    assert rows
    return rows


WORDS = (
    "Answer", "FINAL ANSWER", "answer is", ":", "(", ")", " ", "\n", "**", "A", "b", "I", "\u0131",
    "\\boxed{", "\\text{", "\\frac", "{", "}", "12", "1,000", "-", ".5", "1/0", "^", "$", "\\",
    "<think>", "</think>", "<|channel|>final", "<|message|>", "```python", "```", "\u7b54\u6848",
    "\u9009", "\uff11", "['", "']", "\\n", "\x00", "\ud800",
)  # fmt: skip
REPLIES = st.lists(st.sampled_from(WORDS), max_size=12).map("".join) | st.text(max_size=60)

# Each is short to write and ruinous for an expression that tries every way to match.
HOSTILE = {
    "spaces after answer": "Answer" + " " * 100_000,
    "many answers": "answer: " * 100_000,
    "spaces between the words": "FINAL" + " " * 100_000 + "x",
    "open boxes": "\\boxed{" * 100_000,
    "open text": "\\boxed{\\text{" * 20_000,
    "spaces in a box": "\\boxed{" + " " * 100_000,
    "digits": "Answer: " + "1" * 100_000 + ".",
    "digits in a box": "\\boxed{" + "1" * 100_000,
    "commas": "1," * 70_000,
    "minus signs": "-" * 100_000,
    "stars": "*" * 100_000 + "a",
    "bold": "**a" * 100_000,
    "line breaks": "\n" * 100_000 + "B",
    "markers": "<|channel|>final" * 20_000,
    "fences": "```python" * 20_000,
    "one letter": "A" * 100_000,
    "letters": "a b " * 100_000,
    "choices": "\u9009 " * 100_000,
    "options": "answer option " * 20_000,
    "brackets": "answer ((((((" * 20_000,
}
