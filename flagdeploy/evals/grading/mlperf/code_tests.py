"""LiveCodeBench: is an output the expected one (lcb_runner/evaluation/testing_util.py)."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any


def same_value(value: Any, expected: str) -> bool:
    """What a function returned equals the JSON that was expected, as Python compares them."""
    try:
        return bool(value == json.loads(expected))
    except (ValueError, RecursionError):
        return False


def same_output(output: str, expected: str) -> bool:
    """As many lines, each equal without the spaces around it, or equal as lists of numbers."""
    lines, wanted = (
        [line.strip() for line in text.strip().split("\n")] for text in (output, expected)
    )
    return len(lines) == len(wanted) and all(map(_same_line, lines, wanted))


def _same_line(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    numbers, wanted_numbers = _decimals(line), _decimals(wanted)
    return numbers is not None and numbers == wanted_numbers


def _decimals(line: str) -> list[Decimal] | None:
    try:
        return [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return None
