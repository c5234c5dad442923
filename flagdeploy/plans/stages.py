"""Steps of the vendors' own converters, which make what the ranks load.

A converter fills the folder ``PRODUCT.flagdeploy-unfinished``, which its container sees as PRODUCT,
so paths that it writes down stay true after the folder got its name. ``flagdeploy.json`` in it says
of what and with what it was made.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flagdeploy.config.facts import Facts, Product
from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_RUN,
    LABEL_STAGE,
    ContainerSpec,
    Host,
    Mount,
    StageCommand,
)
from flagdeploy.config.schema import Deployment
from flagdeploy.errors import HostError, UsageError, did_you_mean
from flagdeploy.plans.container import container_of
from flagdeploy.plans.steps import Convert, Skip, Step

STAGES = ("checkpoint", "weight_cache")
_WITHOUT_DEVICES: dict[str, Any] = {
    "devices": (), "gpus": False, "runtime": None, "privileged": False, "pid": "private",
}  # fmt: skip


def identity(command: StageCommand) -> dict[str, Any]:
    """What the product depends on, beside the content of its source."""
    return {
        "kind": "stage",
        "stage": command.stage,
        "converter": command.converter,
        "image": command.image,
        "argv": list(command.argv),
        "files": [file.content for file in command.files],
        "env": {name: str(value) for name, value in sorted(command.env.items())},
    }


def until_stage(commands: Sequence[StageCommand], until: str) -> list[StageCommand]:
    """The commands up to stage `until`. Raises UsageError when it is none of the deployment's."""
    if until not in STAGES:
        raise UsageError(f"there is no stage {until}", did_you_mean(until, STAGES))
    if until not in {command.stage for command in commands}:
        raise UsageError(
            f"the deployment has no {until} stage",
            f"stages.{until}.converter names the converter that makes it",
        )
    return [c for c in commands if STAGES.index(c.stage) <= STAGES.index(until)]


def unfinished(command: StageCommand) -> str:
    """The folder of the host that is filled."""
    return f"{command.product.rstrip('/')}.flagdeploy-unfinished"


def convert_steps(
    command: StageCommand,
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    run_id: str,
) -> list[Step]:
    """One step for each host that converts, a Skip where the product is there already.

    Raises HostError when something else lies where the product shall be.
    """
    steps: list[Step] = []
    for number, host in enumerate(hosts):
        if number and deployment.stages.shared:
            why = f"{command.product} comes from {hosts[0]}, on a shared file system"
            steps.append(Skip(host.address, command.stage, why))
        elif _is_there(command, host, facts.of(host.address).products.get(command.product)):
            why = f"{command.product} is there: {command.converter} made it of {command.source}"
            steps.append(Skip(host.address, command.stage, why))
        else:
            container = container_of(deployment, host, facts)
            labels = _labels(command, deployment, number, len(hosts), run_id)
            spec = _spec(command, deployment, container, labels)
            steps.append(_step(command, deployment, host, spec))
    return steps


def _is_there(command: StageCommand, host: Host, found: Product | None) -> bool:
    if found is None or found.empty:
        return False
    record, wanted = found.record, identity(command)
    made = record.get("identity", {})
    what = f"holds something that {command.converter} did not make"
    if made == wanted:
        # A source that was removed after its conversion is not needed again.
        if found.source in ("", record.get("source")):
            return True
        what = f"was made of another checkpoint than {command.source} is now"
    elif made.get("kind") == "stage":
        names = [name for name in wanted if made.get(name) != wanted[name]]
        what = f"was made with another {' and '.join(names)}"
    raise HostError(
        host.address,
        f"{command.product} {what}",
        f"move it away, name another folder, or take it as it is: "
        f"stages.{command.stage}.converter=none",
    )


def _step(
    command: StageCommand, deployment: Deployment, host: Host, spec: ContainerSpec
) -> Convert:
    return Convert(
        host=host.address,
        stage=command.stage,
        why=f"{command.converter} makes {command.product} of {command.source}",
        command=command,
        spec=spec,
        unfinished=unfinished(command),
        identity=identity(command),
        stall_timeout=deployment.readiness.stall_timeout,
        interval=deployment.readiness.interval,
    )


def _spec(
    command: StageCommand,
    deployment: Deployment,
    container: ContainerSpec,
    labels: dict[str, str],
) -> ContainerSpec:
    own = [Mount(path, path, read_only=True) for path in (command.source, *command.inputs)]
    own.append(Mount(unfinished(command), command.product))
    taken = {mount.target for mount in own}
    others = [mount for mount in container.mounts if mount.target.rstrip("/") not in taken]
    return replace(
        container,
        name=f"flagdeploy-{deployment.name}-{command.stage}-{labels[LABEL_RANK]}",
        image=command.image,
        argv=command.argv,
        env={**deployment.container.env, **command.env},
        labels=labels,
        files=command.files,
        mounts=(*others, *own),
        workdir=command.workdir or container.workdir,
        **({} if command.devices else _WITHOUT_DEVICES),
    )


def _labels(
    command: StageCommand, deployment: Deployment, number: int, count: int, run_id: str
) -> dict[str, str]:
    return {
        LABEL_DEPLOYMENT: deployment.name,
        LABEL_STAGE: command.stage,
        LABEL_RANK: str(number),
        LABEL_RANKS: str(count),
        LABEL_RUN: run_id,
    }
