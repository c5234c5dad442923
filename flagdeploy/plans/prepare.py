"""Steps before anything is started: what a run left that was cut off, checkpoints, images."""

from collections.abc import Sequence
from itertools import product

from flagdeploy.config.facts import Facts
from flagdeploy.config.launch import Host, StageCommand
from flagdeploy.config.schema import Deployment
from flagdeploy.plans.stages import STAGES
from flagdeploy.plans.steps import CheckCheckpoint, Convert, PullImage, Skip, Step, Stop


def prepare_steps(
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    commands: Sequence[StageCommand],
    conversions: Sequence[Step],
) -> list[Step]:
    """What comes first: what a run left that was cut off, checkpoints, images."""
    left = left_steps(deployment, facts)
    images = [deployment.container.image, *(command.image for command in commands)]
    return [*left, *_checkpoints(deployment, hosts, conversions),
            *_images(deployment, hosts, facts, images)]  # fmt: skip


def left_steps(deployment: Deployment, facts: Facts) -> list[Stop]:
    """Converters of a run that was cut off end: nobody waits for them any more."""
    timeout = deployment.container.stop_timeout
    return [
        Stop(c.host, "stop", f"stop {c.what} that an earlier run left ({c.state})",
             c.id, c.name, c.rank, timeout)
        for c in facts.converting
    ]  # fmt: skip


def _checkpoints(
    deployment: Deployment, hosts: Sequence[Host], conversions: Sequence[Step]
) -> list[Step]:
    """The checkpoint on every host; where it is still to be made, what it is made of."""
    path = deployment.model.checkpoint
    if deployment.weights == "random" or not path:
        return []
    makes = {s.host: s for s in conversions if isinstance(s, Convert) and s.stage == STAGES[0]}
    steps: list[Step] = []
    for host in hosts:
        if host.address in makes:
            step = makes[host.address]
            why = f"verify {step.command.source}, the source of {path}"
            steps.append(CheckCheckpoint(host.address, "check", why, step.command.source))
        elif not (makes and deployment.stages.shared):
            why = f"verify the checkpoint {path}"
            steps.append(CheckCheckpoint(host.address, "check", why, path))
    return steps


def _images(
    deployment: Deployment, hosts: Sequence[Host], facts: Facts, images: Sequence[str]
) -> list[Step]:
    if deployment.launcher == "local":
        return []
    steps: list[Step] = []
    for host, image in product(hosts, dict.fromkeys(filter(None, images))):
        if {image, _tagged(image)} & facts.of(host.address).images.keys():
            steps.append(Skip(host.address, "pull", f"image {image} is there"))
        else:
            steps.append(PullImage(host.address, "pull", f"pull image {image}", image))
    return steps


def _tagged(image: str) -> str:
    """Docker adds ``:latest`` to a reference without tag and digest."""
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"
