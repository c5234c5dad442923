"""Plan BF16 to FP8 in blocks of 128 x 128, for the matrices that DeepSeek-V3 has in FP8.

Set and names: DeepSeek-V3 README_WEIGHTS.md; the indexer's: DeepSeek-V3.2. Router, embeddings,
norms, the head and MTP's projections stay as they are.
"""

import re
from collections.abc import Mapping

from flagdeploy.checkpoint.formats import SCALE, recognise
from flagdeploy.checkpoint.fp8_encode import BLOCK
from flagdeploy.checkpoint.quantize_jobs import QuantizeFp8
from flagdeploy.checkpoint.verify import Verification
from flagdeploy.errors import CheckpointError
from flagdeploy.plans.assembly import assemble
from flagdeploy.plans.conversion_plan import ConversionPlan
from flagdeploy.plans.mtp import without_mtp
from flagdeploy.plans.plain_config import plain_config
from flagdeploy.plans.recipes import Recipe, Source, all_tensors

QUANTIZATION_CONFIG = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}
_QUANTIZED = re.compile(
    r"model\.layers\.\d+\.(self_attn\.(q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|"
    r"o_proj|indexer\.wk|indexer\.wq_b)|mlp\.(shared_experts\.|experts\.\d+\.)?"
    r"(gate_proj|up_proj|down_proj))\.weight"
)


def plan_fp8(
    checkpoint: Verification, files: Mapping[str, int], *, drop_mtp: bool = False
) -> ConversionPlan:
    """Plan the quantization of a whole BF16 checkpoint; shards keep their names.

    Raises CheckpointError for another format and for a model without such matrices.
    """
    tensors = all_tensors(checkpoint)
    found = recognise(checkpoint.config, tensors)
    folder = checkpoint.index.folder
    if found.name != "bf16":
        raise CheckpointError(
            f"{folder}: is in {found}, which cannot be converted to fp8", "fp8 is made of BF16"
        )
    source = Source(checkpoint, without_mtp(checkpoint, tensors) if drop_mtp else tensors)
    chosen = {name for name in source.tensors if _is_quantized(source, name)}
    if not chosen:
        raise CheckpointError(
            f"{folder}: has none of the matrices that DeepSeek-V3 has in FP8",
            "fp8 is for models with DeepSeek's tensor names",
        )
    config = plain_config(checkpoint.config, "bf16", drop_mtp)
    return assemble(
        checkpoint,
        files,
        found,
        "fp8",
        source.by_shard(),
        lambda name: [_quantized(source, name) if name in chosen else source.copied(name)],
        config | {"quantization_config": QUANTIZATION_CONFIG},
        [drop_mtp],
        config_note=f"quantization_config of FP8 in blocks of {BLOCK} x {BLOCK}",
        verb="quantized",
    )


def _is_quantized(source: Source, name: str) -> bool:
    tensor = source.tensors[name]
    matrix = tensor.dtype == "BF16" and len(tensor.shape) == 2
    return matrix and _QUANTIZED.fullmatch(name) is not None


def _quantized(source: Source, name: str) -> Recipe:
    rows, columns = source.tensors[name].shape
    scale = name + SCALE
    blocks = -(-rows // BLOCK), -(-columns // BLOCK)

    def make(at: Mapping[str, int]) -> QuantizeFp8:
        return QuantizeFp8(name, source.extent(name), (rows, columns), at[name], at[scale])

    return Recipe({name: ("F8_E4M3", (rows, columns)), scale: ("F32", blocks)}, make)
