"""The plan of `serve`: check the checkpoint, pull the image, start the ranks, wait for a token.

Pure: a function of the configuration, the hosts and what was found on them.
"""

import shlex
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flagdeploy.config import endpoint, memory
from flagdeploy.config.check import check
from flagdeploy.config.facts import Facts
from flagdeploy.config.launch import (
    LABEL_ENDPOINT,
    LABEL_SPEC,
    Host,
    Running,
    Spec,
    StageCommand,
)
from flagdeploy.config.schema import Deployment
from flagdeploy.engines import Engine
from flagdeploy.errors import HostError
from flagdeploy.plans.operators import Swap, swap_steps, without_library
from flagdeploy.plans.prepare import left_steps, prepare_steps
from flagdeploy.plans.specs import plugin_of, rank_specs
from flagdeploy.plans.stages import convert_steps, until_stage
from flagdeploy.plans.steps import Convert, Plan, Skip, Start, Step, WaitReady
from flagdeploy.plans.stop import stop_steps
from flagdeploy.vendors import Vendor

if TYPE_CHECKING:
    from flagdeploy.config.patch_set import PatchSet


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
    until: str | None = None,
    patch_set: "PatchSet | None" = None,
) -> Plan:
    """The steps that lead from `facts` to a deployment that answers, or through stage `until`.

    `run_id` labels what is started; `python` is the interpreter for processes on this machine;
    `patch_set` is what `patch.set` names.
    A deployment that runs as it should gives a plan of skips; one that differs in any rank, lacks
    one or has one that exited is stopped as a whole, then started as a whole. Raises HostError
    when another program listens on a port that a rank needs, or when something else lies where a
    stage shall put its product, or where the patched source shall be.
    """
    if until:
        return _plan_stages(deployment, hosts, facts, engine, run_id, until)

    specs_of = partial(
        rank_specs, hosts=hosts, facts=facts, engine=engine, plugin=plugin_of(deployment, vendor),
        run_id=run_id, python=python, patch_set=patch_set,
    )  # fmt: skip
    specs = specs_of(deployment)
    patches = _patches(deployment, hosts, facts, patch_set) if patch_set else []
    ready = _wait(deployment, hosts, engine)
    notes = tuple(_notes(deployment, hosts, engine, vendor))
    swap = Swap()
    if switch := engine.switch(deployment):
        native = specs_of(without_library(deployment, switch), undone=switch)
        swap = swap_steps(deployment, hosts, facts, switch, specs, native, ready)
    if _runs_already(facts, hosts, specs):
        skips = [
            Skip(host.address, f"start-{rank}", f"rank {rank} runs already, unchanged")
            for rank, host in enumerate(hosts)
        ]
        left = left_steps(deployment, facts)
        return Plan(deployment.name, (*left, *patches, *skips, ready, *swap.after), notes)
    _refuse_taken_ports(deployment, hosts, facts, engine)
    commands_before = engine.stages(deployment)
    conversions = _conversions(commands_before, deployment, hosts, facts, run_id)
    steps = [*prepare_steps(deployment, hosts, facts, commands_before, conversions), *patches]
    timeout = deployment.container.stop_timeout
    reason = "the deployment changes or is incomplete"
    stops = [*swap.before_stop, *stop_steps(facts.running, reason, timeout)]
    steps += [*stops, *conversions] if _need_devices(conversions) else [*conversions, *stops]
    steps += swap.before_start
    for rank, (host, spec) in enumerate(zip(hosts, specs, strict=True)):
        why = f"start rank {rank} of {len(hosts)}"
        steps.append(Start(host.address, f"start-{rank}", why, rank, spec))
    return Plan(deployment.name, (*steps, ready, *swap.after), notes)


def _plan_stages(
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    engine: Engine,
    run_id: str,
    until: str,
) -> Plan:
    """The stages up to `until` and what they need; ranks are neither stopped nor started."""
    commands = until_stage(engine.stages(deployment), until)
    conversions = _conversions(commands, deployment, hosts, facts, run_id)
    if _need_devices(conversions) and facts.running:
        raise HostError(
            facts.running[0].host,
            f"{deployment.name} runs and holds the devices that the {until} stage computes on",
            f"flagdeploy stop {deployment.name}",
        )
    steps = prepare_steps(deployment, hosts, facts, commands, conversions)
    return Plan(deployment.name, (*steps, *conversions))


def _conversions(
    commands: Sequence[StageCommand],
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    run_id: str,
) -> list[Step]:
    return [
        step
        for command in commands
        for step in convert_steps(command, deployment, hosts, facts, run_id)
    ]


def _need_devices(conversions: Sequence[Step]) -> bool:
    return any(isinstance(step, Convert) and step.command.devices for step in conversions)


def _refuse_taken_ports(
    deployment: Deployment, hosts: Sequence[Host], facts: Facts, engine: Engine
) -> None:
    """Rank 0 listens on the endpoint's port, and some rank of several on the master port."""
    own = deployment.endpoint
    listeners = [(hosts[0], "port", own.port)]
    listeners += [(host, "master_port", own.master_port) for host in engine.meeting_hosts(hosts)]
    for host, key, port in listeners:
        found = facts.of(host.address)
        if port in found.ports_in_use and not any(_may_hold(r, key, port) for r in found.running):
            what = f"port {port} is taken by another program"
            raise HostError(host.address, what, f"choose another one: endpoint.{key}=PORT")


def _may_hold(rank: Running, key: str, port: int) -> bool:
    """May what listens on `port` be this rank, which is going to be stopped? Only the endpoint's
    port is known of what runs."""
    if rank.stage or rank.state != "running":
        return False
    return key != "port" or urlsplit(rank.labels[LABEL_ENDPOINT]).port == port


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


def _patches(
    deployment: Deployment, hosts: Sequence[Host], facts: Facts, patch_set: "PatchSet"
) -> list[Step]:
    from flagdeploy.plans.patch import patch_steps  # few deployments have patches

    return patch_steps(deployment, hosts, facts, patch_set)


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
    if plugin := plugin_of(deployment, vendor):
        notes.append(f"the image has to hold {plugin.package}: {shlex.join(plugin.install)}")
    if engine.switch(deployment) and deployment.operators.compare_native:
        notes.append("the start without the operator library is left out once it is on record")
    if deployment.model.trust_remote_code:
        notes.append("Python code of the checkpoint is run (model.trust_remote_code)")
    bound = endpoint.bind_address(deployment, hosts)
    if bound in ("0.0.0.0", "::") and not deployment.endpoint.api_key:
        notes.append("the endpoint is open to every network of the host and asks for no key")
    return notes
