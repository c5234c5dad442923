"""The plan of `serve`: check the checkpoint, pull the image, start the ranks, wait for a token.

Pure: a function of the configuration, the hosts and what was found on them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

from flagdeploy.config import endpoint, memory
from flagdeploy.config.check import check
from flagdeploy.config.facts import Facts
from flagdeploy.config.launch import (
    LABEL_DEPLOYMENT,
    LABEL_ENDPOINT,
    LABEL_MODEL,
    LABEL_RANK,
    LABEL_RANKS,
    LABEL_RUN,
    LABEL_SPEC,
    ContainerSpec,
    EnvValue,
    Host,
    Mount,
    ProcessSpec,
    RankCommand,
    Spec,
)
from flagdeploy.config.plain import plain
from flagdeploy.config.schema import Deployment
from flagdeploy.config.secret import Secret
from flagdeploy.engines import Engine
from flagdeploy.errors import HostError
from flagdeploy.plans.steps import CheckCheckpoint, Plan, PullImage, Skip, Start, Step, WaitReady
from flagdeploy.plans.stop import stop_steps
from flagdeploy.vendors import Vendor


def problems(
    deployment: Deployment, hosts: Sequence[Host], engine: Engine, vendor: Vendor
) -> list[tuple[str, str]]:
    """Everything wrong with the deployment on these hosts, as (dotted key, what)."""
    return [
        *check(deployment, hosts, vendor.chip(deployment.chip)),
        *vendor.problems(deployment),
        *engine.problems(deployment, hosts),
    ]


def plan_serve(
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    engine: Engine,
    vendor: Vendor,
    run_id: str,
    python: str = "python",
) -> Plan:
    """The steps that lead from `facts` to a deployment that answers.

    `run_id` labels what is started; `python` is the interpreter for processes on this machine.
    A deployment that runs as it should gives a plan of skips; one that differs in any rank, lacks
    one or has one that exited is stopped as a whole, then started as a whole. Raises HostError
    when another program listens on a port that rank 0 needs.
    """
    commands = engine.commands(deployment, hosts)
    specs = [
        _labelled(_spec(deployment, hosts, facts, engine, command, python), run_id)
        for command in commands
    ]
    ready = _wait(deployment, hosts, engine)
    notes = tuple(_notes(deployment, hosts, engine, vendor))
    if _runs_already(facts, hosts, specs):
        skips = [
            Skip(host.address, f"start-{rank}", f"rank {rank} runs already, unchanged")
            for rank, host in enumerate(hosts)
        ]
        return Plan(deployment.name, (*skips, ready), notes)
    _refuse_taken_ports(deployment, hosts, facts)
    steps: list[Step] = [*_checkpoints(deployment, hosts), *_images(deployment, hosts, facts)]
    timeout = deployment.container.stop_timeout
    steps += stop_steps(facts.running, "the deployment changes or is incomplete", timeout)
    for rank, (host, spec) in enumerate(zip(hosts, specs, strict=True)):
        why = f"start rank {rank} of {len(hosts)}"
        steps.append(Start(host.address, f"start-{rank}", why, rank, spec))
    return Plan(deployment.name, (*steps, ready), notes)


def _refuse_taken_ports(deployment: Deployment, hosts: Sequence[Host], facts: Facts) -> None:
    """Rank 0 listens on the endpoint's port, and with several ranks on the master port."""
    found = facts.of(hosts[0].address)
    ports = {"endpoint.port": deployment.endpoint.port}
    if len(hosts) > 1:
        ports["endpoint.master_port"] = deployment.endpoint.master_port
    for key, port in ports.items():
        if port in found.ports_in_use and not found.running:
            what = f"port {port} is taken by another program"
            raise HostError(hosts[0].address, what, f"choose another one: {key}=PORT")


def _checkpoints(deployment: Deployment, hosts: Sequence[Host]) -> list[Step]:
    path = deployment.model.checkpoint
    if deployment.weights == "random" or not path:
        return []
    why = f"verify the checkpoint {path}"
    return [CheckCheckpoint(host.address, "check", why, path) for host in hosts]


