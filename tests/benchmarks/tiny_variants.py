"""Score the small DeepSeek-R1's sequences with harmless and damaged variants of it.

    flagdeploy dequant tiny_deepseek_r1 --to bf16
    python tests/benchmarks/tiny_variants.py models/tiny_deepseek_r1-bf16 \
        tests/cases/compare/tiny_variants.json

Every sequence of env/baselines/tiny_deepseek_r1/h200.jsonl.gz, teacher-forced on a CPU by the
model definition of transformers; per variant and sequence the figures of
`evals.teacher_forcing.Difference` go to the file, from which tests judge the margins.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flagdeploy.evals.bundle import read_bundle
from flagdeploy.evals.teacher_forcing import Passage, Position, difference

BUNDLE = Path(__file__).parents[2] / "env/baselines/tiny_deepseek_r1/h200.jsonl.gz"
KEPT = ("embed", "lm_head", "norm", ".gate.weight")  # what quantized checkpoints leave alone
Model = Any


def weights(model: Model, part: str = "") -> list[torch.nn.Parameter]:
    return [
        weight
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and part in name and not any(word in name for word in KEPT)
    ]


def rounded(model: Model, bits: int, group: int | None = None) -> Model:
    """Weights rounded to the nearest of 2^bits - 1 levels, one scale per row or per group."""
    levels = 2 ** (bits - 1) - 1
    for weight in weights(model):
        x = weight.data.reshape(*weight.shape[:-1], -1, group or weight.shape[-1])
        scale = (x.abs().amax(-1, keepdim=True) / levels).clamp(min=1e-12)
        weight.data = ((x / scale).round() * scale).reshape(weight.shape)
    return model


def hooked(model: Model, kind: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Model:
    """`change` applied to the output of every module whose name ends in `kind`."""
    for name, module in model.named_modules():
        if name.endswith(kind):
            module.register_forward_hook(lambda module, given, out: change(out))
    return model


def cast(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x.to(dtype).to(x.dtype)


def rope(model: Model, theta: float) -> Model:
    model.model.rotary_emb.inv_freq = theta ** -(torch.arange(0, 64, 2).float() / 64)
    return model


def without_bias(model: Model) -> Model:
    for name, buffer in model.named_buffers():
        if "e_score_correction_bias" in name:
            buffer.zero_()
    return model


def gate_and_up_swapped(model: Model, layer: int) -> Model:
    for weight in weights(model, f"layers.{layer}.mlp.experts.gate_up"):
        weight.data = torch.cat(weight.data.chunk(2, dim=1)[::-1], dim=1)
    return model


def experts_swapped(model: Model, layer: int) -> Model:
    for weight in weights(model, f"layers.{layer}.mlp.experts"):
        weight.data = weight.data[[1, 0, *range(2, len(weight))]]
    return model


def expert_negated(model: Model) -> Model:
    for weight in weights(model, "layers.1.mlp.experts.down"):
        weight.data[0] *= -1
    return model


def scaled(model: Model, part: str, factor: float) -> Model:
    for weight in weights(model, part):
        weight.data *= factor
    return model


def variants(path: str) -> dict[str, Callable[[], Model]]:
    def load(dtype: torch.dtype = torch.float32, **changes: Any) -> Model:
        config = AutoConfig.from_pretrained(path)
        for key, value in changes.items():
            setattr(config, key, value)
        return AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype).eval()

    return {
        "FP32 on a CPU": load,
        "BF16": lambda: load(torch.bfloat16),
        "BF16 activations": lambda: hooked(load(), "proj", cast(torch.bfloat16)),
        "8 bit per row": lambda: rounded(load(), 8),
        "FP8 latent cache": lambda: hooked(load(), "kv_a_layernorm", cast(torch.float8_e4m3fn)),
        "6 bit per row": lambda: rounded(load(), 6),
        "4 bit in groups of 32": lambda: rounded(load(), 4, 32),
        "4 bit per row": lambda: rounded(load(), 4),
        "3 bit per row": lambda: rounded(load(), 3),
        "routing bias dropped": lambda: without_bias(load()),
        "one routed expert more": lambda: load(num_experts_per_tok=3),
        "one routed expert fewer": lambda: load(num_experts_per_tok=1),
        "routed scaling ignored": lambda: load(routed_scaling_factor=1.0),
        "shared expert missing": lambda: hooked(load(), "shared_experts", torch.zeros_like),
        "gate and up swapped": lambda: gate_and_up_swapped(load(), 2),
        "two experts swapped": lambda: experts_swapped(load(), 2),
        "one expert negated": lambda: expert_negated(load()),
        "one projection 1.5 times": lambda: scaled(load(), "layers.1.self_attn.o_proj", 1.5),
        "rope theta doubled": lambda: rope(load(), 20000.0),
    }


@torch.no_grad()
def score(model: Model, passage: Passage, k: int = 20) -> list[Position]:
    ids = torch.tensor([[*passage.prompt, *passage.continuation]])
    nats = model(ids).logits[0].float().log_softmax(-1)[len(passage.prompt) - 1 : -1]
    best = nats.topk(k, -1)
    return [
        Position(nats[i, token].item(), dict(zip(ids, values, strict=True)))
        for i, (token, ids, values) in enumerate(
            zip(passage.continuation, best.indices.tolist(), best.values.tolist(), strict=True)
        )
    ]


def main(path: str, out: Path) -> None:
    torch.set_num_threads(1)
    passages = read_bundle(BUNDLE).passages
    found: dict[str, Any] = {"sequences": {}, "variants": {}}
    for name, make in variants(path).items():
        model = make()
        rows = [difference(p.key, p.positions, score(model, p)) for p in passages]
        found["sequences"] = {row.key: [row.length, round(row.impurity, 8)] for row in rows}
        found["variants"][name] = [
            [round(x, 8) for x in (row.top1, row.top5, row.kl, row.delta_nll, row.near, row.far)]
            for row in rows
        ]
        print(name, file=sys.stderr)
    text = json.dumps(found, separators=(",", ":")).replace('],"', '],\n"')
    out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
