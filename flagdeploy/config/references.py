"""Secrets enter a configuration in one way: `${env:NAME}`, allow-listed, in keys meant for it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flagdeploy.config.layers import Merged
from flagdeploy.config.secret import Secret
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import Problem

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_ALLOWED = re.compile(r"HF_TOKEN|HUGGING_FACE_HUB_TOKEN|FLAGDEPLOY_\w+|\w+_API_KEY")
_LOOKS_SECRET = re.compile(r"\w*_(KEY|TOKEN|SECRET|PASSWORD|PASS)", re.IGNORECASE)
# Engines take few secrets as arguments; others end in "token" and are none (``image-token``).
_SECRET_ARGUMENT = re.compile(r"hf_token|\w*(api_key|secret|password)", re.IGNORECASE)


def extract(
    merged: Merged, environ: Mapping[str, str]
) -> tuple[dict[KeyPath, Secret], list[Problem]]:
    """Take every `${env:NAME}` out of `merged.data`, leaving an empty string in its place.

    Returns the secrets by key path, and the problems: a variable that is unset or not allowed, a
    reference inside a longer text or in a key that is printed, a secret written out in full.
    """
    secrets: dict[KeyPath, Secret] = {}
    problems: list[Problem] = []
    allowed = [str(name) for name in merged.data.get("environment_allowlist") or []]
    for path, value, parent in list(_strings(merged.data, ())):
        what = _problem(path, value, environ, allowed)
        match = _REFERENCE.fullmatch(value)
        if what:
            problems.append(Problem(merged.where(path), ".".join(path), what))
        elif match:
            secrets[path] = Secret(environ[match[1]], match[1])
        if "${env:" in value:
            parent[path[-1]] = ""
    return secrets, problems


def names(data: dict[str, Any]) -> list[str]:
    """The variables that `data` refers to."""
    found = (_REFERENCE.fullmatch(value) for _, value, _ in _strings(data, ()))
    return [match[1] for match in found if match]


def allowed(name: str) -> bool:
    """May `${env:NAME}` read the variable without being listed under environment_allowlist?"""
    return bool(_ALLOWED.fullmatch(name))


def looks_secret(name: str) -> bool:
    """Is a variable of this name likely to hold a secret?"""
    return bool(_LOOKS_SECRET.fullmatch(name))


def is_secret_argument(name: str) -> bool:
    """Does an engine argument of this name take a secret? Every process sees arguments."""
    return bool(_SECRET_ARGUMENT.fullmatch(name.replace("-", "_")))


def _problem(
    path: KeyPath, value: str, environ: Mapping[str, str], allowed: Sequence[str]
) -> str | None:
    if "${env:" in value:
        return _reference_problem(path, value, environ, allowed)
    if path == ("endpoint", "api_key"):
        return "a secret does not stand in a file or a command line: write ${env:NAME}"
    if _is_environment(path) and value and looks_secret(path[-1]):
        return "looks like a secret written out: write ${env:NAME}"
    if value and path[0] == "engine_args" and len(path) == 2 and is_secret_argument(path[1]):
        own = path[1].replace("-", "_") == "api_key"
        place = "endpoint.api_key" if own else "container.env"
        return f"a secret is no argument, which every process sees: use {place}"
    return None


def _reference_problem(
    path: KeyPath, value: str, environ: Mapping[str, str], allowed: Sequence[str]
) -> str | None:
    match = _REFERENCE.fullmatch(value)
    if not match:
        return "${env:NAME} must be the whole value, because it is a secret"
    name = match[1]
    if not (_is_environment(path) or path == ("endpoint", "api_key")):
        return "${env:NAME} is a secret and may stand only in container.env and endpoint.api_key"
    if not _ALLOWED.fullmatch(name) and name not in allowed:
        return f"the variable {name} is not allowed: list it under environment_allowlist"
    if name not in environ:
        return f"the environment variable {name} is not set"
    return None


def _is_environment(path: KeyPath) -> bool:
    return path[:2] in (("container", "env"), ("container", "rank_env"))


def _strings(data: dict[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, str, dict[str, Any]]]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _strings(value, (*path, name))
        elif isinstance(value, str):
            yield (*path, name), value, data
