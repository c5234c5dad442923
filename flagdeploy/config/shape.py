"""The shape of merged layers, before OmegaConf types them: known keys, sections, text as text."""

from typing import Any

from flagdeploy.config import keys
from flagdeploy.config.layers import Merged
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import Problem


def shape_problems(merged: Merged) -> list[Problem]:
    """Unknown keys, sections that are no mapping, and text given as something else.

    OmegaConf would stop at the first of these, or turn `revision: 1234` silently into text.
    What is reported is taken out of `merged.data`, so that the rest can be checked too.
    """
    problems: list[Problem] = []

    def visit(data: dict[str, Any], path: KeyPath) -> None:
        for name in list(data):
            here = (*path, name)
            what = _shape_problem(here, data[name])
            if what:
                problems.append(Problem(merged.where(here), ".".join(here), what))
            if what or (len(here) == 1 and name.startswith("x-")):
                del data[name]
            elif here in keys.sections() and isinstance(data[name], dict):
                visit(data[name], here)

    visit(merged.data, ())
    return problems


def _shape_problem(path: KeyPath, value: Any) -> str | None:
    if len(path) == 1 and path[0].startswith("x-"):
        return None  # a home for anchors
    if path in keys.sections():
        optional = keys.sections()[path].__name__ == "RelaxedAcceptance" and value is None
        return None if isinstance(value, dict) or optional else "is a section: it takes keys"
    key = keys.find(path)
    if key is None:
        meant = keys.suggestion(path)
        return "unknown key" + (f"; did you mean `{meant}`?" if meant else "")
    if _is_missing(value):
        return "`???` stands for a missing value: give one"
    if key.type in (str, str | None) and isinstance(value, (int, float, bool)):
        return f"expected text, got `{value}`: quote it"
    if key.path == path and str(key.type).startswith("list") and _no_list(value):
        return "expected a list of plain values, such as [a, b]"
    if key.open and not isinstance(value, dict):
        return "expected a mapping of names to values"
    return _environment_problem(path, value)


def _is_missing(value: Any) -> bool:
    """Is it, or holds it, what OmegaConf takes for a value that is still to be given?"""
    if isinstance(value, (dict, list)):
        return any(map(_is_missing, value.values() if isinstance(value, dict) else value))
    return bool(value == "???")


def _no_list(value: Any) -> bool:
    """Is it neither a list of plain values, nor unset, nor to be interpolated?"""
    if isinstance(value, list):
        return any(isinstance(item, list | dict) for item in value)
    return value is not None and "${" not in str(value)


def _environment_problem(path: KeyPath, value: Any) -> str | None:
    """A variable is text: `USE_FLAGGEMS: true` would reach the engine as `True`."""
    if path == ("container", "env"):
        nested = [value]
    elif path == ("container", "rank_env"):
        nested = list(value.values())
        if not all(isinstance(variables, dict) for variables in nested):
            return 'expected variables for each rank: {"0": {NAME: value}}'
    else:
        return None
    wrong = [n for env in nested for n, v in env.items() if not isinstance(v, str)]
    if wrong:
        return f"environment values are text: quote {', '.join(wrong)}"
    nameless = [name for env in nested for name in env if not name or "=" in name]
    return f"`{nameless[0]}` is no name of a variable" if nameless else None
