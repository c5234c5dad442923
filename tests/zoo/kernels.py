"""Changes that leave the model what it is: other kernels, other order of the same sums."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flagdeploy.server import forward
from flagdeploy.server.forward import Forward
from flagdeploy.server.model import LoadedModel
from zoo.faults import Change, replaced


def tensor_parallel(ranks: int) -> Change:
    """Row-parallel products as `ranks` partial sums, each rounded to BF16 before the all-reduce."""

    def change(loaded: LoadedModel) -> LoadedModel:
        for name, module in loaded.model.named_modules():
            if name.endswith(("o_proj", "down_proj")) and hasattr(module, "in_features"):
                module.forward = _partial_sums(module, ranks)
        return loaded

    return change


def _partial_sums(module: Any, ranks: int) -> Any:
    def forward(x: Tensor) -> Tensor:
        parts = zip(x.chunk(ranks, -1), module.weight.chunk(ranks, -1), strict=True)
        sums = [functional.linear(part, weight).bfloat16().to(x.dtype) for part, weight in parts]
        return torch.stack(sums).sum(0)

    return forward


def expanded_attention(loaded: LoadedModel) -> LoadedModel:
    """transformers' own attention: latents expanded at every step, nothing absorbed."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    loaded.model.set_attn_implementation("eager")
    for layer in loaded.model.modules():
        if isinstance(layer, DeepseekV3Attention):
            layer.__dict__.pop("expand_kv", None)
    return loaded


def experts(implementation: str) -> Change:
    def change(loaded: LoadedModel) -> LoadedModel:
        loaded.model.config._experts_implementation = implementation
        return loaded

    return change


def prefill_chunks(tokens: int) -> Change:
    def change(loaded: LoadedModel) -> LoadedModel:
        plain = Forward.__init__

        def init(self: Forward, *given: Any) -> None:
            plain(self, *given)
            self._logits_chunk = tokens

        replaced(forward, "CHUNK", tokens)
        replaced(Forward, "__init__", init)
        return loaded

    return change


def tf32(loaded: LoadedModel) -> LoadedModel:
    torch.backends.cuda.matmul.allow_tf32 = True
    return loaded


def flag_gems(operators: Sequence[str]) -> Change:
    """These operators from FlagGems' Triton kernels instead of torch's."""

    def change(loaded: LoadedModel) -> LoadedModel:
        import flag_gems

        flag_gems.only_enable(include=list(operators))
        return loaded

    return change
