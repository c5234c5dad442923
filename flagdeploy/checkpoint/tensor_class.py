"""Which part of a model a tensor belongs to: the rows of a table about errors.

Names: Hugging Face's DeepSeek-V2/V3, Qwen, Mixtral and gpt-oss models.
"""

import re
from functools import lru_cache

_LAYER = re.compile(r"(?:^|.*\.)layers\.\d+\.")
_SUFFIX = re.compile(r"(\.weight(_packed|_shape|_scale|_scale_inv)?|_blocks|_scales)$")
_PARTS = (
    (re.compile(r"shared_experts?$"), "shared experts"),
    (re.compile(r"experts(\.\d+)?$"), "routed experts"),
    (re.compile(r"attn(\.indexer)?$|attention$"), "attention"),
    (re.compile(r"mlp$|feed_forward$|ffn$"), "MLP"),
)
_NAMED = {"embed_tokens": "embeddings", "lm_head": "head", "head": "head"}


def tensor_class(name: str) -> str:
    """``attention q_a_proj``, ``routed experts gate_proj``, ``shared experts down_proj``, ``MLP
    up_proj`` (dense), ``norms``, ``router``, ``embeddings``, ``head``; else the module's own name.

    A scale is of the class of its weight. All layers, multi-token prediction too, are one.
    """
    # Numbers of layers and experts do not matter: some fifty classes for 100,000 names.
    return _of(re.sub(r"\d+", "0", name))


@lru_cache(1024)
def _of(name: str) -> str:
    module, bias, _ = _SUFFIX.sub("", name).partition(".bias")
    where, _, last = _LAYER.sub("", module).rpartition(".")
    if last.endswith("norm") or last == "norm":
        return "norms"
    if last in ("gate", "router") or where.endswith((".gate", ".router")):
        return "router"
    for pattern, title in _PARTS:
        if pattern.search(where):
            return f"{title} {last}{' bias' if bias else ''}"
    return _NAMED.get(last, last)
