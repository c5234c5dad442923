"""The config.json of weights without quantization."""

from collections.abc import Mapping
from typing import Any

TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def plain_note(to: str) -> str:
    """One line about what `plain_config` does."""
    return f"{TORCH_DTYPES[to]}, without quantization_config"


def plain_config(config: Mapping[str, Any], to: str, drop_mtp: bool) -> dict[str, Any]:
    """`config` for weights stored as `to` (bf16, fp16, fp32), with or without MTP layers."""
    edited = {key: value for key, value in config.items() if key != "quantization_config"}
    # Transformers 5 renamed torch_dtype to dtype and reads both.
    edited["dtype" if "dtype" in edited else "torch_dtype"] = TORCH_DTYPES[to]
    if "dtype" in edited and "torch_dtype" in edited:
        edited["torch_dtype"] = TORCH_DTYPES[to]
    if drop_mtp:
        edited["num_nextn_predict_layers"] = 0
    return edited
