"""What each rank runs, as a container or a process, with the labels that say which and why."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flagdeploy.config import endpoint
from flagdeploy.config.facts import Facts
from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_PATCH,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_RUN,
    LABEL_SPEC,
    EnvValue,
    Host,
    ProcessSpec,
    RankCommand,
    Spec,
    Switch,
)
from flagdeploy.config.plain import plain
from flagdeploy.config.schema import Container, Deployment
from flagdeploy.config.secret import Secret
from flagdeploy.engines import Engine
from flagdeploy.plans.container import container_of, mounts_of
from flagdeploy.vendors import Plugin, Vendor

if TYPE_CHECKING:
    from flagdeploy.config.patch_set import PatchSet


def rank_specs(
    deployment: Deployment,
    *,
    hosts: Sequence[Host],
    facts: Facts,
    engine: Engine,
    plugin: Plugin | None,
    run_id: str,
    python: str,
    patch_set: "PatchSet | None",
    undone: Switch | None = None,
) -> tuple[Spec, ...]:
    """One for each host, in rank order. `python` is the interpreter for processes on this machine;
    of `undone`, what a prelude may export is taken back."""
    specs = (
        _spec(deployment, hosts, facts, engine, command, python, undone)
        for command in _with_plugin(engine.commands(deployment, hosts), plugin)
    )
    return tuple(_labelled(spec, run_id, patch_set) for spec in specs)


def plugin_of(deployment: Deployment, vendor: Vendor) -> Plugin | None:
    """The vendor's plug-in of the engine, where the deployment wants the build with it."""
    return vendor.plugin.get(deployment.engine) if deployment.operators.build == "plugin" else None


def spec_sha256(spec: Spec) -> str:
    """Digest of what runs: arguments, environment, mounts, image; secrets count by their names."""
    env = {
        name: f"secret:{value.name}" if isinstance(value, Secret) else value
        for name, value in spec.env.items()
    }
    content: dict[str, Any] = {**plain(spec), "env": env}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _spec(
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    engine: Engine,
    command: RankCommand,
    python: str,
    undone: Switch | None,
) -> Spec:
    rank, container = command.rank, deployment.container
    name = f"flagdeploy-{deployment.name}-{rank}"
    labels = {
        LABEL_DEPLOYMENT: deployment.name,
        LABEL_RANK: str(rank),
        LABEL_RANKS: str(len(hosts)),
        LABEL_ENDPOINT: endpoint.url(deployment, hosts),
        LABEL_MODEL: engine.served_name(deployment),
    }
    env = _environment(deployment, command)
    if deployment.launcher == "local":
        own = (python, *command.argv[1:]) if command.argv[0] == "python" else command.argv
        return ProcessSpec(
            name, _prepared(own, container, undone), env, labels, container.stop_timeout
        )
    return replace(
        container_of(deployment, hosts[rank], facts),
        name=name,
        argv=_prepared(command.argv, container, undone),
        env=env,
        labels=labels,
        files=command.files,
        mounts=tuple(mounts_of(deployment)),
    )


def _with_plugin(commands: Sequence[RankCommand], plugin: Plugin | None) -> Sequence[RankCommand]:
    if plugin is None:
        return commands
    return [replace(c, env={**plugin.environment, **c.env}) for c in commands]


def _prepared(
    argv: tuple[str, ...], container: Container, undone: Switch | None
) -> tuple[str, ...]:
    """`argv` after the prelude, which is an argument of bash and so needs no quoting; the engine
    takes the place of bash and gets its signals."""
    if not container.prelude:
        return argv
    if undone:
        argv = ("env", *undone.taken_back, *argv)
    return ("bash", "-c", 'eval "$0" && exec "$@"', container.prelude, *argv)


def _environment(deployment: Deployment, command: RankCommand) -> dict[str, EnvValue]:
    """The engine's variables, then `container.env`, then those of the single rank."""
    by_rank = {str(rank): env for rank, env in deployment.container.rank_env.items()}
    own: Mapping[str, EnvValue] = by_rank.get(str(command.rank), {})
    return {**command.env, **deployment.container.env, **own}


def _labelled(spec: Spec, run_id: str, patch_set: "PatchSet | None") -> Spec:
    """`spec` with the digest of all that matters, and the run, which does not."""
    if patch_set:
        spec = replace(spec, labels={**spec.labels, LABEL_PATCH: patch_set.digest})
    labels = {**spec.labels, LABEL_SPEC: spec_sha256(spec), LABEL_RUN: run_id}
    return replace(spec, labels=labels)
