"""Steps around a swap of operators: record native outputs before it, prove it afterwards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flagdeploy.config.facts import Facts
from flagdeploy.config.launch import LABEL_SPEC, Host, Spec, Switch
from flagdeploy.config.schema import Deployment, Operators
from flagdeploy.plans.steps import (
    CompareNative,
    ProveSwap,
    RecordNative,
    Start,
    Step,
    Stop,
    WaitReady,
)


@dataclass(frozen=True)
class Swap:
    """Steps before what runs is stopped, before the ranks start, and after they are ready."""

    before_stop: tuple[Step, ...] = ()
    before_start: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()


def without_library(deployment: Deployment, switch: Switch) -> Deployment:
    """The same build of the engine with its native operators."""

    def cleared(env: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in env.items() if name not in switch.variables}

    container = deployment.container
    by_rank = {rank: cleared(env) for rank, env in container.rank_env.items()}
    return replace(
        deployment,
        operators=Operators(build=deployment.operators.build),
        container=replace(container, env=cleared(container.env), rank_env=by_rank),
    )


def swap_steps(
    deployment: Deployment,
    hosts: Sequence[Host],
    facts: Facts,
    switch: Switch,
    specs: Sequence[Spec],
    native: Sequence[Spec],
    ready: WaitReady,
) -> Swap:
    """`specs` are the ranks with the library, `native` without it, which are started first when
    their outputs are not on record."""
    operators = deployment.operators
    proofs = [
        _proof(host, rank, spec, switch, operators)
        for rank, (host, spec) in enumerate(zip(hosts, specs, strict=True))
    ]
    if not operators.compare_native:
        return Swap(after=tuple(proofs))
    key = _key(native)
    checkpoint = deployment.model.checkpoint
    why = "do its outputs differ from native ones?"
    required = not switch.log
    compared = CompareNative(ready.host, "prove-outputs", why, ready, key, checkpoint, required)
    after = (*proofs, compared)
    image = deployment.container.image if deployment.launcher != "local" else ""
    now = facts.native_of(hosts[0].address, image)
    if now and facts.native.get(key) == now:
        return Swap(after=after)
    why = "record what it generates without the operator library"
    record = RecordNative(ready.host, "native-record", why, ready, key, checkpoint)
    if _runs(native, facts):
        return Swap((record,), (), after)
    timeout = deployment.container.stop_timeout
    return Swap((), tuple(_native_run(hosts, native, ready, record, timeout)), after)


def _key(native: Sequence[Spec]) -> str:
    """Names the outputs of what the ranks run; the record says of which image and checkpoint, which
    may still have to be pulled or made."""
    parts = [spec.labels[LABEL_SPEC] for spec in native]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _runs(native: Sequence[Spec], facts: Facts) -> bool:
    found = [(rank.labels.get(LABEL_SPEC), rank.state) for rank in facts.running]
    return found == [(spec.labels[LABEL_SPEC], "running") for spec in native]


def _native_run(
    hosts: Sequence[Host],
    native: Sequence[Spec],
    ready: WaitReady,
    record: RecordNative,
    timeout: int,
) -> list[Step]:
    steps: list[Step] = []
    ranks = list(enumerate(zip(hosts, native, strict=True)))
    for rank, (host, spec) in ranks:
        why = f"start rank {rank} of {len(hosts)} without the operator library"
        steps.append(Start(host.address, f"native-start-{rank}", why, rank, spec))
    steps += [replace(ready, stage="native-wait"), record]
    for rank, (host, spec) in reversed(ranks):
        why = f"stop rank {rank} again: its outputs are on record"
        stage = f"native-stop-{rank}"
        steps.append(Stop(host.address, stage, why, spec.name, spec.name, rank, timeout))
    return steps


def _proof(host: Host, rank: int, spec: Spec, switch: Switch, operators: Operators) -> ProveSwap:
    return ProveSwap(
        host=host.address,
        stage="prove",
        why=f"rank {rank}: is {switch.library} on?",
        rank=rank,
        library=switch.library,
        variables={name: str(spec.env[name]) for name in switch.variables},
        log=_log(switch, spec),
        no_log=switch.no_log,
        include=tuple(operators.include or ()),
        exclude=tuple(operators.exclude),
    )


def _log(switch: Switch, spec: Spec) -> str:
    """Where this rank is told to write its operator log."""
    log = switch.log
    for name, place in switch.log_at.items():
        log = log.replace(place, str(spec.env.get(name) or place))
    return log
