"""Every route of conversion of the model in the box, and its held-out questions asked over HTTP."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flagdeploy.config.secret import Secret
from flagdeploy.evals.answers import Answer, AnswerLog, ask
from flagdeploy.evals.benchmarks import load_benchmarks
from flagdeploy.evals.capabilities import probe
from flagdeploy.evals.client import Client, Endpoint, run
from flagdeploy.evals.items import Item, questions
from flagdeploy.records.events import silent
from flagdeploy.workflows.dequant import dequant

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny_deepseek_r1"
CHECKPOINT = EXAMPLE / "checkpoint"
SCALE = "_scale_inv"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Route:
    """`source` is another route, or ``fp8``, the checkpoint as it is."""

    source: str
    to: str
    options: Mapping[str, Any] = field(default_factory=dict)


_TRTLLM, _VLLM = {"act_scales": 1.0}, {"layout": "vllm"}
_NO_MTP = {"drop_mtp": True}
ROUTES = {
    "bf16": Route("fp8", "bf16"),
    "fp16": Route("fp8", "fp16"),
    "fp32": Route("fp8", "fp32"),
    "fp8 again": Route("bf16", "fp8"),
    "fp8 again > bf16": Route("fp8 again", "bf16"),
    "w4afp8": Route("fp8", "w4afp8", _TRTLLM),
    "w4afp8 > bf16": Route("w4afp8", "bf16"),
    "w4afp8 of bf16": Route("bf16", "w4afp8", _TRTLLM),
    "w4afp8 of bf16 > bf16": Route("w4afp8 of bf16", "bf16"),
    "w4afp8 for vllm": Route("fp8", "w4afp8", _VLLM),
    "w4afp8 for vllm > bf16": Route("w4afp8 for vllm", "bf16"),
    "w4afp8 for vllm of bf16": Route("bf16", "w4afp8", _VLLM),
    "w4afp8 for vllm of bf16 > bf16": Route("w4afp8 for vllm of bf16", "bf16"),
    "bf16 without MTP": Route("fp8", "bf16", _NO_MTP),
    "fp8 again without MTP": Route("bf16", "fp8", _NO_MTP),
    "w4afp8 without MTP": Route("fp8", "w4afp8", _TRTLLM | _NO_MTP),
    "w4afp8 without MTP > bf16": Route("w4afp8 without MTP", "bf16"),
    "w4afp8 for vllm without MTP": Route("fp8", "w4afp8", _VLLM | _NO_MTP),
    "w4afp8 for vllm without MTP > bf16": Route("w4afp8 for vllm without MTP", "bf16"),
}


def convert_all(root: Path) -> dict[str, Path]:
    """The folders of all routes, made under `root`; ``fp8`` is the source itself."""
    folders = {"fp8": CHECKPOINT}
    for name, route in ROUTES.items():
        out = root / name.replace(" > ", " to ").replace(" ", "-")
        folders[name] = dequant(folders[route.source], route.to, out, **route.options).folder
    return folders


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the model's shards, as stored."""
    shards = map(load_file, sorted(folder.glob("model*.safetensors")))
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def reference(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The source dequantized in torch: multiplied in FP32, rounded once; the rest as stored."""
    stored = weights(CHECKPOINT)
    plain = {name: tensor for name, tensor in stored.items() if not name.endswith(SCALE)}
    for name, tensor in plain.items():
        if name + SCALE in stored:
            full = stored[name + SCALE].repeat_interleave(128, 0).repeat_interleave(128, 1)
            rows, columns = tensor.shape
            plain[name] = (tensor.float() * full[:rows, :columns]).to(dtype)
    return plain


def write_reference(folder: Path) -> Path:
    """The source dequantized by torch, as one shard."""
    folder.mkdir()
    plain = reference(torch.bfloat16)
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((CHECKPOINT / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CHECKPOINT / name, folder / name)
    return folder


def different(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not equal to the last bit, of the same dtype and shape."""
    return [
        name
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or not _same(one[name], other[name])
    ]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def hidden(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that take part in an answer: all but those of multi-token prediction."""
    found = weights(folder)
    return {name: t for name, t in found.items() if not name.startswith("model.layers.3.")}


def relative_error(
    exact: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], part: str = ""
) -> float:
    """Root of sum (w - q)^2 / sum w^2 over the matrices of the hidden layers that are in FP8 in the
    source and have `part` in their names."""
    names = [
        name.removesuffix(SCALE)
        for name in hidden(CHECKPOINT)
        if name.endswith(SCALE) and part in name
    ]
    wrong = sum(float((exact[n].double() - other[n].double()).square().sum()) for n in names)
    return float((wrong / sum(float(exact[n].double().square().sum()) for n in names)) ** 0.5)


def held_out(limit: int | None = None) -> list[Item]:
    """The held-out questions, or `limit` of each of the three kinds."""
    return questions(load_benchmarks(EXAMPLE), limit)


def answers(
    url: str, items: Sequence[Item], *, key: str | None = None, concurrency: int = 64
) -> list[Answer]:
    """Greedy answers of the endpoint at `url`."""

    async def asked() -> list[Answer]:
        secret = Secret(key, "the key of this test") if key else None
        async with Client(Endpoint(url, api_key=secret), concurrency) as client:
            found = await probe(client)
            return await ask(
                client, found, items, log=AnswerLog(None), report=silent, stage="answer"
            )

    return run(asked())


def discordant(baseline: Sequence[Answer], other: Sequence[Answer]) -> tuple[int, int]:
    """Questions that are right only in `other`, and right only in `baseline`."""
    pairs = [(a.score, b.score) for a, b in zip(baseline, other, strict=True)]
    return pairs.count((0.0, 1.0)), pairs.count((1.0, 0.0))


def right(found: Sequence[Answer]) -> int:
    return sum(answer.score == 1.0 for answer in found)
