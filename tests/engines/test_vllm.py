from dataclasses import replace

import pytest

from engines.conftest import ONE, R1, TWO, arguments, of
from flagdeploy.config.launch import Host
from flagdeploy.config.schema import (
    CudaGraph,
    DeepGemm,
    Endpoint,
    KvCache,
    Limits,
    Moe,
    Parallel,
    Profiler,
    RelaxedAcceptance,
    Speculative,
)


def test_every_knob_in_the_words_of_vllm(vllm):
    deployment = of(
        R1,
        model=replace(R1.model, dtype="bfloat16", trust_remote_code=True),
        weights="random",
        quantization="fp8",
        parallel=Parallel(tensor=8, expert=8),
        limits=Limits(32768, 256, 8192, 0.9),
        kv_cache=KvCache(dtype="fp8", block_size=64, block_reuse=False),
        cuda_graph=CudaGraph(batch_sizes=[1, 2, 4], max_batch_size=4),
        chunked_prefill=False,
        moe=Moe(backend="deep_gemm"),
        deep_gemm=DeepGemm(enabled=False, jit_debug=True, jit_use_nvcc=True),
        reasoning_parser="deepseek_r1",
        stream_interval=8,
        engine_args={"seed": 1},
    )
    assert vllm.problems(deployment, ONE) == []
    (command,) = vllm.commands(deployment, ONE)
    assert arguments(command) == (
        "vllm serve /models/DeepSeek-R1 --host 192.0.2.1 --port 8000"
        " --served-model-name deepseek-ai/DeepSeek-R1"
        " --tensor-parallel-size 8 --enable-expert-parallel"
        " --load-format dummy --dtype bfloat16 --trust-remote-code"
        " --max-model-len 32768 --max-num-seqs 256 --max-num-batched-tokens 8192"
        " --gpu-memory-utilization 0.9 --kv-cache-dtype fp8 --block-size 64"
        " --no-enable-prefix-caching --cudagraph-capture-sizes 1 2 4"
        " --max-cudagraph-capture-size 4 --no-enable-chunked-prefill --quantization fp8"
        " --moe-backend deep_gemm --reasoning-parser deepseek_r1 --stream-interval 8 --seed 1"
    )
    assert command.env == {
        "VLLM_USE_DEEP_GEMM": "0",
        "DG_JIT_DEBUG": "1",
        "DG_JIT_USE_NVRTC": "0",
    }


def test_bf16_cache_and_eager_mode(vllm):
    deployment = of(R1, kv_cache=KvCache(dtype="bf16"), cuda_graph=CudaGraph(enabled=False))
    words = arguments(vllm.commands(deployment, ONE)[0])
    assert words.endswith("--kv-cache-dtype bfloat16 --enforce-eager")


def test_two_hosts_without_ray(vllm):
    deployment = of(R1, parallel=Parallel(tensor=8, pipeline=2))
    first, second = vllm.commands(deployment, TWO)
    assert arguments(first).endswith(
        "--tensor-parallel-size 8 --pipeline-parallel-size 2"
        " --nnodes 2 --node-rank 0 --master-addr 192.0.2.1 --master-port 29501"
    )
    assert arguments(second).endswith(
        "--nnodes 2 --node-rank 1 --master-addr 192.0.2.1 --master-port 29501 --headless"
    )
    assert first.env == {"VLLM_HOST_IP": "192.0.2.1"}
    assert second.env == {"VLLM_HOST_IP": "192.0.2.2"}


def test_a_host_known_by_name_finds_its_own_address(vllm):
    hosts = (Host("n1", 8), Host("n2", 8))
    deployment = of(R1, parallel=Parallel(tensor=16))
    assert [command.env for command in vllm.commands(deployment, hosts)] == [{}, {}]


def test_attention_data_parallelism_over_two_hosts(vllm):
    deployment = of(R1, parallel=Parallel(tensor=16, expert=16, attention_data=True))
    assert vllm.problems(deployment, TWO) == []
    first, second = vllm.commands(deployment, TWO)
    assert arguments(first).endswith(
        "--tensor-parallel-size 1 --data-parallel-size 16 --enable-expert-parallel"
        " --data-parallel-size-local 8 --data-parallel-address 192.0.2.1"
        " --data-parallel-rpc-port 29501"
    )
    assert arguments(second).endswith("--data-parallel-start-rank 8 --headless")


