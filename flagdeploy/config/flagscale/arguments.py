"""Which key of ours an engine argument of FlagScale means, both ways.

FlagScale writes arguments under vLLM's names and renames some for SGLang
(flagscale/serve/args_mapping/mapping.yaml); what has no key of ours stays an engine argument.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKmMgG]?)")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_DTYPES = {"half": "float16", "float": "float32"}
_KV_DTYPES = {"bfloat16": "bf16", "fp8_e4m3": "fp8"}


def _text(value: Any) -> str:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"`{value}`: one text is expected")


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]+", str(value)):
        raise ValueError(f"`{value}`: a whole number is expected")
    return int(value)


def _size(value: Any) -> int:
    """``4k`` is 4000 and ``4K`` is 4096, as vLLM reads it."""
    match = _SIZE.fullmatch(str(value))
    if isinstance(value, bool) or not match:
        raise ValueError(f"`{value}`: a number of tokens is expected")
    return int(float(match[1]) * _UNITS[match[2]])


def _number(value: Any) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ValueError(f"`{value}`: a number is expected") from None


def _truth(value: Any) -> bool:
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError(f"`{value}`: true or false is expected")


def _inverse(value: Any) -> bool:
    return not _truth(value)


def _numbers(value: Any) -> list[int]:
    return [_integer(item) for item in (value if isinstance(value, list) else [value])]


def _dtype(value: Any) -> str:
    word = _DTYPES.get(str(value), str(value))
    if word not in ("auto", "bfloat16", "float16", "float32"):
        raise ValueError(f"`{value}`: auto, bfloat16, float16 and float32 are known")
    return word


def _kv_dtype(value: Any) -> str:
    word = _KV_DTYPES.get(str(value), str(value))
    if word not in ("auto", "bf16", "fp8"):
        raise ValueError(f"`{value}`: auto, bfloat16 and fp8 are known")
    return word


def is_port(value: Any) -> bool:
    return bool(re.fullmatch("[0-9]{1,5}", str(value))) and 0 < int(value) < 65536


@dataclass(frozen=True)
class Row:
    """`names` are the engine's for `key`; the first is written on export."""

    key: str
    names: tuple[str, ...]
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value
    when: bool | None = None
    """The value that this name is written for, where two names share a key."""


