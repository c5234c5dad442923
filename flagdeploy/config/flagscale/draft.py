"""What an import has made of a FlagScale tree so far: settings, notes, problems, and the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flagdeploy.config.escapes import escaped
from flagdeploy.config.flagscale.pair import Pair, Reference
from flagdeploy.config.flagscale.texts import LEFT_OUT
from flagdeploy.config.layers import Layer
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import Problem


@dataclass
class Draft:
    pair: Pair
    given: frozenset[str] = frozenset()
    """Keys of ours that the command line sets: nothing needs to be assumed of them."""
    settings: dict[KeyPath, tuple[Any, str]] = field(default_factory=dict)
    """Value and place of each key of ours."""
    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    read: set[KeyPath] = field(default_factory=set)

    def take(self, *path: str) -> Any:
        """The value at `path`, None if there is none; all below it counts as read."""
        self.read.add(path)
        return self.look(*path)

    def look(self, *path: str) -> Any:
        """As `take`, but what is below is still to be read."""
        value: Any = self.pair.data
        for name in path:
            if isinstance(value, list) and name.isdigit():
                value = value[int(name)]
            else:
                value = value.get(name) if isinstance(value, dict) else None
        return value

    def section(self, *path: str) -> dict[str, Any]:
        """The mapping at `path`; empty if there is none, a problem if it is something else."""
        value = self.look(*path)
        if value is None or value == {}:
            self.read.add(path)
        elif not isinstance(value, dict):
            self.read.add(path)
            self.refuse(path, "expected a mapping")
        return value if isinstance(value, dict) else {}

    def set(self, key: str | KeyPath, value: Any, path: KeyPath) -> None:
        """Set a key of ours; `path` says where it comes from."""
        name = tuple(key.split(".")) if isinstance(key, str) else key
        own = str(value) if isinstance(value, Reference) else escaped(value)
        self.settings[name] = (own, self.pair.where(path))

    def get(self, key: str) -> Any:
        return self.settings.get(tuple(key.split(".")), (None, ""))[0]

    def note(self, path: KeyPath, what: str) -> None:
        self.notes.append(Problem(self.pair.where(path), ".".join(path), what))

    def refuse(self, path: KeyPath, what: str) -> None:
        self.problems.append(Problem(self.pair.where(path), ".".join(path), what))

    def note_unread(self) -> None:
        """Whatever no rule has read is named: nothing is ignored in silence."""
        for path in _leaves(self.pair.data, ()):
            if not any(path[:length] in self.read for length in range(len(path) + 1)):
                self.note(path, LEFT_OUT["unknown"])

    def layers(self) -> list[Layer]:
        """The settings, one layer for each file that they come from."""
        found: dict[str, Layer] = {}
        for path, (value, where) in self.settings.items():
            label, _, line = where.rpartition(":")
            label, line = (label, line) if line.isdigit() else (where, "0")
            layer = found.setdefault(label, Layer(label, {}, {}))
            _put(layer.data, path, value)
            layer.lines[path] = int(line)
        return list(found.values())


def _put(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
    data[path[-1]] = value


def _leaves(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = enumerate(value)
    if not items:
        yield path
    for name, inner in items:
        yield from _leaves(inner, (*path, str(name)))
