"""LiveCodeBench: the code block of a reply (eval_accuracy.py `parse_code`)."""

import re


def read_code(text: str) -> str | None:
    """The *first* block fenced as ``python``; a plain fence is none."""
    match = re.search(r"```python(.*?)```", text, re.DOTALL)
    return match[1].strip() if match else None
