"""Checks of single request fields: each takes (name, JSON value) and returns a typed value.

A check raises `Refusal` naming the field. ``null`` never reaches a check: it means the default.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from flagdeploy.server.refusal import Refusal

Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Field:
    check: Check
    default: Any = None


def read(body: Any, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Check a decoded JSON body against `fields`: every field present in the result, typed.

    Raises `Refusal` for a body that is no object, an unknown field, or a wrong value.
    """
    if not isinstance(body, dict):
        raise Refusal(f"the request body must be a JSON object, not {_json_type(body)}")
    for name in body:
        if name not in fields:
            raise _unknown(name, fields)
    return {
        name: field.default if body.get(name) is None else field.check(name, body[name])
        for name, field in fields.items()
    }


def _unknown(name: str, fields: Mapping[str, Field]) -> Refusal:
    close = get_close_matches(name, fields, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(fields)}"
    return Refusal(f"{name}: unknown field; {hint}", param=name, code="unknown_parameter")


def wrong_type(name: str, expected: str, value: Any) -> Refusal:
    message = f"{name}: expected {expected}, got {_json_type(value)}"
    return Refusal(message, param=name, code="invalid_type")


def _out_of_range(name: str, value: float, low: float | None, high: float | None) -> Refusal:
    bounds = [f"at least {low}"] if low is not None else []
    bounds += [f"at most {high}"] if high is not None else []
    return Refusal(f"{name}: must be {' and '.join(bounds)}, got {value}", param=name)


def integer(low: int | None = None, high: int | None = None) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, "an integer", value)
        if (low is not None and value < low) or (high is not None and value > high):
            raise _out_of_range(name, value, low, high)
        return value

    return check


def number(low: float | None = None, high: float | None = None) -> Check:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(name, "a number", value)
        if not math.isfinite(value):
            raise Refusal(f"{name}: must be finite, got {value}", param=name)
        if (low is not None and value < low) or (high is not None and value > high):
            raise _out_of_range(name, value, low, high)
        return float(value)

    return check


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(name, "true or false", value)
    return value


def string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(name, "an object", value)
    return value


def sequence(item: Check, high: int | None = None) -> Check:
    """A list of `item`, at most `high` long; the result is a tuple."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise wrong_type(name, "a list", value)
        if high is not None and len(value) > high:
            raise Refusal(f"{name}: at most {high} entries, got {len(value)}", param=name)
        return tuple(item(f"{name}[{index}]", entry) for index, entry in enumerate(value))

    return check


def ignored(name: str, value: Any) -> None:
    """A field that cannot change the answer here, such as `user`."""


def only(*neutral: Any) -> Check:
    """A field of the API that this server lacks: only values that ask for nothing are taken."""

    def check(name: str, value: Any) -> None:
        if not any(value == entry and type(value) is type(entry) for entry in neutral):
            message = f"{name}: not supported by the pytorch engine"
            raise Refusal(message, param=name, code="unsupported_parameter")

    return check


def _json_type(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names[type(value)]
