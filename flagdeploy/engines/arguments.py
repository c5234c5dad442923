"""The argument table of an engine: which flag, YAML key or variable takes which key of ours.

A row holds for a range of engine versions and has a kind:

========= =========================================================================
value     ``--flag VALUE``, ``key: VALUE``, ``NAME=VALUE``; `value:` writes a constant instead
switch    the bare flag (or the constant) when true
inverse   the bare flag (or the constant) when false
list      ``--flag V1 V2 ...``
binary    ``1`` or ``0`` (variables)
optional  a YAML section: ``null`` when false, an empty section when true
========= =========================================================================
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flagdeploy.config import yaml_file
from flagdeploy.engines.builds import Build
from flagdeploy.engines.converters import Converter
from flagdeploy.errors import ConfigError, Problem

Version = tuple[int, ...]


def version(text: str) -> Version:
    """``0.33.0`` and ``1.3.0rc5`` as numbers to compare; what follows the release is dropped."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


@dataclass(frozen=True)
class Argument:
    """One row: how the engine takes `key` from version `since` until before `until`."""

    key: str
    flag: str = ""
    yaml: str = ""
    env: str = ""
    kind: Literal["value", "switch", "inverse", "list", "binary", "optional"] = "value"
    value: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    """The engine's word for some values of ours."""
    refuse: Mapping[str, str] = field(default_factory=dict)
    """Values that the engine does not take, with the reason."""
    since: str = ""
    until: str = ""

    def holds(self, engine_version: str) -> bool:
        now = version(engine_version)
        return (not self.since or now >= version(self.since)) and (
            not self.until or now < version(self.until)
        )

    def applies(self, setting: Any) -> bool:
        if self.kind in ("switch", "inverse"):
            return bool(setting) == (self.kind == "switch")
        return True

    def word(self, setting: Any) -> Any:
        """What the engine is told for `setting`."""
        if self.kind == "binary":
            return "1" if setting else "0"
        if self.kind == "optional":
            return {} if setting else None
        if self.value is not None:
            return self.value
        return self.values.get(_text(setting), setting)


@dataclass(frozen=True)
class Table:
    """`env/engines/E.yaml`, without its `defaults:` (a layer of the configuration)."""

    title: str
    oldest: str
    """The oldest version that the table describes."""
    newest: str
    """The newest version whose arguments it was compared with."""
    vendors: tuple[str, ...] = ()
    """The only vendors it runs on; empty: any."""
    arguments: tuple[Argument, ...] = ()
    unsupported: Mapping[str, str] = field(default_factory=dict)
    """Keys that the engine has nothing for, with the reason."""
    owned: Mapping[str, str] = field(default_factory=dict)
    """More names that `engine_args` may not set, and the key to use instead."""
    operators: Mapping[str, Build] = field(default_factory=dict)
    """Builds of the engine that honour operator libraries, by the name `operators.build` takes."""
    no_operators: str = ""
    """Why there is no such build."""
    packages: tuple[str, ...] = ()
    """Python packages whose Triton kernels are the engine's own."""
    converters: Mapping[str, Converter] = field(default_factory=dict)
    """The vendor's own converters, by the name that `stages.*.converter` takes."""

    def of(self, key: str) -> list[Argument]:
        return [argument for argument in self.arguments if argument.key == key]


def read(path: Path) -> Table:
    """Read an engine's table. Raises ConfigError for rows with unknown fields."""
    data = dict(yaml_file.read(path).data)
    data.pop("defaults", None)
    rows: Mapping[str, list[dict[str, Any]]] = data.pop("arguments", None) or {}
    try:
        versions = data.pop("versions")
        arguments = tuple(Argument(key, **row) for key, many in rows.items() for row in many)
        converters = {
            name: Converter(name, **row)
            for name, row in (data.pop("converters", None) or {}).items()
        }
        builds = {name: Build(**row) for name, row in (data.pop("operators", None) or {}).items()}
        table = Table(
            title=data.pop("title"),
            oldest=versions["oldest"],
            newest=versions["newest"],
            arguments=arguments,
            vendors=tuple(data.pop("vendors", None) or ()),
            packages=tuple(data.pop("packages", None) or ()),
            converters=converters,
            operators=builds,
            **data,
        )
    except KeyError as error:
        raise ConfigError([Problem(str(path), "", f"lacks the section {error}")]) from None
    except TypeError as error:
        raise ConfigError([Problem(str(path), "", f"not an argument table: {error}")]) from None
    return table


def flags(arguments: Sequence[Argument], settings: Mapping[str, Any]) -> list[str]:
    """The command-line flags for `settings`, in the order of the table."""
    words: list[str] = []
    for argument in arguments:
        if not argument.flag or argument.key not in settings:
            continue
        setting = settings[argument.key]
        if not argument.applies(setting):
            continue
        words.append(argument.flag)
        if argument.kind == "list":
            words += [_text(item) for item in setting]
        elif argument.kind == "value" or argument.value is not None:
            words.append(_text(argument.word(setting)))
    return words


def options(arguments: Sequence[Argument], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The nested mapping of a YAML file for `settings`."""
    nested: dict[str, Any] = {}
    for argument in arguments:
        if argument.yaml and argument.key in settings and argument.applies(settings[argument.key]):
            put(nested, argument.yaml, argument.word(settings[argument.key]))
    return nested


def environment(arguments: Sequence[Argument], settings: Mapping[str, Any]) -> dict[str, str]:
    """The variables for `settings`."""
    return {
        argument.env: _text(argument.word(settings[argument.key]))
        for argument in arguments
        if argument.env and argument.key in settings and argument.applies(settings[argument.key])
    }


def put(nested: dict[str, Any], path: str, value: Any) -> None:
    """Set the dotted `path`; an empty section joins what is there already."""
    *parents, last = path.split(".")
    for name in parents:
        nested = nested.setdefault(name, {})
    if value == {} and isinstance(nested.get(last), dict):
        return
    nested[last] = value


def extra(engine_args: Mapping[str, Any]) -> list[str]:
    """`engine_args` as flags: true is bare, false is ``--no-NAME``, null leaves the flag out,
    mappings become one JSON argument, lists several; text is passed byte for byte.
    """
    words: list[str] = []
    for name, value in engine_args.items():
        flag = f"--{name.lstrip('-')}"
        if value is None:
            continue
        if value is False:
            words.append(f"--no-{name.lstrip('-')}")
        elif value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, *(_text(item) for item in value)]
        else:
            words += [flag, _text(value)]
    return words


def leaves(data: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted paths of all leaves of a nested mapping."""
    for name, value in data.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, here)
        else:
            yield here


def compact_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return compact_json(value) if isinstance(value, dict | list | None) else str(value)
