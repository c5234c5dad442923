"""Every row of the zoo: what was done to a deployment, and what `compare` ought to say."""

from dataclasses import dataclass

import torch

from zoo import kernels
from zoo.faults import Change, attention, drafts, requests, routing, text, weights

O_PROJ = "model.layers.1.self_attn.o_proj.weight"
KV_A = "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"
GEMS = ("add", "mul", "silu", "softmax", "bmm", "cat", "embedding", "cos", "sin", "sigmoid")


@dataclass(frozen=True)
class Row:
    """`kind`: ``fault`` (FAIL or DIFFERENT expected), ``harmless`` (PASS), ``limit`` (so mild that
    nobody can ask for more than to see what comes out) or ``proof`` (no fault: a variant whose
    verdict is the result). `options` are the server's, `asking` those of `compare`.
    `needs`: ``cuda``, ``vllm``, ``flag_gems``. `seconds` is a guess, to start long rows first.
    """

    name: str
    kind: str
    what: str
    change: Change | None = None
    checkpoint: str = "bf16"
    options: tuple[str, ...] = ()
    asking: tuple[str, ...] = ()
    engine: str = "pytorch"
    needs: tuple[str, ...] = ()
    device: str = ""
    seconds: int = 30

    @property
    def expected(self) -> str:
        return {"fault": "FAIL or DIFFERENT", "harmless": "PASS"}.get(self.kind, "to be seen")

    def as_expected(self, verdict: str) -> bool | None:
        """None for rows of which nothing is expected."""
        if self.kind == "fault":
            return verdict in ("FAIL", "DIFFERENT")
        return verdict == "PASS" if self.kind == "harmless" else None


def _fault(name: str, what: str, change: Change | None, **more: object) -> Row:
    return Row(name, "fault", what, change, **more)  # type: ignore[arg-type]


def _limit(name: str, what: str, change: Change | None, **more: object) -> Row:
    return Row(name, "limit", what, change, **more)  # type: ignore[arg-type]


def _harmless(name: str, what: str, change: Change | None = None, **more: object) -> Row:
    return Row(name, "harmless", what, change, **more)  # type: ignore[arg-type]


