"""The checkpoints that rows are served from, made once in a work folder."""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "tiny_deepseek_r1"
FP8 = EXAMPLE / "checkpoint"
WORK = "FLAGDEPLOY_ZOO"  # names the work folder to serving processes
STEPS, RATE = 5, 3e-4  # further training that makes "another revision"


def stored(name: str) -> tuple[Any, Any]:
    """A tensor of the FP8 checkpoint in FP32 and its block scales (None: stored plainly)."""
    from safetensors import safe_open

    places = json.loads((FP8 / "model.safetensors.index.json").read_text())["weight_map"]

    def read(key: str) -> Any:
        with safe_open(FP8 / places[key], "pt") as file:
            return file.get_tensor(key).float()

    scale = f"{name}_scale_inv"
    return read(name), read(scale) if scale in places else None


def prepare(work: Path, device: str) -> None:
    """Make what rows are served from, as `folder(NAME)` finds it; what is there is kept."""
    _convert(FP8, work / "bf16", "bf16")
    _convert(work / "bf16", work / "fp8", "fp8")
    _convert(work / "fp8", work / "fp8-bf16", "bf16")
    _convert(FP8, work / "w4afp8", "w4afp8", "--act-scales", "1.0")
    _convert(work / "w4afp8", work / "w4afp8-bf16", "bf16")
    _reshard(work / "bf16", work / "one-shard", 1)
    _reshard(work / "bf16", work / "many-shards", 23)
    if not (work / "revision.safetensors").is_file():
        _train(work, device)


def _convert(source: Path, out: Path, to: str, *more: str) -> None:
    import subprocess

    command = ["dequant", "--ckpt", str(source), "--to", to, "--out", str(out), "--quiet", *more]
    subprocess.run([sys.executable, "-m", "flagdeploy", *command], check=True)


def _reshard(source: Path, out: Path, count: int) -> None:
    """The same tensors in `count` files, dealt out in turn."""
    import shutil

    from safetensors.torch import load_file, save_file

    out.mkdir(exist_ok=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(source / name, out)
    shutil.copy(source / "tokenizer_config.json", out)
    tensors: dict[str, Any] = {}
    for path in source.glob("*.safetensors"):
        tensors |= load_file(path)
    files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    places = {name: files[i % count] for i, name in enumerate(sorted(tensors))}
    for file in files:
        mine = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(mine, out / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))


def _train(work: Path, device: str) -> None:
    """Another revision: the model after a few more steps of AdamW, questions drawn anew."""
    import torch
    from safetensors.torch import save_file
    from torch.nn import functional
    from transformers import AutoConfig, AutoModelForCausalLM, logging

    logging.set_verbosity_error()  # the MTP layer is no part of the plain model
    logging.disable_progress_bar()
    sys.path.insert(0, str(EXAMPLE))
    import itertools

    from questions import questions
    from train import IGNORED, KINDS, LEVELS, collate

    config = AutoConfig.from_pretrained(work / "bf16")
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_pretrained(work / "bf16", config=config, dtype=torch.float32)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95))
    drawn = questions(7, False, KINDS, LEVELS)
    for _ in range(STEPS):
        tokens, labels, _ = collate(list(itertools.islice(drawn, 16)))
        logits = model(tokens.to(device), use_cache=False).logits[:, :-1]
        target = labels[:, 1:].to(device).flatten()
        functional.cross_entropy(logits.flatten(0, 1), target, ignore_index=IGNORED).backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    part = work / "revision.part"
    save_file(weights, part)
    part.rename(work / "revision.safetensors")


def folder(name: str) -> Path:
    return Path(os.environ[WORK]) / name


def load_revision(model: Any, names: frozenset[str] | None) -> None:
    """Weights of the other revision into `model`: all, or those of the checkpoint's `names`."""
    from safetensors.torch import load_file

    for name, tensor in load_file(folder("revision.safetensors")).items():
        parameter = model.get_parameter(name) if name in dict(model.named_parameters()) else None
        if parameter is None:
            continue
        if names is None or name in names:
            parameter.data.copy_(tensor)
        else:
            _experts(name, parameter.data, tensor, names)


def _experts(name: str, into: Any, tensor: Any, names: frozenset[str]) -> None:
    """transformers stacks experts, gate over up; a shard holds them one by one."""
    match = re.fullmatch(r"(.*\.experts)\.(gate_up|down)_proj", name)
    if match is None:
        return
    parts: Mapping[str, tuple[int, int]] = {"down": (0, 1)}
    if match[2] == "gate_up":
        parts = {"gate": (0, 2), "up": (1, 2)}
    for expert in range(len(tensor)):
        for part, (index, count) in parts.items():
            if f"{match[1]}.{expert}.{part}_proj.weight" in names:
                into[expert].chunk(count)[index].copy_(tensor[expert].chunk(count)[index])
