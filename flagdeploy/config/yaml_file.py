"""One YAML file as plain data with the line of every key; YAML's traps are errors, not surprises.

YAML 1.1 reads `022` as 18, `on` as true, `12:30` as 750 and keeps the last of two equal keys. A
deployment must not depend on that, so such values are refused with the line and what to write.
Tags never construct objects: nodes are composed, and only plain data is made of them.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from flagdeploy.errors import ConfigError, Problem

KeyPath = tuple[str, ...]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_NODES = 100_000  # aliases may multiply nodes ("billion laughs")
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?$")
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_SPECIAL_FLOATS = {".inf", "-.inf", "+.inf", ".nan"}


@dataclass(frozen=True)
class YamlFile:
    """Plain data (dict, list, str, int, float, bool, None), and the line of each key path."""

    path: Path
    data: Any
    """A mapping, unless any top level was asked for."""
    lines: dict[KeyPath, int]


def read(path: Path, label: str = "", top: Literal["mapping", "any"] = "mapping") -> YamlFile:
    """Read a YAML file whose top level is a mapping; messages call it `label`, else by its path.

    Raises ConfigError naming file and line for syntax errors, duplicate keys, tabs and values that
    YAML 1.1 would read as something else than they look like.
    """
    shown = Path(label or path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(str(shown), "", "no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(shown), "", f"cannot be read: {error}")]) from None
    return parse(text, shown, top)


def parse(text: str, path: Path, top: Literal["mapping", "any"] = "mapping") -> YamlFile:
    """As `read`, from text that stands for `path` in messages."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, text, error) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(str(path), "", f"not YAML: {error}")]) from None
    builder = _Builder(path)
    if node is None:
        return YamlFile(path, {}, {})
    if top == "mapping" and not isinstance(node, yaml.MappingNode):
        raise ConfigError([Problem(f"{path}:1", "", "the top level must be a mapping of keys")])
    data = builder.build(node, ())
    if builder.problems:
        raise ConfigError(builder.problems)
    return YamlFile(path, data, builder.lines)


def parse_value(text: str) -> Any:
    """The value of a command-line override ``key=value``, by the same rules.

    Raises ValueError with the reason.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        raise ValueError(f"`{text}` is not a YAML value: {reason}") from None
    if node is None:
        return ""
    builder = _Builder(Path("command line"))
    value = builder.build(node, ())
    if builder.problems:
        raise ValueError(builder.problems[0].what)
    return value


class _Dumper(yaml.SafeDumper):
    """Quotes every text that some reader of YAML takes for something else."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return dumper.represent_scalar(_TAG + "str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def dump(data: Any, *, flow: bool = False) -> str:
    """YAML of plain data that every reader takes alike; in one line with `flow`."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        default_flow_style=flow,
        sort_keys=False,
        allow_unicode=True,
        width=10_000,
    )


def _syntax_error(path: Path, text: str, error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    if 0 < line <= len(lines) and "\t" in lines[line - 1]:
        what = "a tab; YAML is indented with spaces"
        return ConfigError([Problem(f"{path}:{line}", _key_in(lines[line - 1]), what)])
    return ConfigError([Problem(f"{path}:{line}", "", f"not YAML: {error.problem}")])


def _key_in(line: str) -> str:
    """The key that a line which YAML cannot read seems to set."""
    match = re.match(r"[\s-]*([\w.+-]+)\s*:", line)
    return match[1] if match else ""


class _Builder:
    """Turns composed nodes into plain data, collecting lines and problems."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self.count = 0

    def build(self, node: yaml.Node, where: KeyPath) -> Any:
        self.count += 1
        if self.count > _MAX_NODES or len(where) > 50:
            raise ConfigError([Problem(str(self.path), "", "too many nodes or too deep")])
        self.lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*where, str(i))) for i, item in enumerate(node.value)]
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, where: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(line, where, "a key must be a plain word")
                continue
            name = str(key_node.value)
            if key_node.tag == _TAG + "merge":
                self._problem(
                    line, where, "merge keys (<<) are not supported; layers merge instead"
                )
            elif name in data:
                first = self.lines[(*where, name)]
                self._problem(line, (*where, name), f"duplicate key, first set in line {first}")
            else:
                self.lines[(*where, name)] = line
                data[name] = self.build(value_node, (*where, name))
        return data

    def _scalar(self, node: yaml.Node, where: KeyPath) -> Any:
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        if "\0" in text:
            what = "holds a NUL, which neither an argument nor a variable can"
            self._problem(node.start_mark.line + 1, where, what)
        if kind in ("str", "timestamp"):
            return self._float_of_exponent(node, text)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int" and _INTEGER.match(text):
            return int(text)
        if kind == "float" and (_FLOAT.match(text) or text.lower() in _SPECIAL_FLOATS):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        self._problem(node.start_mark.line + 1, where, _trap(kind, text))
        return text

    @staticmethod
    def _float_of_exponent(node: yaml.Node, text: str) -> Any:
        """`1e-5` is a number to everybody but YAML 1.1."""
        plain = isinstance(node, yaml.ScalarNode) and node.style in (None, "")
        return float(text) if plain and _FLOAT.match(text) else text

    def _problem(self, line: int, where: KeyPath, what: str) -> None:
        self.problems.append(Problem(f"{self.path}:{line}", ".".join(where), what))


def _trap(kind: str, text: str) -> str:
    if kind == "bool":
        return f"`{text}` would be read as a truth value: write true or false, or quote it"
    if kind == "int" and ":" in text:
        return f"`{text}` would be read as a number to base 60: quote it"
    if kind == "int" and re.match(r"[-+]?0[0-7]+$", text):
        value = int(text, 8)
        return f"`{text}` would be read as the octal number {value}: drop the zero, or quote it"
    if kind in ("int", "float"):
        return f"`{text}` is a number in a spelling that differs between readers: write it plainly"
    return f"`{text}` carries the tag !{kind}, which is not supported"
