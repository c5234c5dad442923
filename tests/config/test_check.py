from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.models import DEEPSEEK_R1, GPT_OSS_120B
from flagdeploy.config.check import check
from flagdeploy.config.chip import Chip
from flagdeploy.config.launch import Host
from flagdeploy.config.schema import (
    Architecture,
    Container,
    CudaGraph,
    Deployment,
    Endpoint,
    KvCache,
    Limits,
    Model,
    Operators,
    Parallel,
    Profiler,
    RelaxedAcceptance,
    Speculative,
)

H100 = Chip("H100", 79.6, ("bf16", "fp8", "w4a8"))
H200 = Chip("H200", 140.4, ("bf16", "fp8", "w4a8"))
A100 = Chip("A100-80", 79.6, ("bf16", "fp16"))
B200 = Chip("B200", 179.0, ("bf16", "fp8", "nvfp4"))
MLU590 = Chip("MLU590", None, ("bf16", "fp16", "fp32"))
ONE = (Host("192.0.2.1", 8),)
TWO = (Host("192.0.2.1", 8), Host("192.0.2.2", 8))

MODEL = Model(checkpoint="/models/r1", precision="fp8", architecture=DEEPSEEK_R1)
SOUND = Deployment(
    name="r1", model=MODEL, parallel=Parallel(tensor=8), container=Container(image="vllm:1")
)


def with_parallel(**degrees) -> Deployment:
    return replace(SOUND, parallel=Parallel(**degrees))


def test_a_sound_deployment_has_no_problem():
    assert check(SOUND, ONE, H200) == []


def test_more_devices_than_the_inventory_has():
    assert check(with_parallel(tensor=16, pipeline=2), TWO, None)[0] == (
        "parallel.tensor",
        "parallel.tensor 16 x parallel.pipeline 2 = 32 devices, "
        "but the inventory has 2 hosts x 8 = 16",
    )


def test_hosts_that_would_stand_idle():
    assert check(with_parallel(tensor=8), TWO, None) == [
        (
            "parallel.tensor",
            "parallel.tensor 8 = 8 devices, but the inventory has 2 hosts x 8 = 16: "
            "use them all, or fewer hosts with max_hosts",
        )
    ]


def test_devices_of_a_single_host_may_stand_idle():
    assert check(with_parallel(tensor=4), ONE, B200) == []


def test_hosts_of_one_deployment_are_equal():
    hosts = (Host("192.0.2.1", 8), Host("192.0.2.2", 4))
    found = check(with_parallel(tensor=4, pipeline=3), hosts, None)
    assert found == [
        ("hostfile", "hosts with different slots (8, 4): one deployment needs equal hosts")
    ]


def test_tensor_parallelism_fills_whole_hosts():
    hosts = tuple(Host(f"192.0.2.{i}", 4) for i in range(3))
    deployment = replace(with_parallel(tensor=6, pipeline=2), model=Model(checkpoint="/m"))
    assert check(deployment, hosts, None) == [
        (
            "parallel.tensor",
            "parallel.tensor 6 neither divides the 4 slots of a host nor is a multiple of them",
        )
    ]


def test_heads_that_tensor_parallelism_does_not_divide():
    deployment = with_parallel(tensor=3)
    assert check(deployment, ONE, None)[0] == (
        "parallel.tensor",
        "128 attention heads / parallel.tensor 3 = 42.67 is no whole number",
    )


def test_key_value_heads_of_grouped_query_attention():
    model = Model(checkpoint="/m", architecture=replace(GPT_OSS_120B, num_attention_heads=60))
    deployment = replace(SOUND, model=model, parallel=Parallel(tensor=6))
    assert check(deployment, ONE, None) == [
        ("parallel.tensor", "8 key-value heads and parallel.tensor 6: one must divide the other")
    ]


@pytest.mark.parametrize("tensor", [1, 2, 4, 8, 16])
def test_fp8_tensor_degrees_of_deepseek_r1(tensor):
    hosts = (Host("192.0.2.1", 64),)
    assert check(with_parallel(tensor=tensor), hosts, None) == []


@pytest.mark.parametrize(
    ("tensor", "equation"),
    [
        (32, "intermediate_size 18432 / parallel.tensor 32 = 576"),
        (64, "intermediate_size 18432 / parallel.tensor 64 = 288"),
    ],
)
def test_fp8_blocks_are_not_cut(tensor, equation):
    hosts = (Host("192.0.2.1", 64),)
    assert check(with_parallel(tensor=tensor), hosts, None) == [
        ("parallel.tensor", f"{equation} is no multiple of the FP8 block of 128")
    ]


def test_groups_of_4_bit_experts_are_not_cut():
    architecture = replace(DEEPSEEK_R1, first_k_dense_replace=0, intermediate_size=2**20,
                           moe_intermediate_size=1024, n_shared_experts=64)  # fmt: skip
    model = Model(checkpoint="/m", precision="w4a8", architecture=architecture)
    deployment = replace(SOUND, model=model, parallel=Parallel(tensor=16))
    found = check(deployment, (Host("192.0.2.1", 16),), None)
    assert found == [
        (
            "parallel.tensor",
            "moe_intermediate_size 1024 / moe TP 16 = 64 is no multiple of the FP8 block of 128",
        )
    ]


