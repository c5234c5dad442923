"""From YAML layers to a frozen, typed `Deployment` that remembers where each value came from.

Layers, weakest first: schema defaults, `env/vendors/V.yaml` and `env/engines/E.yaml` (their
`defaults:`), `examples/M/config.yaml`, `examples/M/serve/VARIANT.yaml`, the command line. They are
merged as plain data; OmegaConf then types, interpolates and validates the result once.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flagdeploy.config import hostfile, keys, layers, references, workspace
from flagdeploy.config.flagscale.imported import Imported
from flagdeploy.config.launch import Host
from flagdeploy.config.layers import Merged, Source
from flagdeploy.config.schema import Deployment
from flagdeploy.config.secret import Secret
from flagdeploy.config.shape import shape_problems
from flagdeploy.config.typed import typed
from flagdeploy.config.yaml_file import KeyPath
from flagdeploy.errors import ConfigError, Problem, did_you_mean


@dataclass(frozen=True)
class Loaded:
    """A configuration after all layers, with every setting of each key."""

    deployment: Deployment
    hosts: tuple[Host, ...]
    workspace: Path
    merged: Merged

    def where(self, key: str) -> str:
        return self.merged.where(tuple(key.split(".")))

    def history(self, key: str) -> list[Source]:
        path = tuple(key.split("."))
        schema_key = keys.schema_keys().get(path)
        default = [Source("defaults", schema_key.default)] if schema_key else []
        return [*default, *self.merged.history.get(path, [])]


def load(
    name: str,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    *,
    root: Path,
    hosts: str | None = None,
    launcher: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Resolve deployment `name` of the workspace `root`.

    Raises ConfigError with every problem found, each as ``file:line: key: what``.
    """
    merged = merge(name, variant, overrides, root=root, hosts=hosts, launcher=launcher)
    deployment = _deployment(merged, root, environ)
    return Loaded(deployment, _hosts(deployment, root, hosts, merged), root, merged)


