from dataclasses import replace

import pytest

from engines.conftest import ONE, R1, TWO, arguments, of
from flagdeploy.config.launch import Host
from flagdeploy.config.schema import (
    CudaGraph,
    DeepGemm,
    KvCache,
    Limits,
    Moe,
    Parallel,
    Profiler,
    Speculative,
)


def test_every_knob_in_the_words_of_sglang(sglang):
    deployment = of(
        R1,
        model=replace(R1.model, dtype="bfloat16", trust_remote_code=True),
        weights="random",
        quantization="fp8",
        parallel=Parallel(tensor=8, expert=8),
        limits=Limits(32768, 256, 16384, 0.85),
        kv_cache=KvCache(dtype="fp8", block_size=64, block_reuse=False),
        cuda_graph=CudaGraph(batch_sizes=[1, 2, 4], max_batch_size=4, padding=False),
        chunked_prefill_size=4096,
        moe=Moe(backend="deep_gemm"),
        deep_gemm=DeepGemm(enabled=True, jit_use_nvcc=True),
        reasoning_parser="deepseek_r1",
        stream_interval=500,
        engine_args={"enable_metrics": True},
    )
    assert sglang.problems(deployment, ONE) == []
    (command,) = sglang.commands(deployment, ONE)
    assert arguments(command) == (
        "python3 -m sglang.launch_server --model-path /models/DeepSeek-R1"
        " --host 192.0.2.1 --port 8000 --served-model-name deepseek-ai/DeepSeek-R1"
        " --tp-size 8 --ep-size 8 --load-format dummy --dtype bfloat16 --trust-remote-code"
        " --context-length 32768 --max-running-requests 256 --max-prefill-tokens 16384"
        " --mem-fraction-static 0.85 --kv-cache-dtype fp8_e4m3 --page-size 64"
        " --disable-radix-cache --cuda-graph-bs-decode 1 2 4 --cuda-graph-max-bs-decode 4"
        " --disable-cuda-graph-padding --chunked-prefill-size 4096 --quantization fp8"
        " --moe-runner-backend deep_gemm --reasoning-parser deepseek-r1 --stream-interval 500"
        " --enable_metrics"
    )
    assert command.env == {"SGLANG_ENABLE_JIT_DEEPGEMM": "1", "SGLANG_DG_USE_NVRTC": "0"}


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.5.4", "--tp-size 8 --dp-size 8 --enable-dp-attention --disable-cuda-graph"),
        (
            "0.5.14",
            "--tp-size 8 --dp-size 8 --enable-dp-attention --cuda-graph-backend-decode disabled",
        ),
        ("0.5.22", "--tp-size 8 --attn-dp-size 8 --cuda-graph-backend-decode disabled"),
    ],
)
def test_spellings_by_version(sglang, version, words):
    deployment = of(
        R1,
        engine_version=version,
        parallel=Parallel(tensor=8, attention_data=True),
        cuda_graph=CudaGraph(enabled=False),
    )
    assert arguments(sglang.commands(deployment, ONE)[0]).endswith(words)


def test_old_spelling_of_graph_sizes(sglang):
    graph = CudaGraph(batch_sizes=[1, 2], max_batch_size=2)
    deployment = of(R1, engine_version="0.5.13", cuda_graph=graph)
    words = arguments(sglang.commands(deployment, ONE)[0])
    assert words.endswith("--cuda-graph-bs 1 2 --cuda-graph-max-bs 2")


def test_chunked_prefill_off(sglang):
    words = arguments(sglang.commands(of(R1, chunked_prefill=False), ONE)[0])
    assert words.endswith("--chunked-prefill-size -1")


def test_two_hosts(sglang):
    deployment = of(R1, parallel=Parallel(tensor=16))
    first, second = sglang.commands(deployment, TWO)
    assert arguments(first).endswith("--nnodes 2 --node-rank 0 --dist-init-addr 192.0.2.1:29501")
    assert arguments(second).endswith("--nnodes 2 --node-rank 1 --dist-init-addr 192.0.2.1:29501")
    hosts = (Host("2001:db8::1", 8), Host("2001:db8::2", 8))
    assert sglang.commands(deployment, hosts)[1].argv[-1] == "[2001:db8::1]:29501"


def test_a_chain_of_drafts_sets_all_three_numbers(sglang):
    deployment = of(R1, speculative=Speculative(method="mtp", num_tokens=3))
    assert arguments(sglang.commands(deployment, ONE)[0]).endswith(
        "--speculative-algorithm NEXTN --speculative-num-steps 3 --speculative-eagle-topk 1"
        " --speculative-num-draft-tokens 4"
    )


def test_a_tree_of_drafts_needs_its_size(sglang):
    tree = Speculative("eagle3", num_tokens=3, eagle_topk=4, draft_checkpoint="/models/draft")
    deployment = of(R1, speculative=tree)
    assert sglang.problems(deployment, ONE) == [
        (
            "speculative.eagle_topk",
            "a tree of drafts needs its size: engine_args speculative-num-draft-tokens",
        )
    ]
    sized = replace(deployment, engine_args={"speculative-num-draft-tokens": 16})
    assert sglang.problems(sized, ONE) == []
    assert arguments(sglang.commands(sized, ONE)[0]).endswith(
        "--speculative-algorithm EAGLE3 --speculative-draft-model-path /models/draft"
        " --speculative-num-steps 3 --speculative-eagle-topk 4 --speculative-num-draft-tokens 16"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"parallel": Parallel(tensor=8, expert=16)},
            ("parallel.expert", "SGLang spreads experts inside TP: parallel.tensor 8 / "
             "parallel.expert 16 must be whole"),
        ),
        (
            {"parallel": Parallel(tensor=4, data=2, attention_data=True)},
            ("parallel.data", "SGLang replicates attention inside parallel.tensor: leave it at 1 "
             "with parallel.attention_data"),
        ),
        (
            {"engine_args": {"enable-metrics": False}},
            ("engine_args.enable-metrics",
             "SGLang's switches have no negative form: leave it out"),
        ),
    ],
)  # fmt: skip
def test_refusals(sglang, changes, problem):
    assert problem in sglang.problems(of(R1, **changes), ONE)


def test_the_folder_of_profiles(sglang):
    command = sglang.commands(of(R1, profiler=Profiler("/traces")), ONE)[0]
    assert command.env["SGLANG_TORCH_PROFILER_DIR"] == "/traces"
