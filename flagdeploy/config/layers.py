"""The layers of a configuration as plain data, merged with a memory of who set what.

Later layers win; mappings merge key by key, lists are replaced. A key written with a trailing `+`
(``mounts+: [...]``, on the command line ``container.mounts+=[...]``) appends to the list below it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy.config import yaml_file
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import ConfigError, Problem


@dataclass(frozen=True)
class Source:
    """One setting of one key: `where` is ``file:line`` or ``command line``."""

    where: str
    value: Any


@dataclass(frozen=True)
class Layer:
    """One file, one section of a file, or the command line."""

    label: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        line = self.lines.get(path)
        return f"{self.label}:{line}" if line else self.label


@dataclass
class Merged:
    """The merged data, and every setting of every leaf in the order of the layers."""

    data: dict[str, Any] = field(default_factory=dict)
    history: dict[KeyPath, list[Source]] = field(default_factory=dict)
    key_lines: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Where the value at `path`, or its nearest parent that was written, was set last."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.key_lines:
                return self.key_lines[path[:length]]
        return "defaults"

    def add(self, layer: Layer) -> None:
        self._merge(self.data, layer.data, (), (), layer)

    def _merge(
        self,
        into: dict[str, Any],
        new: dict[str, Any],
        path: KeyPath,
        written: KeyPath,
        layer: Layer,
    ) -> None:
        for raw, value in new.items():
            name, append = (raw[:-1], True) if raw.endswith("+") else (raw, False)
            here, as_written = (*path, name), (*written, raw)
            self.key_lines[here] = layer.where(as_written)
            if isinstance(value, dict) and value:
                below = into.get(name)
                into[name] = below if isinstance(below, dict) else {}
                self._merge(into[name], value, here, as_written, layer)
            else:
                into[name] = self._appended(into.get(name), value, here) if append else value
                source = Source(self.key_lines[here], into[name])
                self.history.setdefault(here, []).append(source)

    def _appended(self, below: Any, value: Any, path: KeyPath) -> Any:
        if not isinstance(value, list) or not isinstance(below or [], list):
            what = "`+` appends to a list, so the value must be a list"
            raise ConfigError([Problem(self.key_lines[path], ".".join(path), what)])
        return [*(below or []), *value]


def from_file(path: Path, workspace: Path) -> Layer:
    """A whole file as one layer; its label is relative to the workspace."""
    label = label_of(path, workspace)
    file = yaml_file.read(path, label)
    return Layer(label, file.data, file.lines)


def from_section(path: Path, section: str, workspace: Path) -> Layer:
    """One top-level section of a file as a layer (`defaults:` of a vendor or an engine)."""
    label = label_of(path, workspace)
    file = yaml_file.read(path, label)
    lines = {key[1:]: line for key, line in file.lines.items() if key[:1] == (section,)}
    return Layer(label, file.data.get(section) or {}, lines)


def from_overrides(overrides: list[str]) -> Layer:
    """``key=value`` and ``key+=[...]`` of the command line. Raises ConfigError for other forms."""
    data: dict[str, Any] = {}
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(Problem("command line", override, "write it as key=value"))
            continue
        try:
            _put(data, key.split("."), yaml_file.parse_value(text))
        except ValueError as error:
            problems.append(Problem("command line", key, str(error)))
    if problems:
        raise ConfigError(problems)
    return Layer("command line", data)


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ValueError(f"`{name}` already has a value of its own")
    data[path[-1]] = value


def label_of(path: Path, workspace: Path) -> str:
    return str(path.relative_to(workspace) if path.is_relative_to(workspace) else path)
