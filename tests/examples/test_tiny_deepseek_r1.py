"""What the model in the box promises: DeepSeek's layout, a tokenizer, questions and answers."""

import importlib
import itertools
import json
import re
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flagdeploy.evals.benchmarks import load_benchmarks
from flagdeploy.evals.grading.plain import grade
from flagdeploy.evals.items import load_items

FOLDER = Path(__file__).parents[2] / "examples" / "tiny_deepseek_r1"
CHECKPOINT = FOLDER / "checkpoint"
KINDS = ("gsm8k", "mmlu", "aime")


def module(name: str) -> ModuleType:
    """A module of the example's folder, which is no package."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


def rows(kind: str) -> list[dict[str, Any]]:
    lines = (FOLDER / "questions" / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def header(shard: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, read by hand."""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        parsed: dict[str, Any] = json.loads(file.read(length))
    return parsed


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((CHECKPOINT / "config.json").read_text())
    return parsed


@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((CHECKPOINT / "model.safetensors.index.json").read_text())
    return parsed


@pytest.fixture(scope="module")
def stored() -> dict[str, dict[str, Any]]:
    """Every tensor of every shard: dtype, shape, data_offsets, and its file."""
    return {
        name: {**facts, "file": shard.name}
        for shard in sorted(CHECKPOINT.glob("*.safetensors"))
        for name, facts in header(shard).items()
        if name != "__metadata__"
    }


# The checkpoint ---------------------------------------------------------------------------------


def linears(c: dict[str, Any], layer: int) -> dict[str, tuple[int, int]]:
    """Name -> [out, in] of the weights DeepSeek quantizes in one layer (README_WEIGHTS.md)."""
    h, heads = c["hidden_size"], c["num_attention_heads"]
    nope, rope, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    shapes = {
        "self_attn.q_a_proj": (c["q_lora_rank"], h),
        "self_attn.q_b_proj": (heads * (nope + rope), c["q_lora_rank"]),
        "self_attn.kv_a_proj_with_mqa": (c["kv_lora_rank"] + rope, h),
        "self_attn.kv_b_proj": (heads * (nope + value), c["kv_lora_rank"]),
        "self_attn.o_proj": (h, heads * value),
    }
    if layer < c["first_k_dense_replace"]:
        mlps = {"mlp": c["intermediate_size"]}
    else:
        experts = [f"mlp.experts.{e}" for e in range(c["n_routed_experts"])]
        mlps = dict.fromkeys([*experts, "mlp.shared_experts"], c["moe_intermediate_size"])
    for mlp, width in mlps.items():
        shapes |= {f"{mlp}.gate_proj": (width, h), f"{mlp}.up_proj": (width, h)}
        shapes[f"{mlp}.down_proj"] = (h, width)
    return shapes


