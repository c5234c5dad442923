"""From what a user names to a side of a comparison.

An endpoint, a bundle, a table of published scores, or what another tool recorded.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from flagdeploy.config import workspace as workspaces
from flagdeploy.config.secret import Secret
from flagdeploy.errors import UsageError
from flagdeploy.evals.bundle import SUFFIX, Bundle, fingerprint, read_bundle
from flagdeploy.evals.client import Endpoint
from flagdeploy.evals.readers import detect, lm_eval, refpt
from flagdeploy.evals.readers.refpt import TokenReference
from flagdeploy.evals.readers.samples import Samples
from flagdeploy.evals.tables import Table, read_table
from flagdeploy.records.run import latest

Side = Endpoint | Bundle | Table | Samples | TokenReference
FOLDER = Path("env", "baselines")


def candidate_side(given: Side | str | None, root: Path, filter_name: str | None = None) -> Side:
    """`filter_name` chooses among the filters of lm-eval's samples."""
    if isinstance(given, Side):
        return given
    if given and _is_of_another_tool(Path(given)):
        return _of_another_tool(Path(given), filter_name)
    if given and (Path(given).is_file() or given in names(root)):
        return find(given, root)
    if given and Path(given).is_dir() and given not in workspaces.deployments(root):
        return _of_another_tool(Path(given), filter_name)  # says what was looked for
    return endpoint_of(given, root)


def baseline_side(
    given: Side | str | None, candidate: Side, root: Path, filter_name: str | None = None
) -> Side:
    if isinstance(given, Side):
        return given
    assert given is not None, "check_baseline comes first"
    if given.startswith(("http://", "https://")):
        return endpoint_of(given, root)
    if _is_of_another_tool(Path(given)):
        return _of_another_tool(Path(given), filter_name)
    name = candidate.name if isinstance(candidate, Endpoint) else ""
    return find(given, root, name or None)


def check_filter(filter_name: str | None, *sides: Side) -> None:
    """Raise UsageError for a filter where no side has filters."""
    tools = [side.tool for side in sides if isinstance(side, Samples)]
    if filter_name and lm_eval.TOOL not in tools:
        raise UsageError(f"--filter {filter_name}: only lm-eval's samples have filters")


def _is_of_another_tool(path: Path) -> bool:
    """Any file but a table or a bundle, and a folder that is known to hold answers."""
    if not path.is_file():
        return detect.is_folder(path)
    table = path.suffix in (".yaml", ".yml")
    return not (table or path.name.endswith(SUFFIX) or _start(path) == b"\x1f\x8b")


def _of_another_tool(path: Path, filter_name: str | None) -> Samples | TokenReference:
    if path.is_file() and (path.suffix in refpt.SUFFIXES or _start(path) == b"PK"):
        return refpt.read(path)
    return detect.read_samples(path, filter_name)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2)


def check_baseline(given: Side | str | None, root: Path) -> None:
    """Raise UsageError for a baseline that cannot exist, before any host is asked for anything."""
    if given is None:
        raise UsageError(
            "compare with what? Give --baseline NAME, URL or BUNDLE",
            hint=f"there are: {', '.join(names(root))}",
        )
    if not isinstance(given, str) or given.startswith(("http://", "https://")):
        return
    known = names(root)
    there = Path(given).is_file() or detect.is_folder(Path(given))
    if not there and given not in {*known, *(n.split("/")[-1] for n in known)}:
        raise UsageError(f"no baseline `{given}`", hint=f"there are: {', '.join(known)}")


def find(name: str, workspace: Path, deployment: str | None = None) -> Bundle | Table:
    """The baseline called `name`: a path, or a file under env/baselines/.

    A bundle recorded for `deployment` (env/baselines/DEPLOYMENT/NAME.jsonl.gz) comes before a
    published table (env/baselines/NAME.yaml), that before any other deployment's only bundle of
    that name. Raises UsageError listing what there is.
    """
    files = [f"{name}.yaml", f"{name}{SUFFIX}"]
    if deployment:
        files.insert(0, f"{deployment}/{name}{SUFFIX}")
    for path in (Path(name), *(folder / file for file in files for folder in folders(workspace))):
        if path.is_file():
            return read_table(path) if path.suffix in (".yaml", ".yml") else read_bundle(path)
    others = [path for folder in folders(workspace) for path in folder.glob(f"*/{name}{SUFFIX}")]
    if len(others) == 1 and deployment is None:
        return read_bundle(others[0])
    raise UsageError(f"no baseline `{name}`", hint=f"there are: {', '.join(names(workspace))}")


def names(workspace: Path) -> list[str]:
    """Every baseline of the workspace, by the name that `find` takes."""
    patterns = ("*.yaml", f"*{SUFFIX}", f"*/*{SUFFIX}")
    relative = {
        path.relative_to(folder).as_posix()
        for folder in folders(workspace)
        for pattern in patterns
        for path in folder.glob(pattern)
    }
    return sorted(name.removesuffix(SUFFIX).removesuffix(".yaml") for name in relative)


def folders(workspace: Path) -> list[Path]:
    """Where baselines lie: first where new ones are recorded, then what the workspace brings."""
    both = (workspaces.writable_folder(workspace), workspace)
    return list(dict.fromkeys(folder / FOLDER for folder in both))


def endpoint_of(source: str | None, root: Path) -> Endpoint:
    """The endpoint of a URL, or of the deployment `source` that runs (None: the only one).

    A URL is asked with the key in $FLAGDEPLOY_API_KEY, if that is set.
    """
    if source and source.startswith(("http://", "https://")):
        key = os.environ.get("FLAGDEPLOY_API_KEY")
        return Endpoint(source, api_key=Secret(key, "FLAGDEPLOY_API_KEY") if key else None)
    from flagdeploy.workflows import resolve

    running = resolve.running_endpoint(source, root)
    return Endpoint(running.url, running.model, running.api_key, running.name)


def lock(endpoint: Endpoint, root: Path) -> dict[str, Any]:
    """What is known of a named deployment beside what probing finds, as a bundle states it too:
    its resolved configuration and, where it is served from a folder of this machine, the hashes
    of its checkpoint.
    """
    if not endpoint.name:
        return {}
    config = deployed(endpoint, root)
    here = config is not None and config.get("launcher") == "local"
    folder = root / config["model"]["checkpoint"] if config and here else None
    known = fingerprint(folder) if folder and folder.is_dir() else None
    return {"deployment": config, "checkpoint": known}


def deployed(endpoint: Endpoint, root: Path) -> dict[str, Any] | None:
    """The resolved configuration, secrets masked, that a named deployment was last served with."""
    run = latest(workspaces.state_folder(root), endpoint.name) if endpoint.name else None
    path = run.folder / "config.yaml" if run else None
    if path is None or not path.is_file():
        return None
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return config
