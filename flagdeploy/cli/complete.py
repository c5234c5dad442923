"""Shell completion of deployments, variants, keys and baselines: folder names and the schema."""

from pathlib import Path

import typer

from flagdeploy.errors import FlagdeployError


def deployments(context: typer.Context, incomplete: str) -> list[str]:
    """Folders under examples/."""
    from flagdeploy.config import workspace

    try:
        names = workspace.deployments(_root(context))
    except FlagdeployError:
        return []
    return _matching(names, incomplete)


def overrides(context: typer.Context, incomplete: str) -> list[str]:
    """Files under serve/ of the deployment, then ``key=``."""
    name, given = context.params.get("name"), context.params.get("overrides")
    variants: list[str] = []
    if name and not given:
        try:
            folder = _root(context) / "examples" / name / "serve"
        except FlagdeployError:
            return []
        variants = sorted(path.stem for path in folder.glob("*.yaml"))
    return _matching([*variants, *(f"{key}=" for key in _keys())], incomplete)


def keys(incomplete: str) -> list[str]:
    """Dotted keys of the schema."""
    return _matching(_keys(), incomplete)


def baselines(context: typer.Context, incomplete: str) -> list[str]:
    """Files under env/baselines/."""
    from flagdeploy.workflows.sides import names

    try:
        return _matching(names(_root(context)), incomplete)
    except FlagdeployError:
        return []


def datasets(incomplete: str) -> list[str]:
    """Files of flagdeploy/evals/datasets/, after the last comma."""
    from flagdeploy.evals.dataset import names

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _matching(names(), last)]


def suites(incomplete: str) -> list[str]:
    """How much `compare` asks."""
    return _matching(["quick", "standard", "full"], incomplete)


def modes(incomplete: str) -> list[str]:
    """How tokens are scored."""
    return _matching(["S", "D", "P"], incomplete)


def forms(incomplete: str) -> list[str]:
    """What `--format` prints."""
    return _matching(["text", "markdown", "html", "junit", "json", "card"], incomplete)


def graders(incomplete: str) -> list[str]:
    """Whose scores `eval` prints."""
    return _matching(["both", "mlperf", "lenient"], incomplete)


def patch_sets(context: typer.Context, incomplete: str) -> list[str]:
    """Folders VENDOR/COMPONENT@COMMIT under patches/."""
    from flagdeploy.config.patch_set import folders

    try:
        return _matching(list(folders(_root(context))), incomplete)
    except FlagdeployError:
        return []


def _root(context: typer.Context) -> Path:
    from flagdeploy.config import workspace  # reads YAML, which `--help` has no use for

    return workspace.find(context.params.get("workspace"))


def _keys() -> list[str]:
    from flagdeploy.config.keys import schema_keys

    identity = ("name", "variant")  # set by what the command names
    return [str(key) for key in schema_keys().values() if str(key) not in identity]


def _matching(words: list[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
