from dataclasses import replace

import pytest
import yaml

from engines.conftest import ONE, R1, TWO, arguments, of
from flagdeploy.config.schema import (
    Container,
    CudaGraph,
    DeepGemm,
    KvCache,
    Limits,
    Moe,
    Parallel,
    RelaxedAcceptance,
    Speculative,
)

SSH = ["/etc/flagdeploy/ssh:/root/.ssh:ro"]


def options(command) -> dict:
    (file,) = command.files
    assert file.path == "/etc/flagdeploy/options.yaml"
    return yaml.safe_load(file.content)


def test_every_knob_stands_in_the_options_file_and_nowhere_else(tensorrt_llm):
    deployment = of(
        R1,
        model=replace(R1.model, dtype="bfloat16", trust_remote_code=True),
        weights="random",
        parallel=Parallel(tensor=8, expert=8, attention_data=True),
        limits=Limits(8192, 161, 1160, 0.95),
        kv_cache=KvCache(dtype="fp8", block_size=64, block_reuse=False),
        cuda_graph=CudaGraph(enabled=True, batch_sizes=[1, 2, 4], padding=True),
        moe=Moe(backend="CUTLASS", max_num_tokens=16384),
        chunked_prefill=False,
        deep_gemm=DeepGemm(False, jit_debug=True, jit_use_nvcc=True, jit_dump_cubin=True),
        reasoning_parser="deepseek_r1",
        stream_interval=10,
        engine_args={"print_iter_log": True, "kv_cache_config": {"host_cache_size": 1024}},
    )
    assert tensorrt_llm.problems(deployment, ONE) == []
    (command,) = tensorrt_llm.commands(deployment, ONE)
    assert arguments(command) == (
        "trtllm-serve /models/DeepSeek-R1 --host 192.0.2.1 --port 8000"
        " --extra_llm_api_options /etc/flagdeploy/options.yaml --reasoning_parser deepseek-r1"
    )
    assert options(command) == {
        "load_format": "DUMMY",
        "dtype": "bfloat16",
        "trust_remote_code": True,
        "tensor_parallel_size": 8,
        "moe_expert_parallel_size": 8,
        "enable_attention_dp": True,
        "max_batch_size": 161,
        "max_num_tokens": 1160,
        "max_seq_len": 8192,
        "kv_cache_config": {
            "dtype": "fp8",
            "free_gpu_memory_fraction": 0.95,
            "tokens_per_block": 64,
            "enable_block_reuse": False,
            "host_cache_size": 1024,
        },
        "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4]},
        "moe_config": {"backend": "CUTLASS", "max_num_tokens": 16384},
        "enable_chunked_prefill": False,
        "stream_interval": 10,
        "print_iter_log": True,
    }
    assert command.env == {
        "TRTLLM_DG_ENABLED": "0",
        "TRTLLM_DG_JIT_DEBUG": "1",
        "TRTLLM_DG_JIT_USE_NVCC": "1",
        "TRTLLM_DG_JIT_DUMP_CUBIN": "1",
    }


def test_graphs_off_is_a_null(tensorrt_llm):
    deployment = of(R1, cuda_graph=CudaGraph(enabled=False))
    assert options(tensorrt_llm.commands(deployment, ONE)[0])["cuda_graph_config"] is None


def test_the_options_flag_by_version(tensorrt_llm):
    deployment = of(R1, engine_version="1.3.0rc5")
    assert "--config" in tensorrt_llm.commands(deployment, ONE)[0].argv


def test_mtp_with_relaxed_acceptance(tensorrt_llm):
    relaxed = RelaxedAcceptance(topk=15, delta=0.5)
    deployment = of(R1, speculative=Speculative("mtp", 3, relaxed_acceptance=relaxed))
    assert options(tensorrt_llm.commands(deployment, ONE)[0])["speculative_config"] == {
        "decoding_type": "MTP",
        "num_nextn_predict_layers": 3,
        "use_relaxed_acceptance_for_thinking": True,
        "relaxed_topk": 15,
        "relaxed_delta": 0.5,
    }


@pytest.mark.parametrize(
    ("version", "config"),
    [
        ("1.2.1", {"decoding_type": "Eagle", "speculative_model_dir": "/models/draft"}),
        ("1.3.0", {"decoding_type": "Eagle3", "speculative_model": "/models/draft"}),
    ],
)
def test_eagle3_with_its_draft(tensorrt_llm, version, config):
    deployment = of(
        R1,
        engine_version=version,
        speculative=Speculative("eagle3", 3, draft_checkpoint="/models/draft"),
    )
    found = options(tensorrt_llm.commands(deployment, ONE)[0])["speculative_config"]
    assert found == {**config, "max_draft_len": 3}


