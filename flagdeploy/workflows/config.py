"""Show a configuration: resolved values with their sources, or the history of one key; read and
write FlagScale's."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flagdeploy import engines
from flagdeploy.config import keys, layers, references, yaml_file
from flagdeploy.config import workspace as workspaces
from flagdeploy.config.flagscale import exporting, importing
from flagdeploy.config.flagscale.imported import Imported
from flagdeploy.config.layers import Source
from flagdeploy.config.load import Loaded, load, load_imported
from flagdeploy.config.plain import plain
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.engines import operators
from flagdeploy.errors import ConfigError, Problem, UsageError
from flagdeploy.workflows import resolve

Leaf = tuple[KeyPath, Any, str]
"""Path, value, and where it was set."""


@dataclass(frozen=True)
class Shown:
    """Leaves of a resolved configuration in schema order."""

    leaves: tuple[Leaf, ...]

    def text(self) -> str:
        """YAML with the source of each leaf as a comment."""
        lines: list[str] = []
        open_sections: KeyPath = ()
        for path, value, where in self.leaves:
            for depth, section in enumerate(path[:-1]):
                if path[: depth + 1] != open_sections[: depth + 1]:
                    lines.append(f"{'  ' * depth}{_scalar(section)}:")
            open_sections = path[:-1]
            text = f"{'  ' * (len(path) - 1)}{_scalar(path[-1])}: {_scalar(value)}"
            lines.append(f"{text:<56}  # {where}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {".".join(p): {"value": value, "where": where} for p, value, where in self.leaves}


@dataclass(frozen=True)
class Explained:
    """What one key means and every layer that set it, strongest last.

    A mapping with free keys (variables, limits) has a history for each of them instead.
    """

    key: str
    help: str
    type: str
    value: Any
    history: Mapping[str, tuple[Source, ...]]

    def text(self) -> str:
        lines = [f"{self.key} = {_scalar(self.value)}", f"  {self.help} ({self.type})"]
        for key, sources in self.history.items():
            inner = "" if key == self.key else f"{key} "
            for index, source in enumerate(reversed(sources)):
                verb = "set by" if index == 0 else "overrode"
                lines.append(f"  {inner}{verb:8} {source.where}: {_scalar(source.value)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        history = {
            key: [{"where": s.where, "value": s.value} for s in sources]
            for key, sources in self.history.items()
        }
        return {"key": self.key, "help": self.help, "value": self.value, "history": history}


@dataclass(frozen=True)
class Written:
    """Files made of another format or for it: their texts by path, and whether they were written.

    `notes` name what was not carried over, `problems` what is missing before it can be served.
    """

    files: Mapping[str, str]
    folder: Path | None
    notes: tuple[Problem, ...]
    problems: tuple[Problem, ...] = ()

    def text(self) -> str:
        if self.folder:
            return "\n".join(f"wrote {self.folder / name}" for name in self.files)
        if len(self.files) == 1:
            return next(iter(self.files.values())).rstrip("\n")
        return "\n".join(f"# --- {name}\n{text}" for name, text in self.files.items())

    def to_dict(self) -> dict[str, Any]:
        return {
            "files": dict(self.files),
            "folder": str(self.folder) if self.folder else None,
            "notes": [vars(note) for note in self.notes],
            "problems": [vars(problem) for problem in self.problems],
        }


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
    leaves: list[Leaf] = []
    for key in keys.schema_keys().values():
        if everything or _is_set(loaded, key.path):
            leaves += _leaves(loaded, key.path, _value(loaded, key.path))
    return Shown(tuple(leaves))


def _leaves(loaded: Loaded, path: KeyPath, value: Any) -> list[Leaf]:
    """`value` itself, or what a mapping with free keys (variables, limits) holds."""
    if not isinstance(value, dict) or not value:
        return [(path, value, loaded.merged.where(path))]
    return [leaf for name, v in value.items() for leaf in _leaves(loaded, (*path, str(name)), v)]


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
        raise _not_a_key(path)
    loaded = _loaded(name, variant, overrides, workspace)
    type_name = getattr(schema_key.type, "__name__", None) or str(schema_key.type)
    type_name = (
        str(schema_key.type).replace("typing.", "") if "[" in str(schema_key.type) else type_name
    )
    value = _value(loaded, path)
    inner = [".".join(leaf) for leaf, _, _ in _leaves(loaded, path, value)]
    history = {leaf: tuple(loaded.history(leaf)) for leaf in inner}
    return Explained(key, schema_key.help, type_name, value, history)


def import_(
    given: Path,
    settings: Sequence[str] = (),
    *,
    to: Path | None = None,
    hosts: str | None = None,
    workspace: str | None = None,
) -> Written:
    """Turn FlagScale's configuration `given` (a file or a folder) into ``config.yaml``.

    `settings` are ``key=value`` to add or replace. Raises ConfigError for what cannot be carried
    over, and UsageError when a file would be overwritten; then nothing is written.
    """
    root = workspaces.find(workspace)
    overridden = [setting.partition("=")[0].rstrip("+") for setting in settings]
    imported = importing.read(given, hosts=hosts, overridden=overridden)
    merged = layers.Merged()
    for layer in (*imported.layers, layers.from_overrides(list(settings))):
        merged.add(layer)
    data = {**merged.data}
    files = {"config.yaml": ""}
    if imported.hosts:
        files["hostfile.txt"] = exporting.hostfile(imported.hosts)
        there = layers.label_of(to.resolve() / "hostfile.txt", root) if to else "hostfile.txt"
        data["hostfile"] = there
    title = f"# Made of FlagScale's {imported.file.name} by `flagdeploy config import`.\n"
    files["config.yaml"] = title + yaml_file.dump(data)
    problems = _unready(imported, settings, root)
    _write(files, to)
    return Written(files, to, imported.notes, problems)


def _unready(imported: Imported, settings: Sequence[str], root: Path) -> tuple[Problem, ...]:
    """What `serve` would refuse. Raises ConfigError where values are not even of their types."""
    anything = {name: "-" for layer in imported.layers for name in references.names(layer.data)}
    load_imported(imported, settings, root=root, environ={**os.environ, **anything})
    try:
        resolve.deployment(None, None, settings, root=root, imported=imported)
    except ConfigError as error:
        return error.problems
    return ()


def export(
    name: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    to: Path | None = None,
    workspace: str | None = None,
) -> Written:
    """Deployment `name` as FlagScale's files, below folder `to` or as texts only."""
    loaded = _loaded(name, variant, overrides, workspace)
    exported = exporting.export(_in_variables(loaded, workspaces.find(workspace)))
    _write(exported.files, to)
    return Written(exported.files, to, exported.notes)


