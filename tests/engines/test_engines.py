"""What holds for all engines."""

from dataclasses import replace

import pytest

from engines.conftest import ONE, R1, WORKSPACE, of
from flagdeploy import engines
from flagdeploy.config import keys
from flagdeploy.config.schema import Endpoint, RelaxedAcceptance, Speculative
from flagdeploy.config.secret import Secret
from flagdeploy.engines.base import changed, knobs, neutral
from flagdeploy.errors import ConfigError

NAMES = ["pytorch", "sglang", "tensorrt_llm", "vllm", "vllm_tt"]
KEY = Secret("canary-api-key", "R1_API_KEY")


def test_engines_are_found_by_file_name():
    assert engines.names(WORKSPACE) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_mapped_handled_or_refused(name):
    engine = engines.load(name, WORKSPACE)
    assert [key for key in knobs() if not engine.knows(key)] == []


@pytest.mark.parametrize("name", NAMES)
def test_tables_name_only_keys_that_exist_and_only_once(name):
    engine = engines.load(name, WORKSPACE)
    mapped = {row.key for row in engine.table.arguments}
    places = [mapped, set(engine.table.unsupported), set(engine.handled)]
    assert set().union(*places) <= set(knobs())
    assert sum(map(len, places)) == len(set().union(*places))
    assert not any(neutral(key) for key in set().union(*places))
    for key in engine.table.owned.values():
        sections = {".".join(path) for path in keys.sections()}
        assert key.startswith("engine_args.") or key in {*knobs(), *sections}, key


@pytest.mark.parametrize("name", NAMES)
def test_what_is_unsupported_is_refused_with_the_reason(name):
    engine = engines.load(name, WORKSPACE)
    deployment = of(R1, endpoint=Endpoint(api_key=KEY), mesh_shape=[2, 4])
    found = dict(engine.problems(deployment))
    for key in ("endpoint.api_key", "mesh_shape"):
        if key in engine.table.unsupported:
            assert found[key] == f"{engine.table.title}: {engine.table.unsupported[key]}"


@pytest.mark.parametrize("name", NAMES)
def test_the_api_key_never_stands_among_the_arguments(name):
    engine = engines.load(name, WORKSPACE)
    deployment = of(R1, endpoint=Endpoint(api_key=KEY), mesh_shape=[4, 8])
    for command in engine.commands(deployment, ONE):
        assert "canary" not in " ".join(command.argv)
        assert all("canary" not in file.content for file in command.files)
        secrets = [value for value in command.env.values() if isinstance(value, Secret)]
        assert secrets == ([] if "endpoint.api_key" in engine.table.unsupported else [KEY])


def test_unknown_engine_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        engines.load("vlm", WORKSPACE)
    assert str(caught.value) == "engine: unknown engine `vlm`"
    assert caught.value.hint == "did you mean `vllm`?"


def test_a_key_counts_as_set_when_it_differs_from_the_default():
    assert changed(replace(R1, name="", vendor="cpu", container=type(R1.container)())) == {
        "model.repo": "deepseek-ai/DeepSeek-R1",
        "model.checkpoint": "/models/DeepSeek-R1",
        "model.precision": "fp8",
        "parallel.tensor": 8,
        **{
            f"model.architecture.{name}": value
            for name, value in vars(R1.model.architecture).items()
            if value not in (0, "deepseek_v3")
        },
    }


def test_relaxed_acceptance_is_set_by_its_presence():
    deployment = of(R1, speculative=Speculative(relaxed_acceptance=RelaxedAcceptance()))
    assert "speculative.relaxed_acceptance" in changed(deployment)
    assert "speculative.relaxed_acceptance" not in changed(R1)


@pytest.mark.parametrize(
    ("name", "argument", "key"),
    [
        ("vllm", "tensor_parallel_size", "parallel.tensor"),
        ("vllm", "--tensor-parallel-size", "parallel.tensor"),
        ("vllm", "nnodes", "hostfile"),
        ("vllm", "headless", "hostfile"),
        ("vllm", "master-addr", "hostfile"),
        ("vllm", "max_model_len", "limits.context_length"),
        ("vllm", "enable-prefix-caching", "kv_cache.block_reuse"),
        ("vllm", "no_enable_prefix_caching", "kv_cache.block_reuse"),
        ("vllm", "api-key", "endpoint.api_key"),
        ("sglang", "dist-init-addr", "hostfile"),
        ("sglang", "tp", "parallel.tensor"),
        ("sglang", "cuda_graph_bs", "cuda_graph.batch_sizes"),
        ("tensorrt_llm", "max_batch_size", "limits.max_num_seqs"),
        ("vllm_tt", "override_tt_config", "engine_args.tt"),
        ("pytorch", "port", "endpoint.port"),
    ],
)
def test_engine_args_may_not_set_what_has_a_key(name, argument, key):
    engine = engines.load(name, WORKSPACE)
    found = engine.problems(of(R1, engine_args={argument: 1}))
    assert (f"engine_args.{argument}", f"is set by flagdeploy: use `{key}`") in found


def test_an_argument_with_a_slip_is_noted(vllm, sglang):
    """A misspelt name would only be told by the engine, once it starts."""
    slips = {"tensor_paralel_size": 8, "compilation-config": {}, "speculative-algorithm": "x"}
    given = of(R1, engine_args=slips)
    assert vllm.notes(given) == [
        "engine_args.tensor_paralel_size is passed as it is: did you mean `parallel.tensor`?"
    ]
    given = of(R1, engine_args={"enable-dp-attention-local": True, "max-runing-requests": 1})
    assert sglang.notes(given) == [
        "engine_args.max-runing-requests is passed as it is: did you mean `limits.max_num_seqs`?"
    ]


def test_an_argument_without_a_name_is_refused(vllm):
    assert ("engine_args", "`--` is no name of an argument") in vllm.problems(
        of(R1, engine_args={"--": 1})
    )


def test_versions_outside_the_table(vllm):
    old = of(R1, engine_version="0.6.3")
    assert ("engine_version", "0.6.3: the argument table starts at 0.8") in vllm.problems(old)
    new = of(R1, engine_version="0.40.0")
    assert vllm.notes(new) == [
        "the arguments were compared with vLLM 0.33.0, not with 0.40.0: "
        "`--help` of the image decides"
    ]
    assert vllm.notes(R1) == []


def test_a_key_that_came_later_is_refused_for_older_versions(vllm):
    deployment = of(R1, engine_version="0.9.1", stream_interval=10)
    assert vllm.problems(deployment) == [
        ("stream_interval", "vLLM 0.9.1 has no argument for it (since 0.12)")
    ]


def test_an_engine_of_another_vendor(tensorrt_llm):
    deployment = of(R1, vendor="cambricon")
    assert ("engine", "TensorRT-LLM runs on nvidia, not on cambricon") in tensorrt_llm.problems(
        deployment
    )
