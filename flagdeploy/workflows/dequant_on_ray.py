"""dequant --on ray: one Ray task for each rank; the nodes share a file system.

Needs the extra ``ray``. This package travels with the tasks, so the nodes need NumPy but not
flagdeploy. A task whose node died is started again by Ray, and goes on.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import flagdeploy
from flagdeploy.checkpoint import ownership
from flagdeploy.checkpoint.disk import require_space
from flagdeploy.errors import CheckpointError, FlagdeployError, UsageError
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.dequant import dequant, missing
from flagdeploy.workflows.dequant_result import DequantResult

_POLL_S = 1.0


@dataclass(frozen=True)
class OnRayResult:
    """What each rank did, as `DequantResult.to_dict` has it."""

    folder: Path
    ranks: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"rank {rank} of {len(self.ranks)} on {done['node']}: {done['shards_written']} "
            f"shard(s) written: {done['outcome']}"
            for rank, done in self.ranks.items()
        ]
        return "\n".join([*lines, f"{self.folder}: complete, verified"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "ranks": {str(r): dict(d) for r, d in self.ranks.items()},
        }


def dequant_on_ray(
    checkpoint: str | Path,
    conversion: Conversion,
    *,
    address: str | None = None,
    out: str | Path | None = None,
    world_size: int | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    report: Report = silent,
) -> OnRayResult | DequantResult:
    """Convert with `world_size` ranks, by default one for each node of the cluster at `address`
    (None: $RAY_ADDRESS, a cluster that runs on this machine, or one started for this).

    A rank takes `workers` CPUs. Raises UsageError without Ray, CheckpointError as `dequant` does
    on whatever rank it happened; the others have gone on with their shares.
    """
    source = Path(checkpoint).absolute()
    target = conversion.target(source, out).absolute()
    options = {**asdict(conversion), "out": target, "workers": workers}
    if dry_run:
        return dequant(source, **options, dry_run=True)
    ray = _import_ray()
    ownership.require_complete(source)
    plan = conversion.plan(source, target)
    todo = missing(plan, target)
    require_space(target, sum(map(plan.jobs.needs, todo)))
    package = str(Path(flagdeploy.__file__).parent)
    with _connected(ray, address, package):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        ranks = world_size or len(nodes)
        cores = min(int(node["Resources"].get("CPU", 1)) for node in nodes)
        options["workers"] = workers or min(16, max(1, cores))
        task = ray.remote(_rank).options(
            num_cpus=min(options["workers"], max(1, cores)), scheduling_strategy="SPREAD"
        )
        futures = {task.remote(source, rank, ranks, options): rank for rank in range(ranks)}
        done = _wait(ray, futures, plan, target, report)
    if missing(plan, target) or not (target / ownership.RECORD).is_file():
        final = dequant(source, **options, report=report)
        assert final.outcome in ("converted", "already done")
    return OnRayResult(target, dict(sorted(done.items())))


def _rank(source: Path, rank: int, ranks: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """One rank, on a node; an error comes back as data, whatever Ray makes of exceptions."""
    import platform

    try:
        result = dequant(source, **options, rank=rank, world_size=ranks)
    except FlagdeployError as error:
        return {"failed": f"rank {rank} on {platform.node()}: {error}", "hint": error.hint}
    done = result.to_dict()
    return {"node": platform.node(), **{name: done[name] for name in done if name != "plan"}}


def _wait(
    ray: Any, futures: dict[Any, int], plan: ConversionPlan, target: Path, report: Report
) -> dict[int, dict[str, Any]]:
    done: dict[int, dict[str, Any]] = {}
    pending = list(futures)
    try:
        while pending:
            ready, pending = ray.wait(pending, timeout=_POLL_S)
            for future in ready:
                done[futures[future]] = ray.get(future)
            report(_progress(plan, target))
    except BaseException:
        for future in pending:
            with suppress(Exception):
                ray.cancel(future)
        raise
    for result in done.values():
        if "failed" in result:
            raise CheckpointError(result["failed"], result["hint"])
    return done


def _progress(plan: ConversionPlan, target: Path) -> Event:
    sizes = plan.jobs.sizes
    done = sum(sizes[shard][0] for shard in plan.jobs.names if (target / shard).is_file())
    return Event("convert", f"to {plan.to}", done=done, total=plan.source_bytes, unit="B")


class _connected:
    """A connection to a Ray cluster for the time of a block, unless there is one already."""

    def __init__(self, ray: Any, address: str | None, package: str) -> None:
        self.ray, self.ours = ray, not ray.is_initialized()
        if self.ours:
            environment = {"py_modules": [package]}
            try:
                ray.init(address, runtime_env=environment, log_to_driver=False)
            except ConnectionError as error:
                raise CheckpointError(f"--ray-address {address}: {error}") from None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        if self.ours:
            self.ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError(
            "--on ray: Ray is not installed",
            "pip install 'flagdeploy[ray]', or start the ranks yourself: --rank R --world-size N",
        ) from None
    return ray
