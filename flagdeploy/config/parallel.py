"""Does the split of the model fit the devices and the model's own dimensions?"""

from collections.abc import Iterator, Sequence
from math import prod

from flagdeploy.config.launch import Host
from flagdeploy.config.schema import Architecture, Deployment, Parallel

Finding = tuple[str, str]
"""A dotted key and what is wrong with its value."""

BLOCK = 128
"""Rows and columns that share one scale in an FP8 checkpoint of DeepSeek's format."""


def findings(deployment: Deployment, hosts: Sequence[Host]) -> Iterator[Finding]:
    """Everything wrong with `parallel` and `mesh_shape`."""
    degrees = ("tensor", "pipeline", "expert", "data")
    wrong = [name for name in degrees if getattr(deployment.parallel, name) < 1]
    yield from ((f"parallel.{name}", "must be at least 1") for name in wrong)
    if wrong:
        return
    if deployment.mesh_shape:
        yield from _mesh(deployment.mesh_shape, hosts)
    elif deployment.launcher == "ssh":
        yield from _devices(deployment.parallel, hosts)
    architecture = deployment.model.architecture
    if architecture.num_hidden_layers:
        yield from _heads(deployment.parallel, architecture)
        yield from _experts(deployment.parallel, architecture)
        yield from _layers(deployment.parallel, architecture)
        if deployment.model.precision in ("fp8", "w4a8"):
            yield from _blocks(deployment.parallel, architecture)


def product(parallel: Parallel) -> str:
    """The number of devices as an equation: ``parallel.tensor 8 x parallel.pipeline 2 = 16``."""
    degrees = {"tensor": parallel.tensor, "pipeline": parallel.pipeline, "data": parallel.data}
    factors = [f"parallel.{n} {v}" for n, v in degrees.items() if v > 1 or n == "tensor"]
    return f"{' x '.join(factors)} = {prod(degrees.values())} devices"


def inventory(hosts: Sequence[Host]) -> str:
    """The inventory as an equation: ``2 hosts x 8 = 16``."""
    slots = [host.slots for host in hosts]
    noun = "host" if len(hosts) == 1 else "hosts"
    if len(set(slots)) == 1:
        return f"{len(hosts)} {noun} x {slots[0]} = {sum(slots)}"
    return f"{' + '.join(map(str, slots))} = {sum(slots)}"


def _devices(parallel: Parallel, hosts: Sequence[Host]) -> Iterator[Finding]:
    needed = parallel.tensor * parallel.pipeline * parallel.data
    have = sum(host.slots for host in hosts)
    if needed > have:
        yield "parallel.tensor", f"{product(parallel)}, but the inventory has {inventory(hosts)}"
    elif len(hosts) > 1 and needed < have:
        what = f"{product(parallel)}, but the inventory has {inventory(hosts)}"
        yield "parallel.tensor", f"{what}: use them all, or fewer hosts with max_hosts"
    if len(hosts) < 2:
        return
    slots = [host.slots for host in hosts]
    if len(set(slots)) > 1:
        text = ", ".join(map(str, slots))
        yield "hostfile", f"hosts with different slots ({text}): one deployment needs equal hosts"
    elif parallel.tensor % slots[0] and slots[0] % parallel.tensor:
        what = f"parallel.tensor {parallel.tensor} neither divides the {slots[0]} slots of a host"
        yield "parallel.tensor", f"{what} nor is a multiple of them"


def _mesh(shape: Sequence[int], hosts: Sequence[Host]) -> Iterator[Finding]:
    if len(shape) != 2 or min(shape) < 1:
        yield "mesh_shape", f"{list(shape)}: give rows and columns, e.g. [4, 8]"
    elif prod(shape) != sum(host.slots for host in hosts):
        equation = f"{shape[0]} x {shape[1]} = {prod(shape)} chips"
        yield "mesh_shape", f"{equation}, but the inventory has {inventory(hosts)}"


def _heads(parallel: Parallel, architecture: Architecture) -> Iterator[Finding]:
    if parallel.attention_data:
        return
    heads = architecture.num_attention_heads
    if heads % parallel.tensor:
        what = f"{heads} attention heads / parallel.tensor {parallel.tensor}"
        yield "parallel.tensor", f"{what} = {heads / parallel.tensor:.2f} is no whole number"
    groups = architecture.num_key_value_heads
    if not architecture.kv_lora_rank and groups and groups % parallel.tensor:
        if parallel.tensor % groups == 0:
            return  # every key-value head is then held by several devices
        what = f"{groups} key-value heads and parallel.tensor {parallel.tensor}"
        yield "parallel.tensor", f"{what}: one must divide the other"


def _experts(parallel: Parallel, architecture: Architecture) -> Iterator[Finding]:
    experts = architecture.n_routed_experts
    if parallel.expert > 1 and not experts:
        yield "parallel.expert", "the model has no experts"
    elif experts % parallel.expert:
        what = f"{experts} experts / parallel.expert {parallel.expert}"
        yield "parallel.expert", f"{what} = {experts / parallel.expert:.2f} is no whole number"


def _layers(parallel: Parallel, architecture: Architecture) -> Iterator[Finding]:
    if parallel.pipeline > architecture.num_hidden_layers:
        layers = architecture.num_hidden_layers
        what = f"{parallel.pipeline} stages for {layers} layers"
        yield "parallel.pipeline", f"{what}: every stage needs a layer"


def _blocks(parallel: Parallel, architecture: Architecture) -> Iterator[Finding]:
    """Tensor parallelism may not cut through a block that shares a scale."""
    a, tensor = architecture, parallel.tensor
    moe_tensor = max(1, tensor // parallel.expert)
    cuts = [("moe_intermediate_size", a.moe_intermediate_size, "moe TP", moe_tensor)]
    if parallel.attention_data:
        cuts = [cut for cut in cuts if moe_tensor > 1]
    else:
        shared = a.moe_intermediate_size * a.n_shared_experts
        cuts = [
            ("intermediate_size", a.intermediate_size, "parallel.tensor", tensor),
            ("shared experts' moe_intermediate_size", shared, "parallel.tensor", tensor),
            *cuts,
        ]
    for name, size, over, degree in cuts:
        if size % (BLOCK * degree):
            equation = f"{name} {size} / {over} {degree} = {size / degree:g}"
            yield "parallel.tensor", f"{equation} is no multiple of the FP8 block of {BLOCK}"
            return
