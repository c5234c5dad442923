"""From names to checked configurations: the first stage of every workflow."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flagdeploy import engines, vendors
from flagdeploy.config import workspace
from flagdeploy.config.flagscale.imported import Imported
from flagdeploy.config.launch import LABEL_DEPLOYMENT, LABEL_ENDPOINT, LABEL_MODEL, Running
from flagdeploy.config.load import Loaded, load, load_imported
from flagdeploy.config.secret import Secret
from flagdeploy.engines.base import Engine
from flagdeploy.errors import ConfigError, Problem, UsageError
from flagdeploy.plans.serve import problems
from flagdeploy.vendors.base import Vendor

if TYPE_CHECKING:
    from flagdeploy.config.patch_set import PatchSet


def deployment(
    name: str | None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    hosts: str | None = None,
    launcher: str | None = None,
    root: Path,
    imported: Imported | None = None,
) -> tuple[Loaded, Engine, Vendor]:
    """A configuration in which every rule holds: of `imported` if given, else of `name`.

    Raises ConfigError with all problems at once, each naming file, line and key.
    """
    if imported:
        loaded = load_imported(imported, overrides, root=root, launcher=launcher)
    else:
        loaded = load(
            _named(name, root), variant, overrides, root=root, hosts=hosts, launcher=launcher
        )
    engine = engines.load(loaded.deployment.engine, root)
    vendor = vendors.load(loaded.deployment.vendor, root)
    found = problems(loaded.deployment, loaded.hosts, engine, vendor)
    if found:
        raise ConfigError([Problem(loaded.where(key), key, what) for key, what in found])
    return loaded, engine, vendor


def patch_set(loaded: Loaded, root: Path) -> "PatchSet | None":
    """The patch set that a deployment names, if any; raises what `workflows.patch.chosen` does."""
    name = loaded.deployment.patch.set
    if not name:
        return None
    from flagdeploy.workflows import patch  # few deployments have patches

    return patch.chosen(name, loaded, root)


def _named(name: str | None, root: Path) -> str:
    # An empty name (of an unset shell variable) must not mean the default.
    return workspace.default_deployment(root) if name is None else name


def checkpoint_of(name: str | None, root: Path) -> Path:
    """The folder that `pull` fills and `dequant` reads, of one deployment."""
    loaded = load(_named(name, root), root=root)
    return workspace.absolute(root, loaded.deployment.model.source)


def served_checkpoint_of(name: str | None, root: Path) -> Path:
    """The folder that the engine of one deployment loads."""
    loaded = load(_named(name, root), root=root)
    return workspace.absolute(root, loaded.deployment.model.checkpoint)


def repository_of(name: str | None, root: Path) -> tuple[str, str | None]:
    """The repository, or folder of the workspace, and revision that `pull` fetches for one
    deployment.

    Raises ConfigError when its configuration names none.
    """
    loaded = load(_named(name, root), root=root)
    model = loaded.deployment.model
    if not model.repo:
        raise ConfigError(
            [Problem(loaded.where("model.repo"), "model.repo", "is not set: nothing to pull")],
            "set it, or name a repository or a folder with --ckpt",
        )
    shipped = root / model.repo
    return str(shipped) if shipped.is_dir() else model.repo, model.revision


@dataclass(frozen=True)
class RunningEndpoint:
    """The endpoint of a deployment that runs."""

    name: str
    url: str
    model: str
    api_key: Secret | None


def running_endpoint(name: str | None, root: Path) -> RunningEndpoint:
    """The endpoint of deployment `name`, or of the only one that runs.

    Raises UsageError when it does not run, when none or several run, or when the variable with
    its key is not set.
    """
    from flagdeploy.workflows import places

    found: dict[str, Running] = {}
    recorded = places.recorded(name, root)
    with places.launchers(name, root) as launchers:
        for launcher in launchers.values():
            ranks = launcher.running(name)
            serving = [r for r in ranks if r.state == "running" and not r.stage]
            found.update({r.labels[LABEL_DEPLOYMENT]: r for r in serving})
    if len(found) != 1:
        what = f"several deployments run: {', '.join(sorted(found))}" if found else "nothing runs"
        raise UsageError(
            f"{name} is not running" if name else what,
            "name one of them" if found else "start it: flagdeploy serve NAME",
        )
    running, rank = next(iter(found.items()))
    key = _api_key(recorded[running].api_key) if running in recorded else None
    return RunningEndpoint(running, rank.labels[LABEL_ENDPOINT], rank.labels[LABEL_MODEL], key)


def _api_key(variable: str) -> Secret | None:
    if not variable:
        return None
    if variable not in os.environ:
        raise UsageError(f"the endpoint's key is in {variable}, which is not set")
    return Secret(os.environ[variable], variable)
