"""Greedy accuracy on the held-out questions, of the model and of two damaged copies.

    python evaluate.py [--device cuda] [--dtype bfloat16] [--limit N] [--json results.json]

Variants: `fp8` (dequantized to BF16, computed in FP32), `int3` (the routed experts rounded to 3
bits) and `corrupt` (one expert's down projection negated). Each damaged copy is compared with
`fp8` question by question with McNemar's exact test.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import latent_decode
import torch
import transformers
from questions import KIND_FILES, parse, read_rows, row_answer, row_prompt
from store_fp8 import from_blocks, to_blocks, write_dequantized
from torch import Tensor
from transformers import AutoTokenizer, DeepseekV3ForCausalLM

HERE = Path(__file__).parent
MAX_NEW_TOKENS = 144
CORRUPT_LAYER, CORRUPT_EXPERT = 1, 0


def load(checkpoint: Path, device: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(model, tokenizer) of an FP8 checkpoint: dequantized to BF16, then held in `dtype`."""
    with tempfile.TemporaryDirectory() as folder:
        write_dequantized(checkpoint, Path(folder))
        model = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return model.to(device).eval(), tokenizer


@torch.inference_mode()
def complete(model: Any, tokenizer: Any, prompts: list[str], batch: int) -> list[str]:
    """Greedy completions of user turns, in order; batches of similar length."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True
        )
        for p in prompts
    ]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    done: dict[int, str] = {}
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        inputs = tokenizer(
            [texts[i] for i in part], return_tensors="pt", padding=True, add_special_tokens=False
        ).to(model.device)
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        done.update(zip(part, new, strict=True))
    return [done[i] for i in range(len(texts))]


def round_to_3_bits(weight: Tensor) -> Tensor:
    """[out, in] -> same, rounded to nearest on 7 levels: -3..3 times a scale per 128x128 block."""
    blocks = to_blocks(weight)
    scale = blocks.abs().amax(dim=(1, 3), keepdim=True) / 3
    return from_blocks((blocks / scale).round() * scale, weight.shape)


@torch.no_grad()
def int3_experts(model: Any) -> None:
    """Round the routed experts of every layer to 3 bits, in place."""
    for layer in model.model.layers[model.config.first_k_dense_replace :]:
        for stack in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            for weight in stack:
                weight.copy_(round_to_3_bits(weight))


@torch.no_grad()
def corrupt_expert(model: Any, layer: int = CORRUPT_LAYER, expert: int = CORRUPT_EXPERT) -> None:
    """Negate one expert's down projection in place: in FP8 storage, the sign bit of each byte."""
    model.model.layers[layer].mlp.experts.down_proj[expert].neg_()


def mcnemar(first: list[bool], second: list[bool]) -> float:
    """Two-sided exact p-value for equal accuracy of two paired lists of outcomes (McNemar 1947)."""
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    n, k = lost + won, min(lost, won)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0


def outcomes(
    model: Any, tokenizer: Any, folder: Path, limit: int, batch: int
) -> dict[str, list[bool]]:
    """Right or wrong for each question, by kind."""
    result = {}
    for kind in KIND_FILES:
        rows = read_rows(folder / f"{kind}.jsonl")[:limit]
        answers = complete(model, tokenizer, [row_prompt(kind, r) for r in rows], batch)
        result[kind] = [
            parse(kind, a) == row_answer(kind, r) for a, r in zip(answers, rows, strict=True)
        ]
    return result


def percent(right: list[bool]) -> float:
    return round(100 * sum(right) / len(right), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the model in the box")
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint")
    parser.add_argument("--questions", type=Path, default=HERE / "questions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="what the BF16 weights are computed in")
    parser.add_argument("--limit", type=int, default=None, help="questions of each kind")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--variants", nargs="+", default=["fp8", "int3", "corrupt"])
    parser.add_argument(
        "--corrupt", default=f"{CORRUPT_LAYER}.{CORRUPT_EXPERT}", help="LAYER.EXPERT"
    )
    parser.add_argument("--json", type=Path, help="write every outcome there")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()  # the MTP layer is no part of the plain model
    transformers.logging.disable_progress_bar()
    latent_decode.install()
    damage = {"fp8": [], "int3": [int3_experts]}
    layer, expert = map(int, options.corrupt.split("."))
    damage["corrupt"] = [lambda model: corrupt_expert(model, layer, expert)]
    results: dict[str, dict[str, list[bool]]] = {}
    for variant in options.variants:
        start = time.time()
        model, tokenizer = load(options.checkpoint, options.device, getattr(torch, options.dtype))
        for change in damage[variant]:
            change(model)
        by_kind = outcomes(model, tokenizer, options.questions, options.limit, options.batch)
        results[variant] = by_kind
        everything = [r for right in by_kind.values() for r in right]
        line = {k: percent(right) for k, right in by_kind.items()} | {"all": percent(everything)}
        base = [r for right in results[options.variants[0]].values() for r in right]
        line |= {"mcnemar_p": mcnemar(base, everything), "seconds": round(time.time() - start)}
        print(variant, json.dumps(line), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
