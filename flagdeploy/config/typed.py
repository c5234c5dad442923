"""Merged layers as a typed `Deployment`, by OmegaConf."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from flagdeploy.config.layers import Merged
from flagdeploy.config.schema import Deployment
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import Problem


def typed(merged: Merged) -> tuple[Deployment | None, list[Problem]]:
    """The data as a Deployment; each type error is noted, its leaf dropped, and the rest tried."""
    omegaconf = _omegaconf()
    OmegaConf = omegaconf.OmegaConf
    OmegaConf.clear_resolver("oc.env")  # would copy any variable into the plan
    problems: list[Problem] = []
    data = merged.data
    while True:
        try:
            deployment = OmegaConf.to_object(
                OmegaConf.unsafe_merge(OmegaConf.structured(Deployment), data)
            )
            return (None if problems else deployment), problems
        except omegaconf.errors.OmegaConfBaseException as error:
            path = _path(error.full_key)
            problems.append(Problem(merged.where(path), ".".join(path), str(error).splitlines()[0]))
            if not _drop(data, path):
                return None, problems


def _omegaconf() -> ModuleType:
    """OmegaConf without attrs, which it would import (a tenth of a dry run) to support it."""
    hide = "attr" not in sys.modules
    if hide:
        sys.modules["attr"] = None  # type: ignore[assignment]  # an import of it fails
    try:
        return import_module("omegaconf")
    finally:
        if hide:
            del sys.modules["attr"]


def _path(full_key: str | None) -> KeyPath:
    return tuple((full_key or "").replace("[", ".").replace("]", "").split("."))


def _drop(data: dict[str, Any], path: KeyPath) -> bool:
    """Remove the leaf at `path`, or the list it lies in."""
    for name in path[:-1]:
        if not isinstance(data.get(name), dict):
            return data.pop(name, None) is not None
        data = data[name]
    return data.pop(path[-1], None) is not None