def load_imported(
    imported: Imported,
    overrides: Sequence[str] = (),
    *,
    root: Path,
    launcher: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Resolve what was read in another format as `load` resolves a deployment of the workspace."""
    given = layers.Layer("command line", {"launcher": launcher} if launcher else {})
    name = layers.Layer(str(imported.file), {"name": imported.name, "variant": ""})
    upper = [*imported.layers, layers.from_overrides(list(overrides)), given, name]
    merged = _stacked(upper, root)
    deployment = _deployment(merged, root, environ)
    hosts = imported.hosts[: deployment.max_hosts or None]
    replaced = merged.where(("hostfile",)) == "command line"
    if deployment.launcher == "local" or replaced or not hosts:
        hosts = _hosts(deployment, root, None, merged)
    return Loaded(deployment, hosts, root, merged)


def _deployment(merged: Merged, root: Path, environ: Mapping[str, str] | None) -> Deployment:
    problems = shape_problems(merged)
    secrets, secret_problems = references.extract(merged, environ or os.environ)
    problems += secret_problems
    deployment, typing_problems = typed(merged)
    if problems or deployment is None:
        raise ConfigError(_ordered(problems + typing_problems))
    return _finished(_with_secrets(deployment, secrets), root)


def merge(
    name: str,
    variant: str | None,
    overrides: Sequence[str],
    *,
    root: Path,
    hosts: str | None = None,
    launcher: str | None = None,
) -> Merged:
    """All layers merged as plain data, not yet validated."""
    folder = workspace.deployment_folder(root, name)
    upper = [layers.from_file(folder / "config.yaml", root)]
    variant = variant or upper[0].data.get("variant")
    if variant:
        upper.append(layers.from_file(_variant_file(folder, variant), root))
    options = {"hostfile": hosts, "launcher": launcher}
    flags = {key: value for key, value in options.items() if value}
    upper += [layers.from_overrides(list(overrides)), layers.Layer("command line", flags)]
    identity = {"name": name, "variant": variant or ""}
    upper.append(layers.Layer(f"examples/{name}", identity))
    return _stacked(upper, root)


def _stacked(upper: Sequence[layers.Layer], root: Path) -> Merged:
    """`upper` on the defaults of the vendor and the engine that they choose."""
    chosen = Merged()
    for layer in upper:
        chosen.add(layer)
    merged = Merged()
    for layer in [*_base_layers(chosen, root), *upper]:
        merged.add(layer)
    return merged


def _base_layers(chosen: Merged, root: Path) -> list[layers.Layer]:
    """The defaults of the vendor and the engine that the upper layers chose."""
    found = []
    for kind in ("vendor", "engine"):
        default = keys.schema_keys()[(kind,)].default
        name = chosen.data.get(kind, default)
        path = root / "env" / f"{kind}s" / f"{name}.yaml"
        if not path.exists():
            raise _unknown(kind, str(name), path.parent, chosen.where((kind,)))
        found.append(layers.from_section(path, "defaults", root))
    return found


def _unknown(kind: str, name: str, folder: Path, where: str) -> ConfigError:
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    what = f"unknown {kind} `{name}`"
    return ConfigError([Problem(where, kind, what)], did_you_mean(name, names))


def _variant_file(folder: Path, variant: str) -> Path:
    path = folder / "serve" / f"{variant}.yaml"
    if path.exists():
        return path
    names = sorted(path.stem for path in (folder / "serve").glob("*.yaml"))
    what = f"{folder.name} has no variant `{variant}`"
    raise ConfigError([Problem("command line", "VARIANT", what)], did_you_mean(variant, names))


def _with_secrets(deployment: Deployment, secrets: dict[KeyPath, Secret]) -> Deployment:
    container, endpoint = deployment.container, deployment.endpoint
    for path, secret in secrets.items():
        if path == ("endpoint", "api_key"):
            endpoint = replace(endpoint, api_key=secret)
        elif path[1] == "env":
            container = replace(container, env={**container.env, path[2]: secret})
        else:
            rank = {**container.rank_env[path[2]], path[3]: secret}
            container = replace(container, rank_env={**container.rank_env, path[2]: rank})
    return replace(deployment, container=container, endpoint=endpoint)


def _finished(deployment: Deployment, root: Path) -> Deployment:
    """Derived defaults: the served name, and paths of a local deployment against the workspace."""
    model = deployment.model
    checkpoint, source = model.checkpoint, model.source or model.checkpoint
    if deployment.launcher == "local":
        checkpoint, source = (
            str(workspace.absolute(root, p)) if p else p for p in (checkpoint, source)
        )
    served = model.served_name or model.repo or deployment.name
    model = replace(model, checkpoint=checkpoint, source=source, served_name=served)
    return replace(deployment, model=model)


def _hosts(
    deployment: Deployment, root: Path, given: str | None, merged: Merged
) -> tuple[Host, ...]:
    """The inventory: `--hosts` is relative to the current folder, `hostfile` to the workspace."""
    if deployment.launcher == "local":
        return (Host("localhost", slots=deployment.parallel.tensor),)
    if not deployment.hostfile:
        what = "no inventory: set `hostfile`, or give --hosts FILE"
        raise ConfigError([Problem("defaults", "hostfile", what)])
    path = Path(given) if given else root / deployment.hostfile
    if not path.exists():
        what = f"no such inventory: {path}"
        raise ConfigError([Problem(merged.where(("hostfile",)), "hostfile", what)])
    hosts = hostfile.read(path)
    return hosts[: deployment.max_hosts] if deployment.max_hosts else hosts


def _ordered(problems: list[Problem]) -> list[Problem]:
    def order(problem: Problem) -> tuple[str, int]:
        file, _, line = problem.where.rpartition(":")
        return (file, int(line)) if line.isdigit() else (problem.where, 0)

    return sorted(problems, key=order)