def _in_variables(loaded: Loaded, root: Path) -> Loaded:
    """Choices of an operator library as the variables that the engine's build reads: FlagScale has
    no other words for them."""
    deployment, wanted = loaded.deployment, loaded.deployment.operators
    if wanted.library == "none":
        return loaded
    table = engines.load(deployment.engine, root).table
    env = {**operators.environment(table, deployment), **deployment.container.env}
    said = replace(wanted, include=None, exclude=[], config={})
    container = replace(deployment.container, env=env)
    return replace(loaded, deployment=replace(deployment, operators=said, container=container))


def _write(files: Mapping[str, str], folder: Path | None) -> None:
    if folder is None:
        return
    paths = {folder / name: text for name, text in files.items()}
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise UsageError(f"{above} is no folder", "name another one with --to")
    if there := next((path for path in paths if path.exists()), None):
        raise UsageError(f"{there} exists already", "remove it, or name another folder with --to")
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _not_a_key(path: KeyPath) -> ConfigError:
    key, what = ".".join(path), "unknown key"
    meant = keys.suggestion(path)
    hint = f"did you mean `{meant}`?" if meant else None
    if path in keys.sections():
        inside = [str(k) for k in keys.schema_keys().values() if k.path[: len(path)] == path]
        what, hint = "is a section: name one of its keys", f"there are: {', '.join(inside)}"
    return ConfigError([Problem("command line", key, what)], hint)


def _loaded(
    name: str | None, variant: str | None, overrides: Sequence[str], explicit: str | None
) -> Loaded:
    root = workspaces.find(explicit)
    return load(name or workspaces.default_deployment(root), variant, overrides, root=root)


def _is_set(loaded: Loaded, path: KeyPath) -> bool:
    return any(p[: len(path)] == path for p in loaded.merged.history)


def _value(loaded: Loaded, path: KeyPath) -> Any:
    value: Any = loaded.deployment
    for name in path:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    return plain(value)


def _scalar(value: Any) -> str:
    text = yaml_file.dump(value, flow=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
