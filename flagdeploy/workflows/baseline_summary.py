"""What a baseline holds, for a reader: as plain data, and in a few lines of text."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from flagdeploy.evals import parameters
from flagdeploy.evals.bundle import Bundle
from flagdeploy.evals.tables import Table


def described(found: Bundle | Table) -> dict[str, Any]:
    """A baseline as plain data: the manifest of a bundle, the scores of a table."""
    if isinstance(found, Table):
        return asdict(found)
    held = {"prompts": found.prompts, "answers": found.answers, "sequences": found.passages}
    return {**found.manifest, "holds": {name: len(rows) for name, rows in held.items()}}


def summary(found: Bundle | Table) -> str:
    """A baseline in a few lines of text."""
    if isinstance(found, Table):
        scores = (
            f"  {task:<12} {f'{score.value:.2%} of {score.n}' if score else '-'}"
            for task, score in found.scores.items()
        )
        return "\n".join([f"{found.title} ({found.source})", *scores])
    manifest = found.manifest
    endpoint = manifest["endpoint"]
    lines = [
        f"{found.name}: {endpoint['model']}, recorded {manifest['created']} "
        f"with flagdeploy {manifest['flagdeploy']}",
        f"engine version {endpoint['version'] or 'unknown'}, "
        f"context {endpoint['max_model_len'] or 'unknown'}, "
        f"{endpoint['prompt_logprobs']} log-probabilities per prompt token",
    ]
    lines += [f"{key}: {value}" for key, value in manifest["facts"].items()]
    lines += [f"{name} sha256 {digest[:16]}" for name, digest in _digests(manifest)]
    lines += [
        f"  {row['name']:<12} {row['accuracy']:.2%} of {row['n']}" for row in manifest["benchmarks"]
    ]
    tokens = sum(len(passage.continuation) for passage in found.passages)
    modes = " and ".join(manifest.get("modes", ()))
    scored = f", scored in mode {modes}" if modes else ""
    lines.append(
        f"{len(found.passages)} sequences of {tokens} tokens{scored}, {len(found.prompts)} prompts"
    )
    if manifest.get("parameters"):
        lines += [f"parameters: {line}" for line in parameters.described(manifest["parameters"])]
    floor = found.noise_floor
    if floor:
        lines.append(f"noise floor over {floor['runs']} runs: {_figures(floor)}")
    if "decoded" in floor:
        lines.append(f"noise floor of mode D: {_figures(floor['decoded'])}")
    return "\n".join(lines)


def _digests(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if manifest.get("lock_sha256"):
        yield "configuration", manifest["lock_sha256"]
    if manifest.get("checkpoint"):
        yield "checkpoint", manifest["checkpoint"]["sha256"]


def _figures(floor: Mapping[str, Any]) -> str:
    hidden = ("runs", "sequences", "decoded")
    return ", ".join(f"{key} {floor[key]}" for key in floor if key not in hidden)
