"""The workspace: the folder with `examples/`, `env/` and `hostfiles/` that a command works in."""

import os
from pathlib import Path

from flagdeploy.config import yaml_file
from flagdeploy.errors import ConfigError, Problem, UsageError, did_you_mean

_SHIPPED = Path(__file__).parent.parent / "_workspace"


def find(explicit: str | None = None, cwd: Path | None = None) -> Path:
    """`--workspace`, else $FLAGDEPLOY_HOME, else the nearest parent with `examples/` and `env/`,
    else the copy shipped with the package.

    Raises UsageError when the given folder is no workspace.
    """
    for given in (explicit, os.environ.get("FLAGDEPLOY_HOME")):
        if given:
            return _checked(Path(given).resolve())
    here = (cwd or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if _is_workspace(folder):
            return folder
    return _SHIPPED if _is_workspace(_SHIPPED) else Path(__file__).parent.parent.parent


def writable_folder(workspace: Path) -> Path:
    """Where a workspace's checkpoints, baselines, host keys and runs are put: the workspace, or,
    for the shipped one and one without permission to write, a folder of the user's own."""
    if workspace != _SHIPPED and os.access(workspace, os.W_OK):
        return workspace
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "flagdeploy"


def state_folder(workspace: Path) -> Path:
    """Where runs are recorded: $FLAGDEPLOY_RUNS, else `runs/` of the writable folder."""
    if os.environ.get("FLAGDEPLOY_RUNS"):
        return Path(os.environ["FLAGDEPLOY_RUNS"]).resolve()
    return writable_folder(workspace) / "runs"


def absolute(workspace: Path, path: str) -> Path:
    """A path of the configuration: relative to the workspace if it is there, else to its writable
    folder."""
    inside = workspace / path
    return inside if inside.exists() else writable_folder(workspace) / path


def deployments(workspace: Path) -> list[str]:
    """Names of all deployments: folders under `examples/` with a config.yaml."""
    return sorted(path.parent.name for path in (workspace / "examples").glob("*/config.yaml"))


def deployment_folder(workspace: Path, name: str) -> Path:
    """The folder of deployment `name`. Raises ConfigError with a suggestion when there is none."""
    names = deployments(workspace)
    if name in names:
        return workspace / "examples" / name
    what = f"unknown deployment `{name}` in {workspace / 'examples'}"
    hint = did_you_mean(name, names)
    if ":" in name:
        hint = f"the URL of an endpoint begins with http:// or https://; {hint}"
    raise ConfigError([Problem("command line", "NAME", what)], hint)


def default_deployment(workspace: Path) -> str:
    """The deployment meant when none is named: the only one, or the one of `env/workspace.yaml`.

    Raises UsageError when that leaves it open.
    """
    names = deployments(workspace)
    if len(names) == 1:
        return names[0]
    path = workspace / "env" / "workspace.yaml"
    if path.exists():
        name = yaml_file.read(path).data.get("deployment")
        if name in names:
            return str(name)
        what = f"names `{name}`, which is no folder of examples/"
        raise ConfigError(
            [Problem("env/workspace.yaml", "deployment", what)], did_you_mean(str(name), names)
        )
    raise UsageError(f"name a deployment: {', '.join(names) or 'there is none under examples/'}")


def _is_workspace(folder: Path) -> bool:
    return (folder / "examples").is_dir() and (folder / "env").is_dir()


def _checked(folder: Path) -> Path:
    if not _is_workspace(folder):
        raise UsageError(f"{folder} is no workspace: it has no examples/ and env/")
    return folder