FAULTS = [
    # the checkpoint
    _fault(
        "scale-ignored",
        "one layer's o_proj: FP8 values taken as they are, weight_scale_inv not applied",
        weights.scale_ignored(O_PROJ),
    ),
    _fault(
        "scale-transposed",
        "the same tensor: block scales read column by column",
        weights.scale_transposed(O_PROJ),
    ),
    _fault(
        "ragged-scale",
        "kv_a_proj [576, 256]: the last 64 rows get the scale of the blocks before them",
        weights.last_scale_of_neighbour(KV_A),
    ),
    _fault(
        "shard-of-other-revision",
        "shard 3 of 5 from another revision (5 further training steps)",
        weights.revision(3),
    ),
    _fault(
        "stale-model",
        "the expected name, behind it the other revision in all shards",
        weights.revision(),
    ),
    _fault(
        "int4-rtn", "all Linears to int4, round to nearest, a scale per row", weights.rounded(4)
    ),
    _fault(
        "gate-up-swapped",
        "gate and up swapped in one layer's routed experts",
        weights.gate_and_up_swapped("layers.2."),
    ),
    _fault(
        "experts-permuted",
        "the 4 experts of one of 2 ranks each in its neighbour's place",
        weights.experts_rotated(4, 8),
    ),
    _fault("expert-negated", "one expert's down_proj negated", weights.expert_negated),
    _fault(
        "shared-expert-missing", "the shared expert adds nothing", weights.shared_expert_missing
    ),
    # routing
    _fault("routing-bias-dropped", "e_score_correction_bias is zero", routing.bias_dropped),
    _fault(
        "routing-bias-in-weights",
        "the bias also enters the experts' weights",
        routing.bias_in_weights,
    ),
    _fault("router-softmax", "softmax scores for sigmoid (DeepSeek-V2's)", routing.softmax_scores),
    _fault("top-k-more", "3 routed experts for 2", routing.configured(top_k=3)),
    _fault("top-k-fewer", "1 routed expert for 2", routing.configured(top_k=1)),
    _fault(
        "routed-scaling",
        "routed_scaling_factor ignored: 1.0 for 2.5",
        routing.configured(routed_scaling_factor=1.0),
    ),
    _fault(
        "groups-ignored",
        "experts chosen from all groups, not from the best one",
        routing.configured(num_group=1),
    ),
    _fault(
        "topk-not-normalized",
        "the chosen experts' weights not normalized (norm_topk_prob)",
        routing.configured(norm_topk_prob=False),
    ),
    # attention
    _fault("rope-theta", "rope theta 500000 for 10000", attention.rope_theta(5e5)),
    _fault(
        "rope-halves",
        "rotary pairs taken as halves (Llama's layout)",
        attention.rope_not_interleaved,
    ),
    _fault(
        "softmax-scale",
        "attention scaled by 1/sqrt(128), without the 64 rotary dimensions",
        attention.scaling((192 / 128) ** 0.5),
    ),
    _fault(
        "kv-cache-e5m2",
        "KV cache in FP8 (E5M2), scale 1",
        attention.cache_in(torch.float8_e5m2),
    ),
    _fault(
        "softmax-e4m3",
        "attention weights in FP8 (E4M3)",
        attention.softmax_in(torch.float8_e4m3fn),
    ),
    _fault("norm-epsilon", "norm epsilon 1e-3 for 1e-6 (Keras's)", attention.norm_epsilon(1e-3)),
    _fault(
        "latent-norm-ones",
        "kv_a_layernorm's weight not loaded: ones",
        attention.latent_norm_skipped,
    ),
    _fault("nan-zeroed", "one head's NaN made zeros", attention.head_zeroed(1, 2)),
    # decoding alone: prefill, and with it teacher forcing, is right
    _fault(
        "mtp-unchecked",
        "after each token 3 drafts of the MTP layer, accepted unchecked",
        drafts.accepted_unchecked(3),
    ),
    _fault(
        "mtp-unchecked-1",
        "after each token 1 draft of the MTP layer, accepted unchecked",
        drafts.accepted_unchecked(1),
    ),
    _fault(
        "positions-shifted",
        "positions one too high while decoding",
        attention.positions_shifted(1),
    ),
    _fault(
        "cache-row-mixed",
        "a sequence that moves into a freed row leaves one layer's cache behind",
        attention.freed_rows_kept(1),
    ),
    # the prompt
    _fault("template-chatml", "ChatML for DeepSeek's chat template", text.template(text.CHATML)),
    _fault("bos-doubled", "the tokenizer adds BOS to the template's", text.bos_doubled),
    _fault(
        "system-prompt",
        "a system prompt added",
        text.template_edited("{{ bos_token }}", "{{ bos_token }}You are a helpful assistant.\n"),
    ),
    _fault(
        "think-tag-missing",
        "the template ends without `<think>`",
        text.template_edited("<think>\n", ""),
    ),
    _fault(
        "tokenizer-revision", "think tags are plain text to the tokenizer", text.think_tags_as_text
    ),
    _fault("tokenizer-nfkc", "a tokenizer that normalizes (NFKC)", text.normalized),
    _fault("prompt-cut", "prompts cut to their last 128 tokens, silently", text.prompt_cut(128)),
    # the request
    _fault(
        "context-256",
        "context of 256 tokens for 1024: longer requests are refused",
        None,
        options=("--max-model-len", "256"),
    ),
    _fault("max-tokens-64", "a gateway cuts max_tokens to 64", requests.max_tokens_capped(64)),
    _fault(
        "temperature-1",
        "temperature ignored: always 1",
        requests.overridden(temperature=1.0),
    ),
    _fault(
        "temperature-0",
        "temperature ignored: always greedy",
        requests.overridden(temperature=0.0),
    ),
    _fault("stop-ignored", "stop strings ignored", requests.overridden(stop=())),
    _fault("eos-wrong", "EOS is the padding token: nothing ends", requests.ends_at(2)),
    _fault("eos-think", "`</think>` ends the answer", requests.ends_at(1, 6)),
    _fault(
        "repetition-penalty",
        "repetition_penalty 1.1 that nobody asked for (Ollama's default)",
        requests.repetition_penalty(1.1),
    ),
]