def test_bf16_has_no_blocks_to_cut():
    model = replace(MODEL, precision="bf16")
    deployment = replace(with_parallel(tensor=32), model=model)
    assert check(deployment, (Host("192.0.2.1", 32),), None) == []


def test_experts_that_expert_parallelism_does_not_divide():
    assert check(with_parallel(tensor=8, expert=6), ONE, None) == [
        ("parallel.expert", "256 experts / parallel.expert 6 = 42.67 is no whole number")
    ]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_device_equation_holds_exactly_when_the_inventory_is_filled(degrees, slots):
    """With several hosts, no problem with devices is reported if and only if all are used."""
    tensor, pipeline, data = ([*degrees, 1, 1, 1])[:3]
    hosts = tuple(Host(f"h{i}", slots) for i in range(3))
    deployment = Deployment(
        model=Model(checkpoint="/m"),
        parallel=Parallel(tensor=tensor, pipeline=pipeline, data=data),
        container=Container(image="i"),
    )
    found = [what for key, what in check(deployment, hosts, None) if "inventory" in what]
    assert (not found) == (prod((tensor, pipeline, data)) == 3 * slots)


def test_mesh_against_chips():
    deployment = replace(SOUND, parallel=Parallel(), mesh_shape=[4, 8])
    assert check(deployment, (Host("192.0.2.1", 32),), None) == []
    assert check(deployment, ONE, None) == [
        ("mesh_shape", "4 x 8 = 32 chips, but the inventory has 1 host x 8 = 8")
    ]
    assert check(replace(deployment, mesh_shape=[32]), ONE, None) == [
        ("mesh_shape", "[32]: give rows and columns, e.g. [4, 8]")
    ]


@pytest.mark.parametrize(
    ("precision", "chip", "what"),
    [
        ("fp8", MLU590, "MLU590 does not compute in FP8: `flagdeploy dequant --to bf16` makes a "
         "BF16 checkpoint"),
        ("fp8", A100, "A100-80 does not compute in FP8: `flagdeploy dequant --to bf16` makes a "
         "BF16 checkpoint"),
        ("w4a8", B200, "W4A8 (4-bit experts, FP8 activations) runs on Hopper only, not on B200"),
        ("nvfp4", H200, "NVFP4 runs on Blackwell only, not on H200"),
        ("mxfp4", MLU590, "MLU590 takes bf16, fp16, fp32, not mxfp4"),
    ],
)  # fmt: skip
def test_precision_that_the_chip_lacks(precision, chip, what):
    deployment = replace(SOUND, model=replace(MODEL, precision=precision))
    assert ("model.precision", what) in check(deployment, ONE, chip)


def test_fp8_cache_on_a_chip_without_fp8():
    model = replace(MODEL, precision="bf16")
    deployment = replace(SOUND, model=model, kv_cache=KvCache(dtype="fp8"))
    found = check(deployment, ONE, MLU590)
    assert found == [("kv_cache.dtype", "MLU590 does not compute in FP8: use bf16")]


def test_weights_that_do_not_fit_name_the_devices_needed():
    assert check(SOUND, ONE, H100) == [
        (
            "parallel.tensor",
            "fp8 weights of 626.9 GiB take 78.4 GiB on each device, more than "
            "0.9 x 79.6 = 71.6 GiB of H100: at least 16 devices are needed",
        )
    ]


def test_context_that_the_cache_does_not_hold():
    h20 = Chip("H20-96", 95.6, ("fp8",))
    deployment = replace(SOUND, limits=Limits(context_length=65536))
    assert check(deployment, ONE, h20) == [
        (
            "limits.context_length",
            "65536 tokens, but beside 78.4 GiB of weights in 0.9 x 95.6 = 86.0 GiB of H20-96 "
            "the KV cache holds 25593",
        )
    ]


def test_context_longer_than_the_model_was_made_for():
    deployment = replace(SOUND, limits=Limits(context_length=200_000))
    assert check(deployment, ONE, None) == [
        ("limits.context_length", "200000 tokens, but the model was made for 163840")
    ]


def test_a_chip_that_converts_weights_is_not_sized():
    wormhole = Chip("wormhole", 12.0, ("fp8",), converts=True)
    deployment = replace(SOUND, parallel=Parallel(), mesh_shape=[4, 8])
    assert check(deployment, (Host("192.0.2.1", 32),), wormhole) == []


def test_mtp_without_mtp_layers():
    model = replace(MODEL, architecture=replace(DEEPSEEK_R1, num_nextn_predict_layers=0))
    deployment = replace(SOUND, model=model, speculative=Speculative(method="mtp"))
    assert check(deployment, ONE, H200) == [
        (
            "speculative.method",
            "mtp needs MTP layers, but model.architecture.num_nextn_predict_layers is 0",
        )
    ]


def test_eagle_without_a_draft():
    deployment = replace(SOUND, speculative=Speculative(method="eagle3"))
    assert check(deployment, ONE, H200) == [
        ("speculative.draft_checkpoint", "eagle3 needs a draft model")
    ]