_COMMON = [
    Row("model.served_name", ("served_model_name",), _text),
    Row("model.dtype", ("dtype",), _dtype),
    Row("model.trust_remote_code", ("trust_remote_code",), _truth),
    Row("quantization", ("quantization",), _text),
    Row("reasoning_parser", ("reasoning_parser",), _text),
    Row("stream_interval", ("stream_interval",), _integer),
    Row("endpoint.host", ("host",), _text),
    Row("endpoint.port", ("port",), _integer),
]
_VLLM = [
    Row("model.checkpoint", ("model",), _text),
    *_COMMON,
    Row("parallel.tensor", ("tensor_parallel_size", "tp"), _integer),
    Row("parallel.pipeline", ("pipeline_parallel_size", "pp"), _integer),
    Row("parallel.data", ("data_parallel_size", "dp"), _integer),
    # Whether, not how many: the engine spreads them over all its devices.
    Row("parallel.expert", ("enable_expert_parallel",), _truth, lambda v: v > 1),
    Row("limits.context_length", ("max_model_len",), _size),
    Row("limits.max_num_seqs", ("max_num_seqs",), _integer),
    Row("limits.max_num_batched_tokens", ("max_num_batched_tokens",), _size),
    Row("limits.memory_fraction", ("gpu_memory_utilization",), _number),
    Row("kv_cache.dtype", ("kv_cache_dtype",), _kv_dtype, lambda v: {"bf16": "bfloat16"}.get(v, v)),
    Row("kv_cache.block_size", ("block_size",), _integer),
    Row("kv_cache.block_reuse", ("enable_prefix_caching",), _truth, when=True),
    Row("kv_cache.block_reuse", ("no_enable_prefix_caching",), _inverse, lambda v: not v, False),
    Row("cuda_graph.enabled", ("enforce_eager",), _inverse, lambda v: not v),
    Row("cuda_graph.batch_sizes", ("cudagraph_capture_sizes",), _numbers),
    Row("cuda_graph.max_batch_size", ("max_cudagraph_capture_size",), _integer),
    Row("chunked_prefill", ("enable_chunked_prefill",), _truth, when=True),
    Row("chunked_prefill", ("no_enable_chunked_prefill",), _inverse, lambda v: not v, False),
    Row("moe.backend", ("moe_backend",), _text),
]
_SGLANG = [
    Row("model.checkpoint", ("model", "model_path"), _text),
    *_COMMON,
    Row("parallel.tensor", ("tensor_parallel_size", "tp", "tp_size"), _integer),
    Row("parallel.pipeline", ("pipeline_parallel_size", "pp", "pp_size"), _integer),
    Row("parallel.expert", ("ep_size", "ep", "expert_parallel_size"), _integer),
    Row("parallel.data", ("dp_size", "dp", "data_parallel_size"), _integer),
    Row("limits.context_length", ("max_model_len", "context_length"), _size),
    Row("limits.max_num_seqs", ("max_num_seqs", "max_running_requests"), _integer),
    Row("limits.max_num_batched_tokens", ("max_prefill_tokens", "max_num_batched_tokens"), _size),
    Row("limits.memory_fraction", ("mem_fraction_static", "gpu_memory_utilization"), _number),
    Row("kv_cache.dtype", ("kv_cache_dtype",), _kv_dtype, lambda v: {"fp8": "fp8_e4m3"}.get(v, v)),
    Row("kv_cache.block_size", ("page_size", "block_size"), _integer),
    Row("kv_cache.block_reuse", ("disable_radix_cache",), _inverse, lambda v: not v),
    Row("kv_cache.block_reuse", ("enable_prefix_caching",), _truth),
    Row("kv_cache.block_reuse", ("no_enable_prefix_caching",), _inverse),
    Row("cuda_graph.enabled", ("disable_cuda_graph", "enforce_eager"), _inverse, lambda v: not v),
    Row("chunked_prefill_size", ("chunked_prefill_size",), _integer),
    Row("chunked_prefill", ("enable_chunked_prefill",), _truth),
    Row("chunked_prefill", ("no_enable_chunked_prefill",), _inverse),
    Row("moe.backend", ("moe_runner_backend",), _text),
]
ROWS: Mapping[str, list[Row]] = {"vllm": _VLLM, "sglang": _SGLANG}

# Names of vLLM that FlagScale hands to SGLang unchanged, which does not know them.
FOREIGN = {
    "sglang": {
        "gpu_memory_utilization",
        "enforce_eager",
        "enable_prefix_caching",
        "no_enable_prefix_caching",
        "enable_chunked_prefill",
        "no_enable_chunked_prefill",
        "block_size",
        "max_num_batched_tokens",
    },
    "vllm": set[str](),
}
RENAMED = {
    "sglang": {
        "seed": "random-seed",
        "uvicorn_log_level": "log-level",
        "show_hidden_metrics_for_version": "enable-metrics",
    },
    "vllm": dict[str, str](),
}
# Set for each rank by flagdeploy.
OF_RANKS = {
    "nnodes",
    "node_rank",
    "master_addr",
    "dist_init_addr",
    "headless",
    "data_parallel_size_local",
    "data_parallel_address",
    "data_parallel_start_rank",
}


def row(engine: str, name: str) -> Row | None:
    return next((r for r in ROWS[engine] if name in r.names), None)


def compact_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def flattened(value: Mapping[str, Any]) -> str:
    """What FlagScale makes of a mapping: the inner names as flags of their own."""
    words: list[str] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            words.append(flattened(inner))
        elif inner is not False:
            tail = "" if inner is True else f" {inner}"
            words.append(f"--{str(name).replace('_', '-')}{tail}")
    return " ".join(word for word in words if word) or "nothing"
