"""Rules across keys: every problem at once, each with the equation and the numbers.

Rules of one engine or vendor live with it (`Engine.problems`, `Vendor.problems`).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from flagdeploy.config import memory, parallel
from flagdeploy.config.chip import Chip
from flagdeploy.config.launch import Host
from flagdeploy.config.parallel import Finding
from flagdeploy.config.schema import Deployment

_MOUNT = re.compile(r"/[^:]*:/[^:]*(:ro|:rw)?")


def check(deployment: Deployment, hosts: Sequence[Host], chip: Chip | None) -> list[Finding]:
    """Problems as (dotted key, what); empty when the deployment makes sense on these hosts."""
    rules = [
        parallel.findings(deployment, hosts),
        _bounds(deployment),
        _precision(deployment, chip),
        _speculative(deployment),
        _memory(deployment, chip),
        _engine_features(deployment),
        _operators(deployment),
        _launch(deployment, hosts),
        _patch(deployment),
    ]
    return [finding for rule in rules for finding in rule]


def _bounds(deployment: Deployment) -> Iterator[Finding]:
    limits, endpoint = deployment.limits, deployment.endpoint
    counts = {
        "limits.context_length": limits.context_length,
        "limits.max_num_seqs": limits.max_num_seqs,
        "limits.max_num_batched_tokens": limits.max_num_batched_tokens,
        "kv_cache.block_size": deployment.kv_cache.block_size,
        "speculative.num_tokens": deployment.speculative.num_tokens,
        "speculative.eagle_topk": deployment.speculative.eagle_topk,
        "chunked_prefill_size": deployment.chunked_prefill_size,
        "stream_interval": deployment.stream_interval,
        "max_hosts": deployment.max_hosts,
    }
    for key, count in counts.items():
        if count is not None and count < 1:
            yield key, f"{count}: must be at least 1"
    if limits.memory_fraction is not None and not 0 < limits.memory_fraction <= 1:
        yield "limits.memory_fraction", f"{limits.memory_fraction}: lies between 0 and 1"
    for key, port in (("port", endpoint.port), ("master_port", endpoint.master_port)):
        if not 0 < port < 65536:
            yield f"endpoint.{key}", f"{port}: a port lies between 1 and 65535"
    if endpoint.port == endpoint.master_port:
        yield "endpoint.master_port", f"{endpoint.port} is the port of the endpoint too"
    longest = deployment.model.architecture.max_position_embeddings
    if longest and (limits.context_length or 0) > longest:
        what = f"{limits.context_length} tokens, but the model was made for {longest}"
        yield "limits.context_length", what
    folder = deployment.profiler.folder
    if folder is not None and not folder.startswith("/"):
        yield "profiler.folder", f"{folder}: must be an absolute path, beside each rank"


def _precision(deployment: Deployment, chip: Chip | None) -> Iterator[Finding]:
    precision = deployment.model.precision
    if chip is None:
        return
    if deployment.kv_cache.dtype == "fp8" and "fp8" not in chip.precisions:
        yield "kv_cache.dtype", f"{chip.name} does not compute in FP8: use bf16"
    if precision in chip.precisions:
        return
    remedy = {
        "fp8": f"{chip.name} does not compute in FP8: `flagdeploy dequant --to bf16` makes a "
        "BF16 checkpoint",
        "w4a8": f"W4A8 (4-bit experts, FP8 activations) runs on Hopper only, not on {chip.name}",
        "nvfp4": f"NVFP4 runs on Blackwell only, not on {chip.name}",
    }
    offered = ", ".join(chip.precisions)
    yield "model.precision", remedy.get(precision, f"{chip.name} takes {offered}, not {precision}")


def _speculative(deployment: Deployment) -> Iterator[Finding]:
    speculative, architecture = deployment.speculative, deployment.model.architecture
    layers = architecture.num_nextn_predict_layers
    if speculative.method == "mtp" and architecture.num_hidden_layers and not layers:
        what = "mtp needs MTP layers, but model.architecture.num_nextn_predict_layers is 0"
        yield "speculative.method", what
    if speculative.method in ("eagle", "eagle3") and not speculative.draft_checkpoint:
        yield "speculative.draft_checkpoint", f"{speculative.method} needs a draft model"
    relaxed = speculative.relaxed_acceptance
    if relaxed is None:
        return
    if speculative.method != "mtp":
        what = f"works with speculative.method mtp, not {speculative.method}"
        yield "speculative.relaxed_acceptance", what
    if architecture.model_type != "deepseek_v3":
        yield "speculative.relaxed_acceptance", "works with DeepSeek-R1 only"
    if deployment.parallel.attention_data:
        what = "cannot be combined with parallel.attention_data: drop one of them"
        yield "speculative.relaxed_acceptance", what
    if relaxed.topk < 1:
        yield "speculative.relaxed_acceptance.topk", f"{relaxed.topk}: must be at least 1"
    if not 0 <= relaxed.delta <= 1:
        yield "speculative.relaxed_acceptance.delta", f"{relaxed.delta}: lies between 0 and 1"


def _memory(deployment: Deployment, chip: Chip | None) -> Iterator[Finding]:
    model, degrees = deployment.model, deployment.parallel
    known = model.architecture.num_hidden_layers and chip and not chip.converts
    if not known or chip is None or chip.memory_gib is None:
        return
    if model.precision not in chip.precisions or degrees.tensor < 1 or degrees.pipeline < 1:
        return
    weights, usable = memory.device_weights_gib(deployment), memory.USABLE * chip.memory_gib
    room = f"{memory.USABLE} x {chip.memory_gib} = {usable:.1f} GiB of {chip.name}"
    if weights > usable:
        total = memory.weight_bytes(model.architecture, model.precision) / memory.GIB
        least = memory.minimum_devices(model.architecture, model.precision, chip)
        what = f"{model.precision} weights of {total:.1f} GiB take {weights:.1f} GiB on each device"
        yield "parallel.tensor", f"{what}, more than {room}: at least {least} devices are needed"
        return
    tokens, context = memory.kv_tokens(deployment, chip), deployment.limits.context_length
    if tokens is not None and context and context > tokens:
        what = f"{context} tokens, but beside {weights:.1f} GiB of weights in {room}"
        yield "limits.context_length", f"{what} the KV cache holds {tokens}"


def _engine_features(deployment: Deployment) -> Iterator[Finding]:
    graph = deployment.cuda_graph
    if graph.batch_sizes and min(graph.batch_sizes) < 1:
        yield "cuda_graph.batch_sizes", "batch sizes are at least 1"
    largest = max(graph.batch_sizes, default=None)
    if largest and graph.max_batch_size not in (None, largest):
        what = f"{graph.max_batch_size}, but the largest of cuda_graph.batch_sizes is {largest}"
        yield "cuda_graph.max_batch_size", what
    if graph.enabled is False:
        wanted: dict[str, Any] = {"batch_sizes": [], "max_batch_size": None, "padding": None}
        for key in (name for name, unset in wanted.items() if getattr(graph, name) != unset):
            yield f"cuda_graph.{key}", "is set, but cuda_graph.enabled is false: unset it"
    if deployment.chunked_prefill is False and deployment.chunked_prefill_size:
        yield "chunked_prefill", "false, but chunked_prefill_size is set"


def _operators(deployment: Deployment) -> Iterator[Finding]:
    wanted = deployment.operators
    if wanted.include is not None and wanted.exclude:
        yield "operators.exclude", "operators.include is set too: give one of them"
    if wanted.include is not None and not wanted.include:
        what = "an empty list switches nothing on: leave it out for all operators"
        yield "operators.include", f"{what}, or set operators.library=none"
    for key in ("include", "exclude"):
        names = getattr(wanted, key) or []
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"operators.{key}", f"names {', '.join(twice)} twice"
    if wanted.library == "none" and (wanted.include or wanted.exclude or wanted.config):
        yield "operators.library", "none, but operators or settings of a library are set"


def _patch(deployment: Deployment) -> Iterator[Finding]:
    patch = deployment.patch
    for name in ("repository", "worktree", "mount"):
        path = getattr(patch, name)
        if patch.set and not path and name != "mount":
            yield f"patch.{name}", "patch.set needs it: an absolute path on the hosts"
        elif path and not path.startswith("/"):
            yield f"patch.{name}", f"`{path}`: an absolute path on the hosts is needed"
        elif path and not patch.set:
            yield f"patch.{name}", "has no effect without patch.set"
    if patch.mount and deployment.launcher == "local":
        yield "patch.mount", "the local launcher starts processes, not containers"


def _launch(deployment: Deployment, hosts: Sequence[Host]) -> Iterator[Finding]:
    container = deployment.container
    if deployment.launcher == "local" and len(hosts) > 1:
        yield "launcher", f"local runs on this machine only, but {len(hosts)} hosts are given"
    if deployment.launcher == "ssh" and not container.image:
        yield "container.image", "the ssh launcher runs containers: name an image"
    if not (deployment.model.checkpoint or deployment.model.repo):
        yield "model.checkpoint", "name the folder of the weights"
    elif deployment.launcher == "ssh" and not deployment.model.checkpoint.startswith("/"):
        yield "model.checkpoint", "on hosts a folder is given by its absolute path"
    cache, folder = deployment.model.weight_cache, deployment.model.checkpoint
    if cache and not cache.startswith("/"):
        yield "model.weight_cache", f"`{cache}`: an absolute path on the hosts is needed"
    elif cache and folder and f"{cache.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/"):
        yield "model.weight_cache", f"{cache} lies inside of the checkpoint"
    for mount in container.mounts:
        if not _MOUNT.fullmatch(mount):
            yield "container.mounts", f"`{mount}`: write /SOURCE:/TARGET or /SOURCE:/TARGET:ro"
    ranks = {str(rank) for rank in range(len(hosts))}
    for rank in container.rank_env:
        if hosts and str(rank) not in ranks:
            what = f"there is no rank {rank}: the inventory has {len(hosts)} hosts"
            yield "container.rank_env", what
