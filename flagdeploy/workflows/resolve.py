"""From names to checked configurations: the first stage of every workflow."""

from collections.abc import Sequence
from pathlib import Path

from flagdeploy import engines, vendors
from flagdeploy.config import workspace
from flagdeploy.config.load import Loaded, load
from flagdeploy.engines.base import Engine
from flagdeploy.errors import ConfigError, Problem
from flagdeploy.plans.serve import problems
from flagdeploy.vendors.base import Vendor


def deployment(
    name: str | None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    hosts: str | None = None,
    launcher: str | None = None,
    root: Path,
) -> tuple[Loaded, Engine, Vendor]:
    """A configuration in which every rule holds.

    Raises ConfigError with all problems at once, each naming file, line and key.
    """
    name = name or workspace.default_deployment(root)
    loaded = load(name, variant, overrides, root=root, hosts=hosts, launcher=launcher)
    engine = engines.load(loaded.deployment.engine, root)
    vendor = vendors.load(loaded.deployment.vendor, root)
    found = problems(loaded.deployment, loaded.hosts, engine, vendor)
    if found:
        raise ConfigError([Problem(loaded.where(key), key, what) for key, what in found])
    return loaded, engine, vendor


def checkpoint_of(name: str | None, root: Path) -> Path:
    """The folder that `pull` fills and `dequant` reads, of one deployment."""
    loaded = load(name or workspace.default_deployment(root), root=root)
    return root / loaded.deployment.model.source


def repository_of(name: str | None, root: Path) -> tuple[str, str | None]:
    """The repository and revision that `pull` fetches for one deployment.

    Raises ConfigError when its configuration names none.
    """
    loaded = load(name or workspace.default_deployment(root), root=root)
    model = loaded.deployment.model
    if not model.repo:
        raise ConfigError(
            [Problem(loaded.where("model.repo"), "model.repo", "is not set: nothing to pull")],
            "set it, or name a repository or a folder with --ckpt",
        )
    return model.repo, model.revision