def test_before_version_0_12_hosts_form_a_ray_cluster(vllm):
    deployment = of(R1, engine_version="0.8.5", parallel=Parallel(tensor=8, pipeline=2))
    first, second = vllm.commands(deployment, TWO)
    assert first.argv[0:2] == ("bash", "-c")
    assert first.argv[3:8] == ("ray-head", "192.0.2.1", "29501", "--num-gpus=8", "vllm")
    assert first.argv[-2:] == ("--distributed-executor-backend", "ray")
    assert arguments(second) == (
        "ray start --block --address=192.0.2.1:29501 --node-ip-address=192.0.2.2 --num-gpus=8"
    )
    cambricon = replace(deployment, vendor="cambricon")
    assert vllm.commands(cambricon, TWO)[1].argv[-1] == '--resources={"MLU":8}'


def test_speculative_decoding(vllm):
    mtp = of(R1, speculative=Speculative(method="mtp", num_tokens=2))
    assert vllm.commands(mtp, ONE)[0].argv[-2:] == (
        "--speculative-config",
        '{"method":"mtp","num_speculative_tokens":2}',
    )
    eagle = of(R1, speculative=Speculative("eagle3", 3, draft_checkpoint="/models/draft"))
    assert vllm.commands(eagle, ONE)[0].argv[-1] == (
        '{"method":"eagle3","num_speculative_tokens":3,"model":"/models/draft"}'
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"parallel": Parallel(tensor=8, expert=4)},
            ("parallel.expert", "vLLM spreads experts over TP x DP = 8 x 1 = 8 devices: "
             "set 1 or 8"),
        ),
        (
            {"model": replace(R1.model, precision="w4a8")},
            ("model.precision", "vLLM does not read DeepSeek's W4AFP8 format: use SGLang or "
             "TensorRT-LLM, or a compressed-tensors checkpoint (quantization)"),
        ),
        (
            {"model": replace(R1.model, precision="bf16"), "quantization": "fp8"},
            ("quantization", "fp8 on a BF16 checkpoint was removed in vLLM 0.33: use "
             "fp8_per_block"),
        ),
        (
            {"speculative": Speculative("mtp", relaxed_acceptance=RelaxedAcceptance())},
            ("speculative.relaxed_acceptance",
             "vLLM: acceptance of draft tokens is always strict"),
        ),
        (
            {"speculative": Speculative("eagle3", eagle_topk=4, draft_checkpoint="/d")},
            ("speculative.eagle_topk", "vLLM's draft is a chain: leave it at 1"),
        ),
        (
            {"parallel": Parallel(tensor=8, data=3)},
            ("parallel.data", "3 replicas of 8 devices on 2 hosts: every host needs the same "
             "number of whole replicas"),
        ),
    ],
)  # fmt: skip
def test_refusals(vllm, changes, problem):
    assert problem in vllm.problems(of(R1, **changes), TWO)


def test_the_endpoint_address(vllm):
    everywhere = of(R1, endpoint=Endpoint(host="0.0.0.0", port=9010))
    assert "--host 0.0.0.0 --port 9010" in arguments(vllm.commands(everywhere, ONE)[0])
    local = of(R1, launcher="local")
    assert "--host 127.0.0.1 " in arguments(vllm.commands(local, ONE)[0])


def test_the_profiler_has_a_flag_since_0_13_and_a_variable_before(vllm):
    profiled = of(R1, profiler=Profiler("/traces"))
    assert (
        "--profiler-config.profiler torch --profiler-config.torch_profiler_dir /traces "
        "--profiler-config.torch_profiler_with_stack false"
    ) in arguments(vllm.commands(profiled, ONE)[0])
    older = vllm.commands(of(profiled, engine_version="0.12"), ONE)[0]
    assert "profiler" not in arguments(older)
    assert older.env["VLLM_TORCH_PROFILER_DIR"] == "/traces"
    assert older.env["VLLM_TORCH_PROFILER_WITH_STACK"] == "0"
    own = of(R1, engine_args={"profiler-config": {"profiler": "cuda"}})
    what = "is set by flagdeploy: use `profiler.folder`"
    assert ("engine_args.profiler-config", what) in vllm.problems(own, ONE)
    assert "profiler" not in arguments(vllm.commands(R1, ONE)[0])
