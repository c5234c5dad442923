"""The model in the box by every route of conversion: its weights, and how it answers.

The weights are compared to the last bit with torch's; the answers are those of the pytorch engine
to 90 of the held-out questions (30 of each kind, by content hash), and of vLLM on CPU to some of
these. All 1000, and every route: tests/benchmarks/routes.py, whose output is kept beside it.

The floor, a net loss of 4 questions: a benign difference of arithmetic loses 1 in 200 (examples/
tiny_deepseek_r1/README.md), W4AFP8 none that 1000 questions show (routes.txt); one expert of 16
negated loses 22 in 100, so 20 of 90 and 10 of 45, and anything that is garbled nearly all.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoint.published_w4afp8 import quantize
from proving_ground.image import vllm_variables
from server.running_server import KEY, RunningServer

from end_to_end import routes
from end_to_end.test_mxfp4 import write_gpt_oss
from flagdeploy.errors import CheckpointError
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.grading.plain import grade
from flagdeploy.evals.items import Item
from flagdeploy.server.model import LoadOptions, load
from flagdeploy.workflows.dequant import dequant

pytestmark = pytest.mark.timeout(900)

NET_LOSS = 4
EXPERTS = 8
FP8 = "fp8"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("routes")
    return routes.convert_all(root) | {"reference": routes.write_reference(root / "reference")}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return routes.held_out(30)


# Weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", routes.DTYPES)
def test_every_tensor_is_what_torch_makes_of_it(folders: dict[str, Path], to: str) -> None:
    assert not routes.different(routes.weights(folders[to]), routes.reference(routes.DTYPES[to]))


def test_codes_come_back_as_they_were(folders: dict[str, Path]) -> None:
    """FP8 to BF16 and to FP8 again changes scales by a rounding to BF16, and no code."""
    first, again = routes.weights(routes.CHECKPOINT), routes.weights(folders["fp8 again"])
    changed = routes.different(first, again)
    assert all(name.endswith(routes.SCALE) for name in changed), changed
    for name in changed:
        torch.testing.assert_close(again[name], first[name], rtol=2**-8, atol=0)


@pytest.mark.parametrize("layout", ["", " for vllm"])
def test_integers_are_those_of_the_published_algorithm(
    folders: dict[str, Path], layout: str
) -> None:
    expected = routes.reference(torch.bfloat16)
    for name in expected:
        if ".mlp.experts." in name and not name.startswith("model.layers.3."):
            numbers, scale = quantize(expected[name])
            scale = scale.bfloat16().float() if layout else scale
            exact = numbers.float() * scale.repeat_interleave(128, dim=1)
            expected[name] = exact.bfloat16()
    for source in ("", " of bf16"):
        found = routes.weights(folders[f"w4afp8{layout}{source} > bf16"])
        assert not routes.different(found, expected), source


@pytest.mark.parametrize("route", [name for name in routes.ROUTES if "without MTP" in name])
def test_without_mtp_the_others_stay(folders: dict[str, Path], route: str) -> None:
    whole = routes.hidden(folders[route.replace(" without MTP", "")])
    found = routes.weights(folders[route])
    assert not routes.different(found, whole)


def test_what_each_route_costs(folders: dict[str, Path]) -> None:
    exact = routes.reference(torch.float32)
    error = {
        name: routes.relative_error(exact, routes.weights(folder), ".mlp.experts.")
        for name, folder in folders.items()
        if name == "reference" or name.endswith("bf16") or name in routes.DTYPES
        if not name.startswith("w4afp8") or ">" in name
    }
    for name, value in error.items():
        print(f"{name:36} {value:.6f}")
    assert error["fp32"] == 0
    # A quarter of the last place of BF16 (2^-8) in the mean; FP16 has three bits more.
    assert error["reference"] == error["bf16"] == pytest.approx(0.00163, rel=0.02)
    assert error["fp16"] == pytest.approx(error["bf16"] / 8, rel=0.02)
    assert error["fp8 again > bf16"] < 2 * error["bf16"]
    # Steps of max/7 of 128 weights: 1/sqrt(12) of a step is 12% of their size.
    for name in (name for name in error if name.startswith("w4afp8")):
        assert error[name] == pytest.approx(0.1195, rel=0.001), name


# The pytorch engine -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "stated"),
    [
        (FP8, "config.json: the checkpoint is quantized (fp8)"),
        ("fp8 again", "config.json: the checkpoint is quantized (fp8)"),
        (
            "w4afp8",
            "hf_quant_config.json: the checkpoint is quantized "
            "(MIXED_PRECISION of FP8_BLOCK_SCALES and W4A8_AWQ)",
        ),
        (
            "w4afp8 of bf16",
            "hf_quant_config.json: the checkpoint is quantized (MIXED_PRECISION of W4A8_AWQ)",
        ),
        (
            "w4afp8 for vllm",
            "config.json: the checkpoint is quantized (compressed-tensors mixed-precision)",
        ),
        (
            "w4afp8 for vllm of bf16",
            "config.json: the checkpoint is quantized (compressed-tensors pack-quantized)",
        ),
    ],
)
def test_pytorch_says_what_it_does_not_load(
    folders: dict[str, Path], route: str, stated: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(LoadOptions(directory=folders[route]))
    assert str(caught.value) == (
        f"{folders[route]}/{stated}; the pytorch engine computes on plain weights"
    )
    assert caught.value.hint == "convert it first: flagdeploy dequant --to bf16"


SERVED = ("reference", "bf16", "fp16", "fp32", "fp8 again > bf16", "w4afp8 > bf16")


@pytest.fixture(scope="module")
def in_pytorch(folders: dict[str, Path], items: list[Item]) -> dict[str, list[Answer]]:
    def answers(name: str) -> list[Answer]:
        server = RunningServer(folders[name], "--max-num-seqs", "64")
        try:
            return routes.answers(f"http://127.0.0.1:{server.port}", items, key=KEY)
        finally:
            server.stop()

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SERVED, pool.map(answers, SERVED), strict=True))


def test_bf16_answers_as_the_reference_word_for_word(in_pytorch: dict[str, list[Answer]]) -> None:
    texts = {name: [answer.content for answer in in_pytorch[name]] for name in SERVED}
    assert texts["bf16"] == texts["reference"]
    assert routes.right(in_pytorch["reference"]) >= 70  # 86.7% of all 1000


@pytest.mark.parametrize("name", SERVED[2:])
def test_pytorch_answers_as_precision_allows(
    in_pytorch: dict[str, list[Answer]], name: str
) -> None:
    better, worse = routes.discordant(in_pytorch["reference"], in_pytorch[name])
    print(f"{name}: {routes.right(in_pytorch[name])} of 90 right, +{better} -{worse}")
    assert worse - better <= NET_LOSS


# vLLM on CPU ------------------------------------------------------------------------------------

W4A16 = "w4afp8 for vllm of bf16, as W4A16"
# What vLLM 0.32 says of what it does not load on a CPU. Where one of these ends, the README and
# the column of this route in tests/benchmarks/routes.txt are to be written anew.
NO_FP8 = (
    "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer. Reasons: \n"
    "CPUFp8W8A8BlockScaledMMKernel requires AMX tile support (Sapphire Rapids or newer)..\n"
    "CPUFp8BlockScaledMMKernel requires AMX tile support (Sapphire Rapids or newer).."
)
NO_W4A8 = (
    "NotImplementedError: No W4A8 MoE backend supports the deployment configuration: "
    "CutlassExpertsW4A8Fp8: kernel does not support current device cpu"
)
REASONS = {
    "fp8": NO_FP8,
    # Of TensorRT-LLM's format it takes the activation scales for weights.
    "w4afp8": "KeyError: 'layers.1.mlp.experts.0.w1.input_scale'",
    "w4afp8 for vllm": NO_FP8,
    "w4afp8 for vllm of bf16": NO_W4A8,
    # DeepSeek's routing is one that its INT4 kernel for CPUs does not have.
    W4A16: "NotImplementedError: No WNA16 MoE backend supports the deployment configuration.",
    "gpt-oss": "NotImplementedError: No MXFP4 MoE backend supports the deployment configuration.",
}
IN_VLLM = {"bf16": 45, "fp16": 15, "fp32": 15, "w4afp8 > bf16": 45}
PLACES = ("w4afp8 for vllm", "w4afp8 for vllm of bf16")


def reasons() -> dict[str, str]:
    if "amx_tile" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        return REASONS
    known = {name: reason for name, reason in REASONS.items() if reason != NO_FP8}
    del known["gpt-oss"]  # AMX has a kernel for it
    return known | {"w4afp8 for vllm": NO_W4A8}


@pytest.fixture(scope="module")
def in_vllm(
    folders: dict[str, Path],
    items: list[Item],
    vllm_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """What became of every task of vllm_loads.py, by name."""
    root = tmp_path_factory.mktemp("vllm")
    gpt_oss = write_gpt_oss(root / "gpt-oss")
    more = {W4A16: as_w4a16(folders["w4afp8 for vllm of bf16"], root / "w4a16")}
    more |= {"gpt-oss": gpt_oss, "gpt-oss > bf16": dequant(gpt_oss, "bf16").folder}
    tasks = [task(name, (folders | more)[name], items[:15]) for name in (*REASONS, *more)]
    tasks += [task(name, folders[name], items[:count]) for name, count in IN_VLLM.items()]
    for name in PLACES:
        placed = {"name": f"{name}, places", "places": str(root / f"{name}.pt")}
        tasks.append(task(name, folders[name], []) | placed)
    script = Path(__file__).with_name("vllm_loads.py")
    done = subprocess.run(
        [str(vllm_folder / "bin" / "python"), str(script)],
        input="".join(json.dumps(one) + "\n" for one in tasks),
        env={name: os.environ[name] for name in ("HOME", "PATH")} | vllm_variables(vllm_folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    for name in PLACES:
        assert "error" not in results[f"{name}, places"], results[f"{name}, places"]
        results[f"{name}, places"]["tensors"] = torch.load(root / f"{name}.pt")
    return results


def as_w4a16(source: Path, folder: Path) -> Path:
    """The same integers for kernels that leave activations in BF16."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"] = None
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def task(name: str, folder: Path, items: Sequence[Item]) -> dict[str, Any]:
    """With the settings of serve/vllm_cpu.yaml."""
    text = (routes.EXAMPLE / "serve" / "vllm_cpu.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    dtypes = {"fp16": "float16", "fp32": "float32"}
    return {
        "name": name,
        "folder": str(folder),
        "dtype": dtypes.get(name, settings["model"]["dtype"]),
        "engine_args": settings["engine_args"],
        "prompts": [item.messages[0]["content"] for item in items],
        "max_tokens": 160,
    }


def test_what_vllm_does_not_load_on_a_cpu_and_why(in_vllm: dict[str, dict[str, Any]]) -> None:
    errors = {name: result["error"] for name, result in in_vllm.items() if "error" in result}
    expected = reasons()
    assert {name: e[: len(expected.get(name, e))] for name, e in errors.items()} == expected


@pytest.mark.parametrize("name", IN_VLLM)
def test_vllm_answers_as_precision_allows(
    in_vllm: dict[str, dict[str, Any]],
    in_pytorch: dict[str, list[Answer]],
    items: list[Item],
    name: str,
) -> None:
    texts = in_vllm[name]["texts"]
    graded = [
        grade(item.shape, text, item.gold, "stop").score == 1.0
        for item, text in zip(items, texts, strict=False)
    ]
    exact = [answer.score == 1.0 for answer in in_pytorch["reference"][: len(graded)]]
    print(f"{name}: {sum(graded)} of {len(graded)} right, {sum(exact)} with the pytorch engine")
    assert len(graded) == IN_VLLM[name]
    assert sum(exact) - sum(graded) <= NET_LOSS


def test_vllm_answers_with_gpt_oss_in_bf16(in_vllm: dict[str, dict[str, Any]]) -> None:
    texts = in_vllm["gpt-oss > bf16"]["texts"]
    assert len(texts) == 15
    assert all(texts)


@pytest.mark.parametrize("name", PLACES)
def test_vllm_finds_a_place_for_every_integer(
    in_vllm: dict[str, dict[str, Any]], folders: dict[str, Path], name: str
) -> None:
    """Where its kernel for Hopper reads: the CPU has none, but the loader is the same."""
    placed, stored = in_vllm[f"{name}, places"]["tensors"], routes.weights(folders[name])
    for layer in (1, 2):
        prefix = f"model.layers.{layer}.mlp.experts."
        for kind in ("weight_packed", "weight_scale"):

            def part(
                expert: int, module: str, ending: str = f"{prefix}{{}}.{{}}_proj.{kind}"
            ) -> Any:
                return stored[ending.format(expert, module)]

            both = [torch.cat([part(e, "gate"), part(e, "up")]) for e in range(EXPERTS)]
            down = [part(e, "down") for e in range(EXPERTS)]
            assert torch.equal(placed[f"{prefix}routed_experts.w13_{kind}"], torch.stack(both))
            assert torch.equal(placed[f"{prefix}routed_experts.w2_{kind}"], torch.stack(down))
    output = "model.layers.1.self_attn.o_proj.weight"
    assert torch.equal(placed[output].view(torch.uint8), stored[output].view(torch.uint8))
