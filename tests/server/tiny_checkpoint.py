"""A random-weights DeepSeek-V3 checkpoint, small enough to be made for every test run.

Byte-level vocabulary: ids 0 to 3 are BOS, EOS, <think> and </think>, id ``4 + b`` is byte b. The
embedding of `POISON` is NaN: a prompt that holds it has non-finite logits, and no other has.
"""

import json
from pathlib import Path

POISON = "\x7f"
SPECIALS = ["<bos>", "<eos>", "<think>", "</think>"]
VOCABULARY = len(SPECIALS) + 256
CONTEXT = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'tool' %}"
    "{{ raise_exception('no tools here') }}{% endif %}"
    "[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if thinking is not defined or thinking %}<think>\n"
    "{% else %}<think>\n\n</think>\n{% endif %}{% endif %}"
)


def write_tiny_checkpoint(directory: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, DeepseekV3Config

    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=192,
        moe_intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=64,
        kv_lora_rank=64,
        qk_rope_head_dim=16,
        qk_nope_head_dim=32,
        v_head_dim=32,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.lm_head.weight *= 3
        model.lm_head.weight[len(SPECIALS) + 127 :] = 0  # nearly all output is ASCII
        model.lm_head.weight[: len(SPECIALS) + 32] = 0
        model.model.embed_tokens.weight[len(SPECIALS) + ord(POISON)] = torch.nan
    model.to(torch.bfloat16).save_pretrained(directory)
    weights = directory / "model.safetensors"
    tensors = load_file(weights)
    extra = tensors["model.layers.2.self_attn.o_proj.weight"]
    tensors["model.layers.3.self_attn.o_proj.weight"] = extra.clone()  # of the MTP layer
    save_file(tensors, weights, metadata={"format": "pt"})
    write_tokenizer(directory)


def write_tokenizer(directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {token: index for index, token in enumerate(SPECIALS)}
    vocabulary |= {letter: len(SPECIALS) + byte for byte, letter in enumerate(_byte_letters())}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    for index, token in enumerate(SPECIALS):
        tokenizer.add_tokens([AddedToken(token, special=index < 2, normalized=False)])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each byte (GPT-2's bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in printable)
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]
