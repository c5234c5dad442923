"""MXFP4 (gpt-oss) to BF16: the pytorch engine loads it and computes what the reference computes.

The reference dequantization is that of transformers, in a checkpoint of its own. The model is a
small gpt-oss with random weights; all its layers have full attention, which is what the pytorch
engine serves.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from server.tiny_checkpoint import VOCABULARY, write_tokenizer

from flagdeploy.errors import CheckpointError
from flagdeploy.server.forward import Forward
from flagdeploy.server.model import LoadOptions, load
from flagdeploy.workflows.dequant import dequant

CONFIG = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "layer_types": ["full_attention", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 16,
        "rope_theta": 150000.0,
    },
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
MATRICES = ("gate_up_proj", "down_proj")


def write_gpt_oss(folder: Path) -> Path:
    """Random weights, the experts' as MXFP4."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    tensors = {name: t.bfloat16().contiguous() for name, t in model.state_dict().items()}
    for name in [name for name in tensors if name.endswith(MATRICES)]:
        experts, into, out = tensors.pop(name).shape
        shape = experts, out, into // 32
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stored = CONFIG | {"quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(stored))
    write_tokenizer(folder)
    return folder


def write_reference(source: Path, folder: Path) -> Path:
    """The source dequantized by transformers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_blocks")]:
        plain = name.removesuffix("_blocks")
        pair = tensors.pop(name), tensors.pop(f"{plain}_scales")
        tensors[plain] = convert_moe_packed_tensors(*pair, dtype=torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def logits(folder: Path, dtype: str) -> torch.Tensor:
    """Of a prompt and one token more, as the engine computes them."""
    from transformers import DynamicCache

    loaded = load(LoadOptions(directory=folder, dtype=dtype))
    ids = tuple(loaded.tokens.tokenizer.encode("What is 2 + 3?"))
    forward, cache = Forward(loaded, rows=1), DynamicCache(config=loaded.model.config)
    with torch.inference_mode():
        prompt, _ = forward.prefill(cache, ids, 0, all_logits=True)
        forward.cache.join(0, cache)
        following = forward.decode([int(prompt[-1].argmax())], [len(ids)])
    return torch.cat([prompt, following])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gpt_oss_computes_what_the_reference_computes(tmp_path: Path, dtype: str) -> None:
    source = write_gpt_oss(tmp_path / "gpt-oss")
    with pytest.raises(CheckpointError) as caught:
        load(LoadOptions(directory=source))
    assert str(caught.value) == (
        f"{source}/config.json: the checkpoint is quantized (mxfp4); the pytorch engine computes "
        "on plain weights"
    )
    mine = logits(dequant(source, "bf16").folder, dtype)
    assert mine.isfinite().all()
    assert mine.std() > 0.1
    assert torch.equal(mine, logits(write_reference(source, tmp_path / "reference"), dtype))
