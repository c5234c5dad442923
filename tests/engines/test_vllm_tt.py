from dataclasses import replace

import pytest

from engines.conftest import R1, TWO, arguments, of
from flagdeploy.config.launch import Host
from flagdeploy.config.schema import Container, KvCache, Limits, Parallel, Speculative

GALAXY = (Host("192.0.2.21", 32),)
R1_TT = of(
    R1,
    vendor="tenstorrent",
    chip="wormhole",
    parallel=Parallel(),
    mesh_shape=[4, 8],
    limits=Limits(context_length=1024),
    kv_cache=KvCache(block_size=32),
    engine_args={"tt": {"trace_mode": "none"}},
    model=replace(R1.model, weight_cache="/cache"),
    container=Container(image="tt"),
)


def test_the_fork_is_its_example_server(vllm_tt):
    deployment = replace(R1_TT, engine_version="0.10")
    assert vllm_tt.problems(deployment, GALAXY) == []
    (command,) = vllm_tt.commands(deployment, GALAXY)
    assert command.argv == (
        "python", "examples/server_example_tt.py", "--model", "deepseek-ai/DeepSeek-R1",
        "--host", "192.0.2.21", "--port", "8000",
        "--served_model_name", "deepseek-ai/DeepSeek-R1",
        "--max_model_len", "1024", "--block_size", "32",
        "--override_tt_config", '{"trace_mode":"none"}',
    )  # fmt: skip
    assert command.env == {
        "MESH_DEVICE": "(4,8)",
        "VLLM_TARGET_DEVICE": "tt",
        "VLLM_RPC_TIMEOUT": "1000000",
        "VLLM_USE_V1": "1",
        "HF_MODEL": "deepseek-ai/DeepSeek-R1",
        "ARCH_NAME": "wormhole_b0",
        "DEEPSEEK_V3_HF_MODEL": "/models/DeepSeek-R1",
        "DEEPSEEK_V3_CACHE": "/cache",
        "TT_CACHE_PATH": "/cache",
    }


def test_the_plugin_takes_its_options_as_additional_config(vllm_tt):
    (command,) = vllm_tt.commands(R1_TT, GALAXY)
    assert arguments(command).startswith("vllm serve deepseek-ai/DeepSeek-R1 --host 192.0.2.21")
    assert command.argv[-2:] == ("--additional-config", '{"tt":{"trace_mode":"none"}}')
    assert "VLLM_USE_V1" not in command.env


@pytest.mark.parametrize(
    ("changes", "key", "what"),
    [
        ({"mesh_shape": []}, "mesh_shape",
         "rows and columns of the mesh are needed, [4, 8] for a Galaxy"),
        ({"parallel": Parallel(tensor=8)}, "parallel.tensor",
         "vLLM on Tenstorrent: the mesh (mesh_shape) splits the model"),
        ({"weights": "random"}, "weights", "vLLM on Tenstorrent: its server always loads a "
         "checkpoint; only the demo of tt-metal takes random weights"),
        ({"speculative": Speculative(method="mtp")}, "speculative.method",
         "vLLM on Tenstorrent: it has no speculative decoding"),
        ({"model": R1.model}, "model.weight_cache",
         "a folder of the host is needed that keeps the converted weights"),
        ({"container": Container(image="tt", env={"DEEPSEEK_V3_CACHE": "/cache"})},
         "container.env.DEEPSEEK_V3_CACHE", "is set by flagdeploy: use `model.weight_cache`"),
        ({"vendor": "nvidia"}, "engine",
         "vLLM on Tenstorrent runs on tenstorrent, not on nvidia"),
    ],
)  # fmt: skip
def test_refusals(vllm_tt, changes, key, what):
    assert (key, what) in vllm_tt.problems(replace(R1_TT, **changes), GALAXY)


def test_several_galaxies_are_refused_with_the_reason(vllm_tt):
    assert vllm_tt.problems(R1_TT, TWO) == [
        (
            "hostfile",
            "2 hosts form one mesh through tt-run (MPI), which is not driven yet: "
            "use one Galaxy (max_hosts 1)",
        )
    ]
