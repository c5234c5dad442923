"""The vendors' own converters: what the shipped tables make of a deployment, and refuse."""

from dataclasses import replace

import pytest

from engines.conftest import R1, of
from flagdeploy.config.launch import File, StageCommand
from flagdeploy.config.schema import Container, Deployment, Parallel, Stage, Stages

TT_METAL = "/home/container_app_user/tt-metal"
ENVIRONMENT = {
    "ARCH_NAME": "wormhole_b0",
    "MESH_DEVICE": "TG",
    "TT_METAL_HOME": TT_METAL,
    "PYTHONPATH": TT_METAL,
}
GALAXY = of(
    R1,
    vendor="tenstorrent",
    chip="wormhole",
    mesh_shape=[4, 8],
    parallel=Parallel(),
    container=Container(image="tt"),
    model=replace(
        R1.model,
        source="/models/R1",
        checkpoint="/models/R1-bf16",
        weight_cache="/cache",
        precision="bf16",
    ),
    stages=Stages(
        checkpoint=Stage(converter="dequantize_hf_checkpoint"),
        weight_cache=Stage(converter="demo"),
    ),
)
MOE = "quantize_mixed_precision_moe"
HOPPER = of(
    R1,
    model=replace(R1.model, source="/models/R1", checkpoint="/models/R1-w4a8", precision="w4a8"),
    stages=Stages(checkpoint=Stage(converter=MOE, args={"act_scales": "/models/act_scales"})),
)


def with_stage(deployment: Deployment, **changes) -> Deployment:
    stage = replace(deployment.stages.checkpoint, **changes)
    return replace(deployment, stages=replace(deployment.stages, checkpoint=stage))


def test_tenstorrents_stages_in_order(vllm_tt):
    checkpoint, cache = vllm_tt.stages(GALAXY)
    assert checkpoint == StageCommand(
        stage="checkpoint",
        converter="dequantize_hf_checkpoint",
        image="tt",
        argv=(
            f"{TT_METAL}/python_env/bin/python",
            "models/demos/deepseek_v3/scripts/dequantize_hf_checkpoint.py",
            "--input-dir", "/models/R1", "--output-dir", "/models/R1-bf16", "--dtype", "bfloat16",
        ),
        source="/models/R1",
        product="/models/R1-bf16",
        disk=2.0,
        env=ENVIRONMENT,
        workdir=TT_METAL,
        corrections={"quantization_config": None},
    )  # fmt: skip
    assert (cache.source, cache.product, cache.devices) == ("/models/R1-bf16", "/cache", True)
    assert cache.argv[1:] == (
        "models/demos/deepseek_v3/demo/demo.py", "1", "--model-path", "/models/R1-bf16",
        "--cache-dir", "/cache", "--max-new-tokens", "1",
    )  # fmt: skip
    assert cache.expects == ("61_layers/mesh_4x8/config.json",)


def test_no_stage_without_a_converter_and_none_for_random_weights(vllm_tt, tensorrt_llm):
    assert tensorrt_llm.stages(R1) == ()
    assert vllm_tt.stages(replace(GALAXY, weights="random")) == ()


@pytest.mark.parametrize(
    ("shape", "name"), [([4, 8], "TG"), ([8, 8], "DUAL"), ([8, 16], "QUAD"), ([1, 8], "1x8")]
)
def test_the_demo_knows_meshes_by_name(vllm_tt, shape, name):
    _, cache = vllm_tt.stages(replace(GALAXY, mesh_shape=shape))
    assert cache.env["MESH_DEVICE"] == name


def test_tensorrt_llms_converter_as_one_process(tensorrt_llm):
    (command,) = tensorrt_llm.stages(HOPPER)
    assert command.argv == (
        "python", "examples/quantization/quantize_mixed_precision_moe.py",
        "--model_dir", "/models/R1", "--output_dir", "/models/R1-w4a8",
        "--act_scales", "/models/act_scales",
    )  # fmt: skip
    assert command.inputs == ("/models/act_scales",)
    assert command.expects == ("hf_quant_config.json", "quant_cfg.json")
    assert command.devices


