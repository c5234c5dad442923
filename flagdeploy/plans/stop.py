"""Steps that stop a deployment: every rank of it, the last one first."""

from collections.abc import Sequence

from flagdeploy.config.launch import Running
from flagdeploy.plans.steps import Stop


def stop_steps(running: Sequence[Running], reason: str, timeout: int) -> list[Stop]:
    """One step for each rank in reverse order: the endpoint's own rank goes last.

    `timeout` seconds lie between SIGTERM and SIGKILL.
    """
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
