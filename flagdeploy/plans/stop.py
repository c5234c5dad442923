"""The plan of `stop`: every rank of a deployment, the last one first."""

from collections.abc import Sequence

from flagdeploy.config.launch import Running
from flagdeploy.plans.steps import Plan, Stop


def plan_stop(running: Sequence[Running], name: str, timeout: int = 60) -> Plan:
    """Stop and remove the ranks `running`; `timeout` seconds lie between SIGTERM and SIGKILL."""
    notes = () if running else (f"{name}: nothing runs",)
    return Plan(name, tuple(stop_steps(running, "asked for", timeout)), notes)


def stop_steps(running: Sequence[Running], reason: str, timeout: int) -> list[Stop]:
    """One step for each rank in reverse order: the endpoint's own rank goes last."""
    ordered = sorted(running, key=lambda rank: rank.rank, reverse=True)
    return [
        Stop(
            host=rank.host,
            stage=f"stop-{rank.rank}",
            why=f"stop rank {rank.rank} ({rank.state}): {reason}",
            id=rank.id,
            name=rank.name,
            rank=rank.rank,
            timeout=timeout,
        )
        for rank in ordered
    ]