def test_relaxed_acceptance_excludes_attention_data_parallelism():
    deployment = replace(
        with_parallel(tensor=8, attention_data=True),
        speculative=Speculative(method="mtp", relaxed_acceptance=RelaxedAcceptance()),
    )
    assert check(deployment, ONE, H200) == [
        (
            "speculative.relaxed_acceptance",
            "cannot be combined with parallel.attention_data: drop one of them",
        )
    ]


def test_relaxed_acceptance_is_for_mtp_of_deepseek_r1():
    relaxed = RelaxedAcceptance(topk=0, delta=1.5)
    deployment = replace(
        SOUND,
        model=Model(checkpoint="/m", architecture=GPT_OSS_120B),
        speculative=Speculative(relaxed_acceptance=relaxed),
    )
    assert check(deployment, ONE, None) == [
        ("speculative.relaxed_acceptance", "works with speculative.method mtp, not none"),
        ("speculative.relaxed_acceptance", "works with DeepSeek-R1 only"),
        ("speculative.relaxed_acceptance.topk", "0: must be at least 1"),
        ("speculative.relaxed_acceptance.delta", "1.5: lies between 0 and 1"),
    ]


def test_every_problem_is_reported_at_once():
    deployment = replace(
        SOUND,
        parallel=Parallel(tensor=0),
        limits=Limits(context_length=0, memory_fraction=1.5),
        endpoint=Endpoint(port=0, master_port=0),
        cuda_graph=CudaGraph(batch_sizes=[1, 8], max_batch_size=4),
        chunked_prefill=False,
        chunked_prefill_size=512,
        operators=Operators(include=["mm"], exclude=["softmax"]),
        container=Container(mounts=["/a"], rank_env={"5": {}}),
        max_hosts=0,
        profiler=Profiler("traces"),
    )
    assert check(deployment, ONE, H100) == [
        ("parallel.tensor", "must be at least 1"),
        ("limits.context_length", "0: must be at least 1"),
        ("max_hosts", "0: must be at least 1"),
        ("limits.memory_fraction", "1.5: lies between 0 and 1"),
        ("endpoint.port", "0: a port lies between 1 and 65535"),
        ("endpoint.master_port", "0: a port lies between 1 and 65535"),
        ("endpoint.master_port", "0 is the port of the endpoint too"),
        ("profiler.folder", "traces: must be an absolute path, beside each rank"),
        ("cuda_graph.max_batch_size", "4, but the largest of cuda_graph.batch_sizes is 8"),
        ("chunked_prefill", "false, but chunked_prefill_size is set"),
        ("operators.exclude", "operators.include is set too: give one of them"),
        ("operators.library", "none, but operators or settings of a library are set"),
        ("container.image", "the ssh launcher runs containers: name an image"),
        ("container.mounts", "`/a`: write /SOURCE:/TARGET or /SOURCE:/TARGET:ro"),
        ("container.rank_env", "there is no rank 5: the inventory has 1 hosts"),
    ]


@pytest.mark.parametrize(
    "operators, findings",
    [
        (
            Operators(library="flaggems", include=[]),
            [
                (
                    "operators.include",
                    "an empty list switches nothing on: leave it out for all operators, or set "
                    "operators.library=none",
                )
            ],
        ),
        (
            Operators(library="flaggems", exclude=["mm", "add", "mm"]),
            [("operators.exclude", "names mm twice")],
        ),
        (
            Operators(config={"prefer": "vendor"}),
            [("operators.library", "none, but operators or settings of a library are set")],
        ),
        (Operators(library="flaggems", exclude=[]), []),
    ],
)
def test_operator_lists_that_mean_nothing(operators, findings):
    assert check(replace(SOUND, operators=operators), ONE, H200) == findings


def test_graphs_that_are_off_take_no_settings():
    off = CudaGraph(enabled=False, batch_sizes=[1], max_batch_size=1, padding=False)
    what = "is set, but cuda_graph.enabled is false: unset it"
    assert check(replace(SOUND, cuda_graph=off), ONE, H200) == [
        ("cuda_graph.batch_sizes", what),
        ("cuda_graph.max_batch_size", what),
        ("cuda_graph.padding", what),
    ]
    assert check(replace(SOUND, cuda_graph=CudaGraph(enabled=False)), ONE, H200) == []


def test_the_local_launcher_runs_here_only():
    deployment = replace(SOUND, launcher="local", container=Container())
    assert check(deployment, TWO, None) == [
        ("launcher", "local runs on this machine only, but 2 hosts are given")
    ]


def test_folders_on_hosts_are_absolute():
    deployment = replace(SOUND, model=replace(MODEL, checkpoint="models/r1"))
    assert check(deployment, ONE, None) == [
        ("model.checkpoint", "on hosts a folder is given by its absolute path")
    ]


def test_dimensions_that_are_not_given_are_not_checked():
    model = Model(checkpoint="/m", precision="fp8", architecture=Architecture())
    deployment = replace(SOUND, model=model, parallel=Parallel(tensor=7))
    assert check(deployment, ONE, H100) == []
