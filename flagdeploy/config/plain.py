"""Typed data as plain data for JSON and YAML, with secrets masked."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from flagdeploy.config.secret import Secret


def plain(value: Any) -> Any:
    """`value` as JSON data: dataclasses become mappings, secrets ``***``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
