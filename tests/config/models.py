"""The architectures that the tests of sizes and checks compute with."""

from flagdeploy.config.schema import Architecture

DEEPSEEK_R1 = Architecture(
    model_type="deepseek_v3",
    num_hidden_layers=61,
    first_k_dense_replace=3,
    hidden_size=7168,
    intermediate_size=18432,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    n_shared_experts=1,
    num_attention_heads=128,
    num_key_value_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    vocab_size=129280,
    num_nextn_predict_layers=1,
    max_position_embeddings=163840,
)
GPT_OSS_120B = Architecture(
    model_type="gpt_oss",
    num_hidden_layers=36,
    hidden_size=2880,
    intermediate_size=2880,
    moe_intermediate_size=2880,
    n_routed_experts=128,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=64,
    vocab_size=201088,
    max_position_embeddings=131072,
)
