"""What completes a conversion once its shards are there: all other files, and reading it back."""

from pathlib import Path
from typing import Any

from flagdeploy.checkpoint import ownership
from flagdeploy.checkpoint.copying import copy_file
from flagdeploy.checkpoint.folder import explained, inside, read_json, write_json
from flagdeploy.checkpoint.index import write_index
from flagdeploy.checkpoint.sample import compare_samples
from flagdeploy.checkpoint.sample_quantized import compare_quantized
from flagdeploy.checkpoint.verify import verify
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.conversion_plan import ConversionPlan


def origin(source: Path) -> Any:
    """What the source's own record says it is (repository and commit), when it has one."""
    path = source / ownership.RECORD
    return read_json(path).get("identity") if path.is_file() else None


def write_rest(plan: ConversionPlan, target: Path) -> None:
    """Copy the side files and write index, config.json and what else the plan says."""
    with explained(f"cannot write {target}"):
        for name in plan.side_files:
            copy_file(inside(plan.source, name), target / name)
        write_index(target, plan.weight_map, plan.data_bytes)
        for name, content in plan.written.items():
            write_json(target / name, content)
        write_json(target / "config.json", plan.config)


def check(plan: ConversionPlan, target: Path) -> dict[str, float]:
    """Read the output back: headers of all shards, and samples computed another way; the error."""
    verify(target).require()
    wrong: str | None = None
    error: dict[str, float] = {}
    if plan.verb == "quantized":
        wrong, error = compare_quantized(plan.jobs, plan.source, target)
    wrong = wrong or compare_samples(plan.weight_map, plan.jobs.of, plan.source, target)
    if wrong:
        raise CheckpointError(
            f"{target}: {wrong} differs from the source when computed again",
            "memory or the disk of this machine may be at fault; remove the folder and try again",
        )
    return error
