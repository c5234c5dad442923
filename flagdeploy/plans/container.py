"""What the containers of a deployment have in common: options, mounts, devices."""

from collections.abc import Sequence
from fnmatch import fnmatch

from flagdeploy.config.facts import Facts
from flagdeploy.config.launch import ContainerSpec, Host, Mount
from flagdeploy.config.schema import Deployment


def container_of(deployment: Deployment, host: Host, facts: Facts) -> ContainerSpec:
    """What all containers of the deployment on `host` have in common, without what they run."""
    container = deployment.container
    return ContainerSpec(
        name="",
        image=container.image,
        argv=(),
        env={},
        labels={},
        mounts=tuple(_mount(text) for text in container.mounts),
        devices=_devices(container.devices, facts.of(host.address).device_nodes),
        gpus=container.gpus == "all",
        runtime=container.runtime,
        network=container.network,
        ipc=container.ipc,
        pid=container.pid,
        privileged=container.privileged,
        shm_size=container.shm_size,
        ulimits=dict(container.ulimits),
        cap_add=tuple(container.cap_add),
        security_opt=tuple(container.security_opt),
        group_add=tuple(container.group_add),
        entrypoint=None if container.entrypoint is None else tuple(container.entrypoint),
        user=container.user,
        workdir=container.workdir,
        init=container.init,
        stop_timeout=container.stop_timeout,
    )


def mounts_of(deployment: Deployment) -> list[Mount]:
    """`container.mounts`, and the folders of the model where no mount covers them: checkpoints
    read-only, the weight cache, which the engine may fill, not."""
    model = deployment.model
    mounts = [_mount(text) for text in deployment.container.mounts]
    if deployment.patch.mount:
        mounts.append(Mount(deployment.patch.worktree, deployment.patch.mount, read_only=True))
    for folder in (model.checkpoint, deployment.speculative.draft_checkpoint, model.weight_cache):
        covered = any(f"{folder}/".startswith(f"{m.target.rstrip('/')}/") for m in mounts)
        if folder and not covered:
            mounts.append(Mount(folder, folder, read_only=folder != model.weight_cache))
    return mounts


def _mount(text: str) -> Mount:
    source, target, *mode = text.split(":")
    return Mount(source, target, read_only=mode == ["ro"])


def _devices(patterns: Sequence[str], nodes: Sequence[str]) -> tuple[str, ...]:
    """`patterns` with wildcards replaced by the nodes of the host, where they are known."""
    expanded: list[str] = []
    for pattern in patterns:
        found = [node for node in nodes if fnmatch(node, pattern)]
        expanded += found if found and pattern not in found else [pattern]
    return tuple(dict.fromkeys(expanded))