def _images(deployment: Deployment, hosts: Sequence[Host], facts: Facts) -> list[Step]:
    image = deployment.container.image
    if deployment.launcher == "local" or not image:
        return []
    steps: list[Step] = []
    for host in hosts:
        if {image, _tagged(image)} & facts.of(host.address).images:
            steps.append(Skip(host.address, "pull", f"image {image} is there"))
        else:
            steps.append(PullImage(host.address, "pull", f"pull image {image}", image))
    return steps


def _tagged(image: str) -> str:
    """Docker adds ``:latest`` to a reference without tag and digest."""
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _wait(deployment: Deployment, hosts: Sequence[Host], engine: Engine) -> WaitReady:
    address = endpoint.address(deployment, hosts)
    return WaitReady(
        host=hosts[0].address,
        stage="wait",
        why="wait until the endpoint generates a token",
        address=address,
        port=deployment.endpoint.port,
        model=engine.served_name(deployment),
        api_key=deployment.endpoint.api_key,
        stall_timeout=deployment.readiness.stall_timeout,
        interval=deployment.readiness.interval,
    )


def _spec(
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    engine: Engine,
    command: RankCommand,
    python: str,
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
        return ProcessSpec(name, own, env, labels, container.stop_timeout)
    return ContainerSpec(
        name=name,
        image=container.image,
        argv=command.argv,
        env=env,
        labels=labels,
        files=command.files,
        mounts=tuple(_mounts(deployment)),
        devices=_devices(container.devices, facts.of(hosts[rank].address).device_nodes),
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


def _environment(deployment: Deployment, command: RankCommand) -> dict[str, EnvValue]:
    """The engine's variables, then `container.env`, then those of the single rank."""
    by_rank = {str(rank): env for rank, env in deployment.container.rank_env.items()}
    own: Mapping[str, EnvValue] = by_rank.get(str(command.rank), {})
    return {**command.env, **deployment.container.env, **own}


def _mounts(deployment: Deployment) -> list[Mount]:
    """`container.mounts`, and the checkpoint folders where no mount covers them, read-only."""
    mounts = [_mount(text) for text in deployment.container.mounts]
    for folder in (deployment.model.checkpoint, deployment.speculative.draft_checkpoint):
        covered = any(f"{folder}/".startswith(f"{m.target.rstrip('/')}/") for m in mounts)
        if folder and not covered:
            mounts.append(Mount(folder, folder, read_only=True))
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


def _labelled(spec: Spec, run_id: str) -> Spec:
    """`spec` with the digest of all that matters, and the run, which does not."""
    labels = {**spec.labels, LABEL_SPEC: spec_sha256(spec), LABEL_RUN: run_id}
    return replace(spec, labels=labels)


def spec_sha256(spec: Spec) -> str:
    """Digest of what runs: arguments, environment, mounts, image; secrets count by their names."""
    env = {
        name: f"secret:{value.name}" if isinstance(value, Secret) else value
        for name, value in spec.env.items()
    }
    content: dict[str, Any] = {**plain(spec), "env": env}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _runs_already(facts: Facts, hosts: Sequence[Host], specs: Sequence[Spec]) -> bool:
    found = sorted(
        (rank.host, rank.labels.get(LABEL_SPEC, ""))
        for rank in facts.running
        if rank.state == "running"
    )
    wanted = sorted(
        (host.address, spec.labels[LABEL_SPEC]) for host, spec in zip(hosts, specs, strict=True)
    )
    return found == wanted and len(facts.running) == len(wanted)


def _notes(
    deployment: Deployment, hosts: Sequence[Host], engine: Engine, vendor: Vendor
) -> list[str]:
    notes = engine.notes(deployment)
    chip = vendor.chip(deployment.chip)
    tokens = memory.kv_tokens(deployment, chip) if chip else None
    if chip and tokens is not None:
        weights = memory.device_weights_gib(deployment)
        each = f"{weights:.1f} GiB of weights on each {chip.name} ({chip.memory_gib:g} GiB)"
        cache = "FP8" if deployment.kv_cache.dtype == "fp8" else "BF16"
        notes.append(f"{each} leave a {cache} KV cache of about {tokens} tokens")
    if deployment.model.trust_remote_code:
        notes.append("Python code of the checkpoint is run (model.trust_remote_code)")
    bound = endpoint.bind_address(deployment, hosts)
    if bound in ("0.0.0.0", "::") and not deployment.endpoint.api_key:
        notes.append("the endpoint is open to every network of the host and asks for no key")
    return notes