def test_tensorrt_llms_converter_in_parts(tensorrt_llm):
    args = {"act_scales": "/models/act scales", "parts": 2}
    (command,) = tensorrt_llm.stages(with_stage(HOPPER, args=args))
    assert command.argv == ("sh", "/etc/flagdeploy/convert.sh")
    assert command.files == (
        File(
            "/etc/flagdeploy/convert.sh",
            "for part in 0 1; do\n"
            "    python examples/quantization/quantize_mixed_precision_moe.py"
            " --model_dir /models/R1 --output_dir /models/R1-w4a8"
            " --act_scales '/models/act scales' --parts 2 --rank \"$part\" &\n"
            '    pids="$pids $!"\n'
            "done\n"
            'for pid in $pids; do wait "$pid" || failed=1; done\n'
            "exit ${failed:-0}\n",
        ),
    )


def test_an_image_of_its_own(tensorrt_llm):
    (command,) = tensorrt_llm.stages(with_stage(HOPPER, image="nvcr.io/other:1"))
    assert command.image == "nvcr.io/other:1"


def test_the_shipped_stages_have_no_problems(vllm_tt, tensorrt_llm):
    assert vllm_tt.problems(GALAXY) == []
    assert tensorrt_llm.problems(HOPPER) == []


@pytest.mark.parametrize(
    ("changes", "key", "what"),
    [
        ({"converter": "quantise"}, "stages.checkpoint.converter",
         f"TensorRT-LLM has no `quantise`; known: {MOE}"),
        ({"args": {}}, "stages.checkpoint.args.act_scales", f"{MOE} does not run without it"),
        ({"args": {"act_scales": "scales"}}, "stages.checkpoint.args.act_scales",
         "`scales`: an absolute path on the hosts is needed"),
        ({"args": {"act_scales": "/a", "parts": 0}}, "stages.checkpoint.args.parts",
         "0: a whole number from 1 on is needed"),
        ({"args": {"act_scales": "/a", "rank": 1}}, "stages.checkpoint.args.rank",
         "is set by flagdeploy"),
        ({"args": {"act_scales": "/a", "output-dir": "/b"}}, "stages.checkpoint.args.output-dir",
         "is set by flagdeploy"),
    ],
)  # fmt: skip
def test_refused_settings(tensorrt_llm, changes, key, what):
    assert tensorrt_llm.problems(with_stage(HOPPER, **changes)) == [(key, what)]


@pytest.mark.parametrize(
    ("changes", "key", "what"),
    [
        ({"source": "/models/R1-w4a8"}, "model.source",
         "the checkpoint stage needs the folder that it converts"),
        ({"source": "/models/R1-w4a8/fp8"}, "model.checkpoint",
         "/models/R1-w4a8 and /models/R1-w4a8/fp8 lie inside one another"),
        ({"source": "models/R1"}, "model.source",
         "`models/R1`: the checkpoint stage needs an absolute path on the hosts"),
        ({"precision": "fp8"}, "model.precision", f"{MOE} makes w4a8: set it to that"),
    ],
)  # fmt: skip
def test_refused_folders_and_precisions(tensorrt_llm, changes, key, what):
    deployment = replace(HOPPER, model=replace(HOPPER.model, **changes))
    assert tensorrt_llm.problems(deployment) == [(key, what)]


def test_a_model_that_the_converter_does_not_know(tensorrt_llm):
    architecture = replace(HOPPER.model.architecture, model_type="gpt_oss")
    deployment = replace(HOPPER, model=replace(HOPPER.model, architecture=architecture))
    assert tensorrt_llm.problems(deployment) == [
        ("stages.checkpoint.converter", f"{MOE} knows deepseek_v3, not gpt_oss")
    ]


def test_engines_without_converters_say_so(vllm):
    assert vllm.problems(with_stage(R1, converter="dequantize")) == [
        ("stages.checkpoint.converter", "vLLM has no `dequantize`; there are none"),
    ]


def test_converters_run_in_containers(tensorrt_llm):
    found = dict(tensorrt_llm.problems(replace(HOPPER, launcher="local")))
    assert found["stages.checkpoint.converter"] == (
        "runs in the vendor's container: use --launcher ssh"
    )
