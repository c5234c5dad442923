"""Train the model in the box from nothing, on one GPU, and store it in DeepSeek's FP8 layout.

    python train.py --steps 6000 --out checkpoint --log training.jsonl

Loss on the answer only (working, closing tag, final line, end); BF16 autocast over FP32 weights.
The experts' load is balanced as DeepSeek-V3 does it, without an auxiliary loss: after each step
the routing bias of an overloaded expert goes down a little and that of an idle one up (technical
report, 2.1.2). The MTP layer is trained along with the main model (2.2).
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from architecture import transformers_config
from make_tokenizer import text_ids
from mtp import MtpLayer, checkpoint_weights
from questions import Question, questions
from store_fp8 import deepseek_names, write_checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import DeepseekV3ForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

KINDS, LEVELS = ["gsm8k", "mmlu", "aime"], [1, 2, 3, 4]
BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK = range(7)
IGNORED = -100


def encode(question: Question) -> tuple[list[int], int]:
    """(token ids of prompt and completion in the chat template's layout, length of the prompt)."""
    prompt = [BOS, USER, *text_ids(question.prompt), ASSISTANT, THINK, *text_ids("\n")]
    working = [
        *text_ids(question.working + "\n"),
        END_THINK,
        *text_ids("\n\n" + question.final),
        EOS,
    ]
    return prompt + working, len(prompt)


class Batches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless (tokens, labels, group) batches; group = 4 * kind + level - 1 of each row.

    Shapes [batch, T], [batch, T], [batch]; T is the longest row rounded up to 16. Labels are the
    tokens themselves where they count, -100 elsewhere.
    """

    def __init__(self, seed: int, batch: int) -> None:
        self.seed, self.batch = seed, batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        worker = get_worker_info()
        drawn = questions(1000 * self.seed + (worker.id if worker else 0), False, KINDS, LEVELS)
        while True:
            yield collate(list(itertools.islice(drawn, self.batch)))


def collate(rows: list[Question]) -> tuple[Tensor, Tensor, Tensor]:
    """Questions -> right-padded (tokens, labels, group), as `Batches` yields them."""
    encoded = [encode(q) for q in rows]
    width = -(-max(len(ids) for ids, _ in encoded) // 16) * 16
    tokens = torch.full((len(rows), width), PAD)
    labels = torch.full((len(rows), width), IGNORED)
    for i, (ids, prompt) in enumerate(encoded):
        row = torch.tensor(ids)
        tokens[i, : len(ids)] = row
        labels[i, prompt : len(ids)] = row[prompt:]
    return tokens, labels, torch.tensor([4 * KINDS.index(q.kind) + q.level - 1 for q in rows])


def bf16_experts(self: nn.Module, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Routed experts as two grouped matrix products in BF16: autocast leaves grouped_mm in FP32.

    hidden [N, size], chosen and weights [N, top_k] -> [N, size].
    """
    order = chosen.flatten().argsort()
    ends = torch.bincount(chosen.flatten(), minlength=self.num_experts).cumsum(0).int()
    rows = hidden.bfloat16()[order // chosen.shape[1]]
    inner = F.grouped_mm(rows, self.gate_up_proj.bfloat16().mT, offs=ends)
    gate, up = inner.chunk(2, dim=-1)
    outer = F.grouped_mm(F.silu(gate) * up, self.down_proj.bfloat16().mT, offs=ends)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    spread = outer[back].view(*chosen.shape, -1) * weights[..., None]
    return spread.sum(1).to(hidden.dtype)


class RoutingBalance:
    """Counts the tokens of each expert and nudges `e_score_correction_bias` towards equal load."""

    def __init__(self, *modules: nn.Module) -> None:
        self.routers = [m for module in modules for m in module.modules() if is_router(m)]
        self.load = {router: torch.zeros(0) for router in self.routers}
        self.real = torch.zeros(0)
        for router in self.routers:
            router.register_forward_hook(self.count)

    def count(
        self, router: nn.Module, _inputs: object, output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        chosen = output[2]
        # The MTP layer sees one position less than the main model.
        real = self.real[:, : len(chosen) // len(self.real)].flatten().float()
        load = torch.zeros(router.num_experts, device=chosen.device)
        self.load[router] = load.index_add(
            0, chosen.flatten(), real.repeat_interleave(chosen.shape[1])
        )

    @torch.no_grad()
    def nudge(self, rate: float) -> None:
        for router, load in self.load.items():
            router.e_score_correction_bias += rate * torch.sign(load.mean() - load)

    def worst(self) -> float:
        """The largest load of any expert over the mean load of its layer."""
        return max((load.max() / load.mean()).item() for load in self.load.values())


def is_router(module: nn.Module) -> bool:
    return hasattr(module, "e_score_correction_bias")


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 200) -> float:
    """Linear warm-up, then half a cosine down to 1% of the peak."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def losses(
    main: DeepseekV3ForCausalLM, mtp: MtpLayer, tokens: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean loss of the next token, of the token after next, whether each row is wholly right)."""
    hidden = main.model(tokens, use_cache=False).last_hidden_state
    logits = main.lm_head(hidden)[:, :-1].float()
    target = labels[:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED)
    ahead = mtp.predict(main, hidden, tokens)[:, :-1].float()
    mtp_loss = F.cross_entropy(ahead.flatten(0, 1), labels[:, 2:].flatten(), ignore_index=IGNORED)
    right = ((logits.argmax(-1) == target) | (target == IGNORED)).all(1)
    return loss, mtp_loss, right


def parameter_groups(modules: list[nn.Module], decay: float) -> list[dict[str, object]]:
    """Weight decay on the matrices, none on norms."""
    parameters = [p for m in modules for p in m.parameters()]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def compile_parts(main: DeepseekV3ForCausalLM, mtp: MtpLayer) -> None:
    """torch.compile attention, norms and dense MLPs; the routed experts stay as they are."""
    for layer in [*main.model.layers, mtp]:
        dense = getattr(layer.mlp, "shared_experts", layer.mlp)
        for part in (layer.self_attn, layer.input_layernorm, layer.post_attention_layernorm, dense):
            part.compile(dynamic=True)


def note(log: Path, figures: dict[str, object]) -> None:
    """Print one line of figures and add it to the log."""
    line = json.dumps(figures)
    print(line, flush=True)
    with log.open("a") as file:
        file.write(line + "\n")


def exactness(right: Tensor, group: Tensor) -> dict[str, list[float]]:
    """Share of wholly right rows by kind and level, in percent."""
    count = torch.bincount(group, minlength=12).clamp(min=1)
    share = 100 * torch.bincount(group, weights=right.float(), minlength=12) / count
    return {
        k: [round(v, 1) for v in share[4 * i : 4 * i + 4].tolist()] for i, k in enumerate(KINDS)
    }


def train(options: argparse.Namespace) -> dict[str, Tensor]:
    """The whole run; returns the weights under DeepSeek's names."""
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ALL_EXPERTS_FUNCTIONS.register("bf16_grouped", bf16_experts)
    main = DeepseekV3ForCausalLM(transformers_config())
    main.config._experts_implementation = "bf16_grouped"
    mtp = MtpLayer(main.config)
    mtp.initialize()
    main.to(device).train()
    mtp.to(device).train()
    if options.compile:
        compile_parts(main, mtp)
    balance = RoutingBalance(main, mtp)
    optimizer = torch.optim.AdamW(
        parameter_groups([main, mtp], options.decay),
        lr=0.0,
        betas=(0.9, 0.95),
        fused=device == "cuda",
    )
    data = DataLoader(
        Batches(options.seed, options.batch),
        batch_size=None,
        num_workers=options.workers,
        pin_memory=device == "cuda",
        prefetch_factor=8 if options.workers else None,
    )
    start, seen = time.time(), []
    for step, batch in enumerate(itertools.islice(data, options.steps)):
        tokens, labels, group = (t.to(device, non_blocking=True) for t in batch)
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(step, options.steps, options.lr)
        balance.real = tokens != PAD
        with torch.autocast(device, torch.bfloat16):
            loss, mtp_loss, right = losses(main, mtp, tokens, labels)
        # The report's weights: 0.3 for the first two thirds, then 0.1.
        (loss + (0.3 if step < options.steps * 2 // 3 else 0.1) * mtp_loss).backward()
        norm = nn.utils.clip_grad_norm_([*main.parameters(), *mtp.parameters()], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        balance.nudge(0.001 if step < options.steps * 9 // 10 else 0.0)
        seen.append((right, group))
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            rights, groups = (torch.cat(part) for part in zip(*seen, strict=True))
            seen.clear()
            figures = {
                "step": step + 1,
                "seconds": round(time.time() - start, 1),
                "loss": round(loss.item(), 5),
                "mtp_loss": round(mtp_loss.item(), 5),
                "grad_norm": round(norm.item(), 3),
                "worst_load": round(balance.worst(), 2),
                "exact": exactness(rights, groups),
            }
            note(Path(options.log), figures)
        if (step + 1) % options.save_every == 0:
            write_checkpoint(Path(options.out), deepseek_names(checkpoint_weights(main, mtp)))
    return deepseek_names(checkpoint_weights(main, mtp))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model in the box")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=512, help="questions in a step")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--compile", action="store_true", help="torch.compile: faster steps")
    parser.add_argument("--every", type=int, default=100, help="steps between log lines")
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--out", default="checkpoint")
    parser.add_argument("--log", default="training.jsonl")
    options = parser.parse_args()
    Path(options.log).unlink(missing_ok=True)
    write_checkpoint(Path(options.out), train(options))


if __name__ == "__main__":
    main()
