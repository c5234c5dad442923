"""Experts chosen or weighted otherwise than DeepSeek-V3's router does (report, section 2.1.2)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from flagdeploy.server.model import LoadedModel
from zoo.faults import Change


def routers(loaded: LoadedModel) -> Iterator[Any]:
    for module in loaded.model.modules():
        if hasattr(module, "e_score_correction_bias"):
            yield module


def bias_dropped(loaded: LoadedModel) -> LoadedModel:
    for router in routers(loaded):
        router.e_score_correction_bias.zero_()
    return loaded


def configured(**fields: Any) -> Change:
    """Fields of every router set to other values than config.json has."""

    def change(loaded: LoadedModel) -> LoadedModel:
        for router in routers(loaded):
            for field, value in fields.items():
                setattr(router, field, value)
        return loaded

    return change


def bias_in_weights(loaded: LoadedModel) -> LoadedModel:
    """Experts weighted by score plus bias; the bias is meant for the choice alone."""
    for router in routers(loaded):

        def biased(_: Any, given: Any, out: Any, router: Any = router) -> Any:
            logits, _, chosen = out
            scores = (logits.sigmoid() + router.e_score_correction_bias).gather(1, chosen)
            return logits, scores / scores.sum(-1, keepdim=True) * 2.5, chosen

        router.register_forward_hook(biased)
    return loaded


def softmax_scores(loaded: LoadedModel) -> LoadedModel:
    """Scores by softmax, as DeepSeek-V2 has it, for sigmoid."""
    for router in routers(loaded):

        def scored(_: Any, given: Any, out: Any) -> Any:
            logits, _, chosen = out
            weights = logits.softmax(-1).gather(1, chosen)
            return logits, weights / weights.sum(-1, keepdim=True) * 2.5, chosen

        router.register_forward_hook(scored)
    return loaded


def scores_in(dtype: torch.dtype) -> Change:
    """The router's product and scores in `dtype` instead of FP32."""

    def change(loaded: LoadedModel) -> LoadedModel:
        for router in routers(loaded):
            plain = router.forward

            def low(hidden: Any, router: Any = router, plain: Any = plain) -> Any:
                linear = functional.linear

                def rounded(x: Any, weight: Any) -> Any:
                    return linear(x.to(dtype), weight.to(dtype)).float()

                with torch.no_grad():
                    functional.linear = rounded
                    try:
                        return plain(hidden)
                    finally:
                        functional.linear = linear

            router.forward = low
        return loaded

    return change
