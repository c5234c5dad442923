"""The two YAML files of a FlagScale deployment as one tree, with the place of every key.

``conf/serve.yaml`` names the other in its Hydra defaults: ``defaults: [_self_, {serve: 671b}]``
puts ``conf/serve/671b.yaml`` under the key ``serve``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flagdeploy.config import yaml_file
from flagdeploy.config.flagscale.texts import REFUSED
from flagdeploy.config.references import looks_secret
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import ConfigError, Problem, UsageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_OPENING = re.compile(r"(\\*)\$\{(?:([^${}]*)\})?")
_ENVIRONMENT = re.compile(r"oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:,(.*))?")
_DEEPEST = 20


class Reference(str):
    """``${env:NAME}``: a variable to read when the deployment starts, perhaps a secret."""


@dataclass
class Pair:
    """The merged tree, where each of its keys was written, and what was noticed on the way."""

    file: Path
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """``file:line`` of `path`, or of the nearest parent that was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return str(self.file)


def locate(given: Path) -> Path:
    """The experiment file meant by a file, by a folder such as ``examples/deepseek_r1``, or, in a
    clone of FlagScale, by the name of a model as its own command takes it.

    Raises UsageError when there is none, or when several could be meant.
    """
    if given.is_file():
        return given
    if not given.exists() and len(given.parts) == 1 and (Path("examples") / given).is_dir():
        given = Path("examples") / given
    if not given.is_dir():
        raise UsageError(f"{given}: no such file or folder")
    folders = (given / "conf", given)
    for folder in folders:
        if (folder / "serve.yaml").is_file():
            return folder / "serve.yaml"
    found = [p for f in folders for n in ("serve_*", "config_*") for p in f.glob(f"{n}.yaml")]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path.relative_to(given)) for path in sorted(found))
        raise UsageError(f"{given} holds several configurations", f"name one of them: {names}")
    what = f"{given} holds no FlagScale configuration"
    raise UsageError(what, "it has conf/serve.yaml, or name the YAML file itself")


def read(file: Path, environ: Mapping[str, str]) -> Pair:
    """The pair of experiment file `file`, interpolations resolved.

    Raises ConfigError with ``file:line`` for what is no YAML, a default that is missing or of a
    form that is not read, and an interpolation that leads nowhere.
    """
    base = yaml_file.read(file)
    pair = Pair(file)
    for group, name in _defaults(base):
        path = file if name is None else file.parent / group / f"{name}.yaml"
        document = base if name is None else _default(path, base, group, name)
        _add(pair, document, (group,) if group else ())
    pair.data = _Resolver(pair, environ).tree(pair.data, ())
    return pair


def _defaults(base: yaml_file.YamlFile) -> list[tuple[str, str | None]]:
    """(group, name) of each document in merging order; the file itself has no name."""
    written = base.data.get("defaults") or []
    found: list[tuple[str, str | None]] = []
    for index, item in enumerate(written if isinstance(written, list) else [written]):
        [(group, name)] = (
            item.items() if isinstance(item, dict) and len(item) == 1 else [("", item)]
        )
        if item == "_self_":
            found.append(("", None))
        elif isinstance(name, str | int) and _NAME.fullmatch(f"{group or 'x'}/{name}"):
            found.append((group, str(name)))
        else:
            where = f"{base.path}:{base.lines.get(('defaults', str(index)), 1)}"
            raise ConfigError([Problem(where, "defaults", f"`{item}`: {REFUSED['defaults']}")])
    return found if ("", None) in found else [("", None), *found]


def _default(path: Path, base: yaml_file.YamlFile, group: str, name: str) -> yaml_file.YamlFile:
    if not path.is_file():
        where = f"{base.path}:{base.lines.get(('defaults',), 1)}"
        raise ConfigError([Problem(where, f"defaults.{group}", f"no such file: {path}")])
    return yaml_file.read(path, top="any")


def _add(pair: Pair, document: yaml_file.YamlFile, below: KeyPath) -> None:
    pair.places |= {(*below, *p): f"{document.path}:{n}" for p, n in document.lines.items() if p}
    pair.data = _merged(pair.data, {below[0]: document.data} if below else document.data)


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Mappings key by key, anything else replaced."""
    both = {n: _merged(low[n], v) for n, v in high.items() if _mappings(low.get(n), v)}
    return {**low, **high, **both}


def _mappings(low: Any, high: Any) -> bool:
    return isinstance(low, dict) and isinstance(high, dict)


class _Resolver:
    """Replaces ``${a.b}`` and ``${oc.env:NAME,default}``, and reads what `escapes` writes."""

    def __init__(self, pair: Pair, environ: Mapping[str, str]) -> None:
        self.pair, self.environ = pair, environ

    def tree(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {name: self.tree(v, (*path, name)) for name, v in value.items()}
        if isinstance(value, list):
            return [self.tree(v, (*path, str(i))) for i, v in enumerate(value)]
        return self.text(value, path, 0) if isinstance(value, str) and path[0] != "hydra" else value

    def text(self, text: str, path: KeyPath, depth: int, alone: bool = True) -> Any:
        """`text` resolved; `alone` unless it becomes a part of a longer text."""
        if depth > _DEEPEST:
            raise self._problem(path, f"`{text}` leads back to itself")
        whole = _OPENING.fullmatch(text)
        if whole and not whole[1] and whole[2] is not None:
            return self._value(whole[2], path, depth, alone)

        def replaced(match: re.Match[str]) -> str:
            backslashes, body = match.groups()
            kept = "\\" * (len(backslashes) // 2)
            if len(backslashes) % 2:
                return kept + match[0][len(backslashes) :]
            if body is None:
                raise self._problem(path, f"`{text}`: {REFUSED['interpolation']}")
            return kept + str(self._value(body, path, depth, alone=False))

        return _OPENING.sub(replaced, text)

    def _value(self, body: str, path: KeyPath, depth: int, alone: bool) -> Any:
        variable = _ENVIRONMENT.fullmatch(body.strip())
        if variable:
            return self._variable(variable[1], variable[2], path, alone)
        value: Any = self.pair.data
        for name in body.strip().split("."):
            if isinstance(value, list) and name.isdigit() and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, dict) and name in value:
                value = value[name]
            else:
                raise self._problem(path, f"`${{{body}}}`: {REFUSED['interpolation']}")
        return self.text(value, path, depth + 1, alone) if isinstance(value, str) else value

    def _variable(self, name: str, default: str | None, path: KeyPath, alone: bool) -> Any:
        later = "envs" in path or path[-1].replace("-", "_") == "api_key"
        if later and alone and default is None:
            return Reference(f"${{env:{name}}}")
        if looks_secret(name):
            what = REFUSED["part of a secret" if later else "secret elsewhere"]
            raise self._problem(path, f"{name} {what}")
        if name not in self.environ and default is None:
            raise self._problem(path, f"the environment variable {name} is not set")
        taken = self.environ.get(name)
        value = self._default(default or "", path) if taken is None else taken
        source = "its default" if taken is None else "the environment"
        what = f"{name} is `{value}`, from {source}, and stays so"
        self.pair.notes.append(Problem(self.pair.where(path), ".".join(path), what))
        return value

    def _default(self, text: str, path: KeyPath) -> Any:
        try:
            return yaml_file.parse_value(text.strip())
        except ValueError as error:
            raise self._problem(path, str(error)) from None

    def _problem(self, path: KeyPath, what: str) -> ConfigError:
        return ConfigError([Problem(self.pair.where(path), ".".join(path), what)])