HARMLESS = [
    _harmless("fp32", "as recorded, on this machine"),
    _harmless("bf16", "computed in BF16", options=("--dtype", "bfloat16")),
    _harmless("fp16", "computed in FP16", options=("--dtype", "float16")),
    _harmless(
        "batch-12", "at most 12 sequences at once", options=("--max-num-seqs", "12"), seconds=120
    ),
    _harmless(
        "batch-256",
        "256 sequences at once",
        options=("--max-num-seqs", "256"),
        asking=("--concurrency", "256"),
    ),
    _harmless(
        "concurrency-10", "10 requests in flight", asking=("--concurrency", "10"), seconds=150
    ),
    _harmless("one-thread", "one CPU thread", options=("--threads", "1")),
    _harmless("cpu", "FP32 on the same machine's CPU", device="cpu", needs=("cuda",), seconds=200),
    _harmless("one-shard", "the checkpoint in one file", checkpoint="one-shard"),
    _harmless("many-shards", "the checkpoint in 23 files", checkpoint="many-shards"),
    _harmless("fp8-round-trip", "BF16 to FP8 blocks and back", checkpoint="fp8-bf16"),
    _harmless("tp-2", "sums in 2 BF16 parts, as TP=2 makes them", kernels.tensor_parallel(2)),
    _harmless("tp-8", "sums in 8 BF16 parts, as TP=8 makes them", kernels.tensor_parallel(8)),
    _harmless(
        "attention-expanded",
        "latents expanded at every step, not absorbed",
        kernels.expanded_attention,
        needs=("cuda",),  # 250 times the work: too slow elsewhere
        seconds=90,
    ),
    _harmless("experts-eager", "experts one by one, not grouped", kernels.experts("eager")),
    _harmless("prefill-chunks", "prefill in chunks of 32 tokens", kernels.prefill_chunks(32)),
    _harmless("tf32", "matrix products in TF32", kernels.tf32, needs=("cuda",)),
    _harmless(
        "reasoning-parser",
        "thoughts in a field of their own",
        options=("--reasoning-parser", "deepseek_r1"),
    ),
    _harmless("other-name", "served under another name", options=("--served-model-name", "r1")),
    _harmless("vllm", "vLLM 0.32 on CPU, BF16", engine="vllm", needs=("vllm",), seconds=300),
    _harmless(
        "vllm-fp32",
        "vLLM, FP32",
        engine="vllm",
        needs=("vllm",),
        options=("--dtype", "float32"),
        seconds=300,
    ),
    _harmless(
        "vllm-tp-2",
        "vLLM, tensor parallel over 2 processes",
        engine="vllm",
        needs=("vllm",),
        options=("--tensor-parallel-size", "2"),
        seconds=400,
    ),
    _harmless(
        "vllm-no-prefix-cache",
        "vLLM without prefix cache",
        engine="vllm",
        needs=("vllm",),
        options=("--no-enable-prefix-caching",),
        seconds=300,
    ),
]

LIMITS = [
    _limit(
        "kv-cache-e4m3",
        "KV cache in FP8 (E4M3), scale 1, rotary keys too",
        attention.cache_in(torch.float8_e4m3fn),
    ),
    _limit("norm-epsilon-1e-5", "norm epsilon 1e-5 for 1e-6", attention.norm_epsilon(1e-5)),
    _limit("norm-epsilon-1e-4", "norm epsilon 1e-4 for 1e-6", attention.norm_epsilon(1e-4)),
    _limit("rope-theta-10100", "rope theta 10100 for 10000", attention.rope_theta(10100.0)),
    _limit("router-bf16", "router in BF16 for FP32", routing.scores_in(torch.bfloat16)),
    _limit("router-e4m3", "router in FP8 (E4M3)", routing.scores_in(torch.float8_e4m3fn)),
    _limit("softmax-bf16", "attention weights in BF16", attention.softmax_in(torch.bfloat16)),
    _limit("int6-rtn", "all Linears to int6, a scale per row", weights.rounded(6)),
    _limit(
        "scale-transposed-mlp",
        "block scales of a dense gate_proj transposed",
        weights.scale_transposed(GATE),
    ),
    _limit("max-tokens-100", "a gateway cuts max_tokens to 100", requests.max_tokens_capped(100)),
    _limit(
        "repetition-penalty-1.05",
        "repetition_penalty 1.05 that nobody asked for",
        requests.repetition_penalty(1.05),
    ),
    _limit("temperature-0.1", "temperature 0 becomes 0.1", requests.overridden(temperature=0.1)),
]

PROOFS = [
    Row(
        "fp8-dequantized",
        "proof",
        "the FP8 checkpoint, dequantized to BF16, computed in BF16",
        options=("--dtype", "bfloat16"),
    ),
    Row("w4afp8", "proof", "converted to W4AFP8 and back to BF16", checkpoint="w4afp8-bf16"),
    Row(
        "gems-topk",
        "harmless",
        "topk from FlagGems",
        kernels.flag_gems(["topk"]),
        needs=("cuda", "flag_gems"),
    ),
    Row(
        "gems-many",
        "proof",
        "10 operators from FlagGems 5.0.2, of which some give NaN, which the server refuses to "
        "sample from: no verdict, `compare` ends with 1",
        kernels.flag_gems(GEMS),
        needs=("cuda", "flag_gems"),
    ),
]

ROWS = {row.name: row for row in [*FAULTS, *HARMLESS, *LIMITS, *PROOFS]}
