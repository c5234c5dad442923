"""Which row of the table a tensor belongs to."""

import pytest

from flagdeploy.checkpoint.tensor_class import tensor_class

CLASSES = {
    "model.embed_tokens.weight": "embeddings",
    "lm_head.weight": "head",
    "model.norm.weight": "norms",
    "model.layers.3.input_layernorm.weight": "norms",
    "model.layers.3.self_attn.q_a_layernorm.weight": "norms",
    "model.layers.3.self_attn.q_a_proj.weight": "attention q_a_proj",
    "model.layers.3.self_attn.q_a_proj.weight_scale_inv": "attention q_a_proj",
    "model.layers.3.self_attn.kv_a_proj_with_mqa.weight": "attention kv_a_proj_with_mqa",
    "model.layers.3.self_attn.indexer.wq_b.weight": "attention wq_b",
    "model.layers.3.self_attn.q_proj.bias": "attention q_proj bias",
    "model.layers.3.self_attn.sinks": "attention sinks",
    "model.layers.0.mlp.gate_proj.weight": "MLP gate_proj",
    "model.layers.3.mlp.shared_experts.up_proj.weight": "shared experts up_proj",
    "model.layers.3.mlp.experts.17.down_proj.weight": "routed experts down_proj",
    "model.layers.3.mlp.experts.17.down_proj.weight_packed": "routed experts down_proj",
    "model.layers.3.mlp.experts.17.down_proj.weight_shape": "routed experts down_proj",
    "model.layers.3.mlp.experts.gate_up_proj_blocks": "routed experts gate_up_proj",
    "model.layers.3.mlp.experts.gate_up_proj": "routed experts gate_up_proj",
    "model.layers.3.mlp.gate.weight": "router",
    "model.layers.3.mlp.gate.e_score_correction_bias": "router",
    "model.layers.3.mlp.router.bias": "router",
    "model.layers.61.eh_proj.weight": "eh_proj",
    "model.layers.61.shared_head.head.weight": "head",
    "transformer.wte": "wte",
}


@pytest.mark.parametrize(("name", "expected"), CLASSES.items())
def test_classes(name: str, expected: str) -> None:
    assert tensor_class(name) == expected