def expected(c: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Every tensor of a DeepSeek-V3 checkpoint of these sizes: dtype and shape."""
    h, vocab, main = c["hidden_size"], c["vocab_size"], c["num_hidden_layers"]
    tensors: dict[str, tuple[str, list[int]]] = {
        "model.embed_tokens.weight": ("BF16", [vocab, h]),
        "model.norm.weight": ("BF16", [h]),
        "lm_head.weight": ("BF16", [vocab, h]),
    }
    for layer in range(main + c["num_nextn_predict_layers"]):
        prefix = f"model.layers.{layer}."
        for name, (out, into) in linears(c, layer).items():
            tensors[f"{prefix}{name}.weight"] = ("F8_E4M3", [out, into])
            blocks = [-(-out // 128), -(-into // 128)]
            tensors[f"{prefix}{name}.weight_scale_inv"] = ("F32", blocks)
        norms = {"input_layernorm": h, "post_attention_layernorm": h}
        norms |= {"self_attn.q_a_layernorm": c["q_lora_rank"]}
        norms |= {"self_attn.kv_a_layernorm": c["kv_lora_rank"]}
        if layer >= main:
            norms |= {"enorm": h, "hnorm": h, "shared_head.norm": h}
            tensors[f"{prefix}eh_proj.weight"] = ("BF16", [h, 2 * h])
            tensors[f"{prefix}embed_tokens.weight"] = ("BF16", [vocab, h])
            tensors[f"{prefix}shared_head.head.weight"] = ("BF16", [vocab, h])
        tensors |= {f"{prefix}{name}.weight": ("BF16", [size]) for name, size in norms.items()}
        if layer >= c["first_k_dense_replace"]:
            experts = c["n_routed_experts"]
            tensors[f"{prefix}mlp.gate.weight"] = ("BF16", [experts, h])
            tensors[f"{prefix}mlp.gate.e_score_correction_bias"] = ("F32", [experts])
    return tensors


def test_stores_exactly_the_tensors_of_deepseek(config: Any, stored: Any) -> None:
    assert {name: (t["dtype"], t["shape"]) for name, t in stored.items()} == expected(config)


def test_keeps_deepseeks_architecture(config: Any) -> None:
    assert config["architectures"] == ["DeepseekV3ForCausalLM"]
    assert config["kv_lora_rank"] + config["qk_rope_head_dim"] == 576
    assert (config["topk_method"], config["scoring_func"]) == ("noaux_tc", "sigmoid")
    assert config["quantization_config"] == {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }


def test_divides_over_two_ranks_in_whole_blocks(config: Any) -> None:
    per_rank = [
        config["num_attention_heads"] * (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]),
        config["num_attention_heads"] * (config["qk_nope_head_dim"] + config["v_head_dim"]),
        config["num_attention_heads"] * config["v_head_dim"],
        config["intermediate_size"],
        config["moe_intermediate_size"],
    ]
    assert all(size % (2 * 128) == 0 for size in per_rank)
    assert config["vocab_size"] % 2 == 0


def test_index_agrees_with_the_shards(index: Any, stored: Any) -> None:
    assert index["weight_map"] == {name: t["file"] for name, t in stored.items()}
    sizes = [t["data_offsets"][1] - t["data_offsets"][0] for t in stored.values()]
    assert index["metadata"]["total_size"] == sum(sizes)


def test_shards_are_named_and_marked_as_deepseeks() -> None:
    shards = sorted(CHECKPOINT.glob("*.safetensors"))
    assert [s.name for s in shards] == [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
    ]
    assert len(shards) >= 4
    assert all(header(s)["__metadata__"] == {"format": "pt"} for s in shards)


def test_one_scale_lies_in_another_shard_than_its_weight(index: Any) -> None:
    where = index["weight_map"]
    apart = [n for n in where if n + "_scale_inv" in where and where[n + "_scale_inv"] != where[n]]
    assert apart == ["model.layers.1.mlp.experts.7.down_proj.weight"]


def test_folder_takes_at_most_12_mb() -> None:
    files = [p for p in FOLDER.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(p.stat().st_size for p in files) <= 12_000_000


@settings(max_examples=30)
@given(rows=st.integers(1, 300), columns=st.integers(1, 300), seed=st.integers(0, 2**16))
def test_block_quantization_is_within_half_a_step(rows: int, columns: int, seed: int) -> None:
    import torch

    fp8 = module("store_fp8")
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    quantized, scale = fp8.quantize(weight)
    assert scale.shape == (-(-rows // 128), -(-columns // 128))
    back = fp8.dequantize(quantized, scale, torch.float32)
    # E4M3 has 3 mantissa bits (relative half step 2^-4) and subnormals of 2^-9 (half: 2^-10).
    allowed = weight.abs() * 2**-4 + scale.max() * 2**-10
    assert ((back - weight).abs() <= allowed * 1.001).all()


# The tokenizer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CHECKPOINT, local_files_only=True)


@settings(max_examples=100)
@given(text=st.text())
def test_every_text_makes_the_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert max(ids, default=0) < 264


@given(text=st.text(st.characters(min_codepoint=9, max_codepoint=126)))
def test_an_ascii_character_is_one_token(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode("x" + text.replace("<", "")).copy()
    assert ids == [0, *module("make_tokenizer").text_ids("x" + text.replace("<", ""))]


def test_chat_template_opens_the_thoughts(tokenizer: Any) -> None:
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\n2</think>\n\n2"},
        {"role": "user", "content": "2+2?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<｜begin▁of▁sentence｜>S<｜User｜>1+1?<｜Assistant｜>\n\n2<｜end▁of▁sentence｜>"
        "<｜User｜>2+2?<｜Assistant｜><think>\n"
    )


def test_training_and_chat_template_agree(tokenizer: Any) -> None:
    drawn = itertools.islice(module("questions").questions(3, False, list(KINDS), [2]), 20)
    for question in drawn:
        ids, prompt = module("train").encode(question)
        turn = [{"role": "user", "content": question.prompt}]
        asked = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(ids[:prompt]) == asked
        reply = f"{question.working}\n</think>\n\n{question.final}<｜end▁of▁sentence｜>"
        assert tokenizer.decode(ids[prompt:]) == reply


def test_recipe_writes_the_same_tokenizer(tmp_path: Path) -> None:
    module("make_tokenizer").write_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (CHECKPOINT / name).read_bytes()


# The questions ----------------------------------------------------------------------------------

# The answer, worked out anew from the numbers in the text.
ANSWERS: dict[str, Any] = {
    "change": lambda n, price, paid: paid - n * price,
    "boxes": lambda first, n, size, lost: first + n * size - lost,
    "wages": lambda a, b, c, d: a * b + c * d,
    "family": lambda first, times, fewer: first * times - fewer,
    "sharing": lambda total, people, had: total // people + had,
    "linear_algebra": lambda a, b, c: (c - b) // a,
    "arithmetic": lambda a, b, c: a * b + c,
    "number_theory": lambda a, b: next(d for d in range(b, 0, -1) if a % d == b % d == 0),
    "geometry": lambda hole, a, b: a * b - hole,
    "product_remainder": lambda a, b, m: a * b % m,
    "multiples": lambda top, p, q: sum(i % p == 0 or i % q == 0 for i in range(1, top + 1)),
    "progression": lambda _, n, a, b, _c, _d: sum(a + i * (b - a) for i in range(n)) % 1000,
    "polynomial": lambda a, _, b, c, x, _m: (a * x * x + b * x + c) % 1000,
    "recurrence": lambda _, a1, _n, f, s, m, _4: (f * ((f * ((f * a1 + s) % m) + s) % m) + s) % m,
}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right(kind: str) -> None:
    for row in rows(kind):
        numbers = [int(n) for n in re.findall(r"\d+", row.get("question") or row["problem"])]
        right = str(ANSWERS[row["topic"]](*numbers))
        if kind == "mmlu":
            assert row["options"].index(right) == "ABCD".index(row["answer"])
            assert len(set(row["options"])) == 4
        else:
            assert row["answer"].split("#### ")[-1] == right
        assert kind != "aime" or 0 <= int(right) <= 999


def test_held_out_questions_are_what_the_recipe_draws(tmp_path: Path) -> None:
    q = module("questions")
    q.write_rows(tmp_path, q.HELD_OUT_SEED, q.HELD_OUT_COUNTS, q.HELD_OUT_LEVELS)
    for kind in KINDS:
        written = (tmp_path / f"{kind}.jsonl").read_bytes()
        assert written == (FOLDER / "questions" / f"{kind}.jsonl").read_bytes()
    assert sum(q.HELD_OUT_COUNTS.values()) >= 1000


def test_training_never_draws_a_held_out_question() -> None:
    q = module("questions")
    kept = itertools.islice(q.questions(q.HELD_OUT_SEED, True, ["gsm8k"], [4]), 500)
    assert {k.held_out for k in kept} == {True}
    asked = {q.row_prompt(kind, row) for kind in KINDS for row in rows(kind)}
    for question in itertools.islice(q.questions(5, False, list(KINDS), [3, 4]), 20_000):
        assert not question.held_out
        assert question.prompt not in asked


def test_split_ignores_names_and_options() -> None:
    q = module("questions")
    first = q.Question("gsm8k", "change", 1, (3, 4, 50), "Ana buys 3 pens", "", "38")
    second = q.Question("gsm8k", "change", 1, (3, 4, 50), "Tom buys 3 eggs", "", "38")
    assert first.held_out == second.held_out


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), level=st.integers(1, 4))
def test_every_line_of_the_working_holds(seed: int, kind: str, level: int) -> None:
    (question,) = itertools.islice(module("questions").questions(seed, False, [kind], [level]), 1)
    for left, right in re.findall(r"([\d+*/%-]+)=(\d+)", question.working):
        assert eval(left.replace("/", "//")) == int(right)
    assert grade(kind, f"{question.working}\n</think>\n\n{question.final}", question.answer).score


def test_benchmark_file_asks_what_was_trained() -> None:
    q = module("questions")
    for benchmark in load_benchmarks(FOLDER):
        items = load_items(benchmark)
        for row, item in zip(rows(benchmark.shape), items, strict=True):
            assert item.messages[0]["content"] == q.row_prompt(benchmark.shape, row)
            assert item.gold == q.row_answer(benchmark.shape, row)


# The answers ------------------------------------------------------------------------------------


def test_the_stored_model_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 of each kind, greedily: far from chance (the README's accuracies are 77 to 94%)."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    evaluate = module("evaluate")
    monkeypatch.setattr(DeepseekV3Attention, "forward", module("latent_decode").forward)
    model, tokenizer = evaluate.load(CHECKPOINT, "cpu")
    right = evaluate.outcomes(model, tokenizer, FOLDER / "questions", 8, 24)
    assert sum(sum(kind) for kind in right.values()) >= 17, right


def test_mcnemar_is_the_exact_binomial_test() -> None:
    mcnemar = module("evaluate").mcnemar
    first = [True] * 9 + [False] * 1 + [True] * 5
    second = [False] * 9 + [True] * 1 + [True] * 5
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(first, first) == 1.0