def test_two_hosts_under_mpirun(tensorrt_llm):
    container = Container(image="i", mounts=SSH, env={"NCCL_DEBUG": "INFO"})
    deployment = of(
        R1,
        parallel=Parallel(tensor=16, expert=8),
        deep_gemm=DeepGemm(enabled=True),
        container=container,
    )
    assert tensorrt_llm.problems(deployment, TWO) == []
    first, second = tensorrt_llm.commands(deployment, TWO)
    assert first.argv[:18] == (
        "mpirun", "-H", "192.0.2.1:8,192.0.2.2:8",
        "-mca", "plm_rsh_args", "-p 29501 -o ConnectionAttempts=120",
        "--allow-run-as-root", "-n", "16", "-x", "NCCL_DEBUG", "-x", "TRTLLM_DG_ENABLED",
        "trtllm-llmapi-launch", "trtllm-serve", "/models/DeepSeek-R1", "--host", "192.0.2.1",
    )  # fmt: skip
    assert second.argv[:2] == ("bash", "-c")
    assert 'sshd -D -e -p "$1"' in second.argv[2]
    assert second.argv[3:] == ("sshd", "29501")
    assert second.files == first.files


def test_the_server_is_called_after_its_folder(tensorrt_llm):
    assert tensorrt_llm.served_name(R1) == "DeepSeek-R1"
    named = of(R1, model=replace(R1.model, served_name="r1-prod"))
    assert tensorrt_llm.problems(named, ONE) == [
        (
            "model.served_name",
            "TensorRT-LLM serves a folder under its own name, which is DeepSeek-R1",
        )
    ]


def test_known_accuracy_issue_is_noted(tensorrt_llm):
    deployment = of(
        R1,
        parallel=Parallel(tensor=8, attention_data=True),
        speculative=Speculative(method="mtp"),
    )
    note = "MTP with attention DP and CUDA graphs has known accuracy issues"
    assert tensorrt_llm.notes(deployment) == [note]
    eager = replace(deployment, cuda_graph=CudaGraph(enabled=False))
    assert tensorrt_llm.notes(eager) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"parallel": Parallel(tensor=8, expert=16)},
            ("parallel.expert", "TP = MoE TP x EP: parallel.tensor 8 / parallel.expert 16 must "
             "be whole"),
        ),
        (
            {"parallel": Parallel(tensor=4, data=2)},
            ("parallel.data", "TensorRT-LLM: one server is one replica; run several and balance "
             "between them"),
        ),
        (
            {"kv_cache": KvCache(dtype="bf16")},
            ("kv_cache.dtype", "TensorRT-LLM does not take bf16: leave it out, BF16 is its "
             "default for BF16 activations"),
        ),
        (
            {"chunked_prefill": True, "limits": Limits(max_num_batched_tokens=1000)},
            ("limits.max_num_batched_tokens", "1000 is no multiple of the KV block of 32, which "
             "chunked prefill needs"),
        ),
        (
            {"speculative": Speculative("eagle", draft_checkpoint="/d")},
            ("speculative.method", "TensorRT-LLM takes EAGLE3 drafts only: use eagle3 or mtp"),
        ),
        (
            {"launcher": "local"},
            ("launcher", "TensorRT-LLM is started in its container: use ssh"),
        ),
        (
            {"engine_args": {"kv_cache_config": {"dtype": "fp8"}}},
            ("engine_args.kv_cache_config.dtype", "is set by flagdeploy: use `kv_cache.dtype`"),
        ),
        (
            {"engine_args": {"speculative_config": {"decoding_type": "MTP"}}},
            ("engine_args.speculative_config",
             "is set by flagdeploy: use `speculative.method`"),
        ),
    ],
)  # fmt: skip
def test_refusals(tensorrt_llm, changes, problem):
    assert problem in tensorrt_llm.problems(of(R1, **changes), ONE)


def test_two_hosts_need_a_key_pair(tensorrt_llm):
    deployment = of(R1, parallel=Parallel(tensor=16))
    assert tensorrt_llm.problems(deployment, TWO) == [
        (
            "container.mounts",
            "several hosts talk through mpirun over SSH: mount the folder with the key pair at "
            "/root/.ssh (see the multi-host example)",
        )
    ]
