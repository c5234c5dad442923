"""Show a configuration: resolved values with their sources, or the history of one key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from flagdeploy.config import keys, workspace
from flagdeploy.config.layers import Source
from flagdeploy.config.load import Loaded, load
from flagdeploy.config.plain import plain
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import ConfigError, Problem


@dataclass(frozen=True)
class Shown:
    """Leaves of a resolved configuration in schema order: (path, value, where)."""

    leaves: tuple[tuple[KeyPath, Any, str], ...]

    def text(self) -> str:
        """YAML with the source of each leaf as a comment."""
        lines: list[str] = []
        open_sections: KeyPath = ()
        for path, value, where in self.leaves:
            for depth, section in enumerate(path[:-1]):
                if path[: depth + 1] != open_sections[: depth + 1]:
                    lines.append(f"{'  ' * depth}{section}:")
            open_sections = path[:-1]
            text = f"{'  ' * (len(path) - 1)}{path[-1]}: {_scalar(value)}"
            lines.append(f"{text:<56}  # {where}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {".".join(p): {"value": value, "where": where} for p, value, where in self.leaves}


@dataclass(frozen=True)
class Explained:
    """What one key means and every layer that set it, strongest last."""

    key: str
    help: str
    type: str
    value: Any
    history: tuple[Source, ...]

    def text(self) -> str:
        lines = [f"{self.key} = {_scalar(self.value)}", f"  {self.help} ({self.type})"]
        for index, source in enumerate(reversed(self.history)):
            verb = "set by" if index == 0 else "overrode"
            lines.append(f"  {verb:8} {source.where}: {_scalar(source.value)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        history = [{"where": s.where, "value": s.value} for s in self.history]
        return {"key": self.key, "help": self.help, "value": self.value, "history": history}


def show(
    name: str | None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    workspace: str | None = None,
    everything: bool = False,
) -> Shown:
    """All keys that some layer set; with `everything`, those that keep their default too."""
    loaded = _loaded(name, variant, overrides, workspace)
    leaves = []
    for key in keys.schema_keys().values():
        value = _value(loaded, key.path)
        if everything or _is_set(loaded, key.path):
            leaves.append((key.path, value, loaded.merged.where(key.path)))
    return Shown(tuple(leaves))


def explain(
    key: str,
    name: str | None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    workspace: str | None = None,
) -> Explained:
    """One key's meaning, value and history. Raises ConfigError for a key that does not exist."""
    path = tuple(key.split("."))
    schema_key = keys.find(path)
    if schema_key is None:
        meant = keys.suggestion(path)
        hint = f"did you mean `{meant}`?" if meant else None
        raise ConfigError([Problem("command line", key, "unknown key")], hint)
    loaded = _loaded(name, variant, overrides, workspace)
    type_name = getattr(schema_key.type, "__name__", None) or str(schema_key.type)
    type_name = (
        str(schema_key.type).replace("typing.", "") if "[" in str(schema_key.type) else type_name
    )
    history = tuple(loaded.history(key))
    return Explained(key, schema_key.help, type_name, _value(loaded, path), history)


def _loaded(
    name: str | None, variant: str | None, overrides: Sequence[str], explicit: str | None
) -> Loaded:
    root = workspace.find(explicit)
    return load(name or workspace.default_deployment(root), variant, overrides, root=root)


def _is_set(loaded: Loaded, path: KeyPath) -> bool:
    return any(p[: len(path)] == path for p in loaded.merged.history)


def _value(loaded: Loaded, path: KeyPath) -> Any:
    value: Any = loaded.deployment
    for name in path:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return plain(value)


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
