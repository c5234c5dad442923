"""verify --against: conversions of any tool are recognised and computed again; every bit counts."""

import json
import random
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint.damage import flip, kinds, place, rewrite
from checkpoint.deepseek_layout import INDEX, Layout, deepseek, dequantized
from checkpoint.moe_layout import act_scales, experts, mixture
from checkpoint.published_w4afp8 import pack, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.records.events import Event
from flagdeploy.workflows.dequant import dequant
from flagdeploy.workflows.verify import verify

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests/cases/verify"
TINY = ROOT / "examples/tiny_deepseek_r1/checkpoint"
FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))
NORM = "model.layers.1.input_layernorm.weight"
PROJECTION = "model.layers.1.self_attn.o_proj.weight"


def mxfp4() -> Layout:
    torch.manual_seed(0)
    prefix = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        f"{prefix}_blocks": torch.randint(0, 256, (3, 192, 5, 16), dtype=torch.uint8),
        f"{prefix}_scales": torch.randint(110, 130, (3, 192, 5), dtype=torch.uint8),
        f"{prefix}_bias": torch.randn(3, 192).bfloat16(),
        "model.norm.weight": torch.randn(160).bfloat16(),
        "lm_head.weight": torch.randn(160, 160).bfloat16(),
    }
    config: dict[str, object] = {"quantization_config": {"quant_method": "mxfp4"}}
    return Layout({"model-00001-of-00001.safetensors": tensors}, config)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    made = {
        "fp8": mixture().write(root / "fp8"),
        "ragged": deepseek().write(root / "ragged"),
        "ue8m0": deepseek(scale_dtype=torch.float8_e8m0fnu).write(root / "ue8m0"),
        "bf16": mixture(fp8=False).write(root / "bf16"),
        "mxfp4": mxfp4().write(root / "mxfp4"),
    }
    made["w4afp8"] = dequant(made["fp8"], "w4afp8", root / "w4afp8", act_scales=1.0).folder
    return made


ROUTES: dict[str, tuple[str, str, dict[str, object]]] = {
    "fp8 > bf16": ("ragged", "bf16", {}),
    "fp8 > bf16 without MTP": ("ragged", "bf16", {"drop_mtp": True}),
    "fp8 > fp16": ("fp8", "fp16", {}),
    "fp8 > fp32": ("ragged", "fp32", {}),
    "ue8m0 > bf16": ("ue8m0", "bf16", {}),
    "bf16 > fp8": ("bf16", "fp8", {}),
    "fp8 > w4afp8": ("fp8", "w4afp8", {"act_scales": 0.5, "parts": 2}),
    "bf16 > w4afp8": ("bf16", "w4afp8", {"act_scales": 0.5, "drop_mtp": True}),
    "fp8 > w4afp8 for vLLM": ("fp8", "w4afp8", {"layout": "vllm"}),
    "mxfp4 > bf16": ("mxfp4", "bf16", {}),
    "mxfp4 > fp16": ("mxfp4", "fp16", {}),
    "w4afp8 > bf16": ("w4afp8", "bf16", {}),
    "w4afp8 > fp32": ("w4afp8", "fp32", {}),
}


@pytest.fixture(scope="module", params=ROUTES)
def route(
    request: pytest.FixtureRequest,
    sources: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, Path]:
    """Name of the target, source and converted folder of every conversion there is."""
    source, to, options = ROUTES[request.param]
    out = tmp_path_factory.mktemp("converted") / "out"
    return to, sources[source], dequant(sources[source], to, out, **options).folder  # type: ignore[arg-type]


def test_every_conversion_is_recognised_and_whole(route: tuple[str, Path, Path]) -> None:
    to, source, folder = route
    (folder / "flagdeploy.json").rename(folder / ".hidden")
    events: list[Event] = []
    result = verify(folder, source, sample=None, report=events.append)
    (folder / ".hidden").rename(folder / "flagdeploy.json")
    assert result.findings == ()
    found = result.against
    assert found
    calibrated = sum("input_scale" in name for name in load_names(folder))
    assert (found.conversion, found.compared) == (to, result.tensors - calibrated)
    assert found.tensors == found.compared
    assert all(each.identical for each in found.classes)
    assert events[-1].done == events[-1].total
    error = max(each.relative for each in found.classes)
    # One rounding of BF16, of FP16, of FP32; of FP8; of INT4.
    low, high = {
        "bf16": (0, 0.003),
        "fp16": (0, 0.003),
        "fp32": (0, 1e-7),
        "fp8": (0.01, 0.04),
        "w4afp8": (0.05, 0.15),
    }[to]
    assert low <= error < high


def load_names(folder: Path) -> list[str]:
    return [name for path in folder.glob("*.safetensors") for name in read_header(path).tensors]


def test_samples_hold_something_of_every_class(route: tuple[str, Path, Path]) -> None:
    to, source, folder = route
    everything = verify(folder, source, sample=None).against
    few = verify(folder, source, sample=len(everything.classes) + 3).against  # type: ignore[union-attr]
    assert few
    assert everything
    assert [each.name for each in few.classes] == [each.name for each in everything.classes]
    assert len(few.classes) <= few.compared <= 2 * (len(few.classes) + 3)


@settings(max_examples=8)
@given(chance=st.randoms(use_true_random=False), bit=st.integers(0, 7))
def test_no_bit_of_a_conversion_changes_unnoticed(
    route: tuple[str, Path, Path], chance: random.Random, bit: int
) -> None:
    _, source, folder = route
    path = chance.choice(sorted(folder.glob("model*.safetensors")))
    header = read_header(path)
    tensor = chance.choice([tensor for tensor in header.tensors.values() if tensor.nbytes])
    offset = header.data_start + chance.randrange(tensor.begin, tensor.end)
    flip(path, offset, 1 << bit)
    found = verify(folder, source, sample=None)
    flip(path, offset, 1 << bit)
    assert [(f.kind, f.file, f.tensor) for f in found.findings] == [
        ("differs", path.name, tensor.name)
    ]
    assert found.findings[0].what.startswith("1 of ")


def test_the_first_of_several_differences_is_named(tmp_path: Path) -> None:
    source = deepseek().write(tmp_path / "R1")
    folder = dequant(source, "bf16").folder
    path, start = place(folder, PROJECTION)  # [200, 384]
    right = path.read_bytes()[start + 2 * (384 * 150 + 9) :][:2]
    flip(path, start + 2 * (384 * 199 + 383) + 1)
    flip(path, start + 2 * (384 * 150 + 9))
    expected = int.from_bytes(right, "little")
    (finding,) = verify(folder, source, sample=None).findings
    assert str(finding) == (
        f"{SECOND}: differs: {PROJECTION}: 2 of 76800 elements, the first at [150, 9]: "
        f"0x{expected ^ 1:04x}, not 0x{expected:04x}"
    )
    path, start = place(folder, NORM)
    flip(path, start + 2 * 17 + 1)
    assert str(verify(folder, source, sample=None).findings[0]) == (
        f"{SECOND}: differs: {NORM}: 1 of 400 bytes, the first at [17]"
    )


def test_the_published_conversion_to_bf16(tmp_path: Path) -> None:
    """DeepSeek's fp8_cast_bf16: no config, no record, an index without sizes, torch's NaN."""
    layout = deepseek()
    layout.shards[FIRST]["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"].view(torch.uint8)[
        :2
    ] = 0x7F
    source = layout.write(tmp_path / "R1")
    script = runpy.run_path(str(ROOT / "tests/benchmarks/peers/fp8_cast_torch.py"))
    script["main"](source, tmp_path / "cast")
    result = verify(tmp_path / "cast", source, sample=None)
    assert [str(finding) for finding in result.findings] == [
        "config.json: missing: no engine loads without it"
    ]
    assert result.against
    assert result.against.compared == len(dequantized(layout))
    assert all(each.identical for each in result.against.classes)


def test_the_bits_of_a_nan_matter_only_where_flagdeploy_wrote_them(tmp_path: Path) -> None:
    layout = deepseek()
    layout.shards[SECOND][PROJECTION].view(torch.uint8)[5, 6] = 0x7F
    source = layout.write(tmp_path / "R1")
    folder = dequant(source, "bf16").folder
    path, start = place(folder, PROJECTION)
    flip(path, start + 2 * (5 * 384 + 6), 0x3F)
    assert [str(finding) for finding in verify(folder, source, sample=None).findings] == [
        f"{SECOND}: differs: {PROJECTION}: 1 of 76800 elements, the first at [5, 6]: "
        "0x7fff, not 0x7fc0"
    ]
    (folder / "flagdeploy.json").unlink()
    assert verify(folder, source, sample=None).ok


def published_w4afp8(folder: Path, layout: Layout) -> Path:
    """As TensorRT-LLM's script writes it: shards from zero, activation scales beside the index."""
    folder.mkdir()
    plain, tensors = dequantized(layout), dict(layout.tensors)
    for name in experts():
        numbers, scale = quantize(plain[name])
        tensors[name], tensors[f"{name}_scale_inv"] = pack(numbers), scale
    shard = "model-00000-of-00001.safetensors"
    save_file(tensors, folder / shard)
    save_file(act_scales(), folder / "act_scales.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
    (folder / INDEX).write_text(json.dumps(index))
    config = {key: value for key, value in layout.config.items() if "quant" not in key}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_published_conversion_to_w4afp8(tmp_path: Path) -> None:
    layout = mixture()
    source = layout.write(tmp_path / "R1")
    folder = published_w4afp8(tmp_path / "w4", layout)
    result = verify(folder, source, sample=None)
    assert result.findings == ()
    assert result.against
    assert result.against.conversion == "w4afp8"
    assert result.against.compared == len(load_names(folder)) - len(act_scales())
    (folder / "act_scales.safetensors").unlink()
    assert kinds(verify(folder, source)) == [("missing", "act_scales.safetensors")]
    # What the script does to the layer of multi-token prediction: in the index, in no shard.
    tensors = load_file(folder / "model-00000-of-00001.safetensors")
    last = [name for name in tensors if ".layers.4." in name]
    for name in last:
        del tensors[name]
    save_file(tensors, folder / "model-00000-of-00001.safetensors")
    assert kinds(verify(folder, source))[0] == ("foreign", "model-00000-of-00001.safetensors")


def test_tensors_that_are_missing_too_many_or_of_another_shape(tmp_path: Path) -> None:
    source = deepseek().write(tmp_path / "R1")
    layout = Layout({"model.safetensors": dequantized(deepseek())}, {"num_hidden_layers": 2})
    tensors = layout.shards["model.safetensors"]
    del tensors[NORM]
    tensors["model.layers.0.self_attn.q_a_proj.weight_scale_inv"] = torch.ones(2, 2)
    tensors[PROJECTION] = tensors[PROJECTION][:, :200].clone()
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].half()
    folder = layout.write(tmp_path / "made")
    (folder / INDEX).unlink()
    result = verify(folder, source, sample=None)
    assert sorted(map(str, result.findings)) == [
        "model.safetensors: extra: model.layers.0.self_attn.q_a_proj.weight_scale_inv: nothing of "
        "the source makes it",
        f"model.safetensors: missing: {NORM}: the source makes it",
        "model.safetensors: shape: model.embed_tokens.weight: is F16 [64, 200], not BF16 [64, 200]",
        f"model.safetensors: shape: {PROJECTION}: is BF16 [200, 200], not BF16 [200, 384]",
    ]
    assert result.against
    assert (result.against.compared, result.against.tensors) == (23, 26)


def test_a_quantization_of_another_definition_is_measured(tmp_path: Path) -> None:
    """Scales of max / 448 of each tensor instead of each block: numbers, and bits that differ."""
    layout = mixture(fp8=False)
    source = layout.write(tmp_path / "V3")
    folder = dequant(source, "fp8").folder
    name = "model.layers.0.mlp.gate_proj.weight"
    scale = layout.tensors[name].float().abs().max() / 448
    shard = place(folder, name)[0].name
    rewrite(folder, shard, **{name: (layout.tensors[name].float() / scale).to(torch.float8_e4m3fn)})
    shard = place(folder, f"{name}_scale_inv")[0].name
    rewrite(folder, shard, **{f"{name}_scale_inv": scale.expand(3, 2).clone()})
    result = verify(folder, source, sample=None)
    assert {(finding.kind, finding.tensor) for finding in result.findings} == {
        ("differs", name),
        ("differs", f"{name}_scale_inv"),
    }
    assert result.against
    errors = {each.name: each for each in result.against.classes}
    assert [each.name for each in errors.values() if not each.identical] == ["MLP gate_proj"]
    exact = layout.tensors[name].double()
    stored = (exact.float() / scale).to(torch.float8_e4m3fn).double() * scale.double()
    wrong = ((stored - exact).norm() / exact.norm()).item()
    assert errors["MLP gate_proj"].relative == pytest.approx(wrong, rel=1e-6)
    assert errors["MLP gate_proj"].worst == name


def test_a_copy_is_compared_byte_by_byte(tmp_path: Path) -> None:
    source = deepseek().write(tmp_path / "R1")
    copy = shutil.copytree(source, tmp_path / "copy")
    result = verify(copy, source, sample=None)
    assert result.ok
    assert result.against
    assert result.against.conversion == "copy"
    path, start = place(copy, PROJECTION)
    flip(path, start)
    assert [str(finding) for finding in verify(copy, source, sample=None).findings] == [
        f"{SECOND}: differs: {PROJECTION}: 1 of 76800 bytes, the first at [0, 0]"
    ]


def test_of_a_lost_shard_only_the_shard_is_named(tmp_path: Path) -> None:
    source = deepseek().write(tmp_path / "R1")
    folder = dequant(source, "bf16").folder
    (folder / SECOND).unlink()
    assert kinds(verify(folder, source, sample=None)) == [("missing", SECOND)]


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    source = deepseek().write(tmp_path / "R1")
    with pytest.raises(UsageError) as caught:
        verify(source, hashes=True)
    assert str(caught.value) == f"--hashes: no hash is known of any file in {source}"
    other = Layout({"model.safetensors": {"x.qweight": torch.ones(2, 2).int()}}).write(
        tmp_path / "q"
    )
    (other / INDEX).unlink()
    with pytest.raises(CheckpointError) as refused:
        verify(other, source)
    assert str(refused.value) == (
        f"{other}: is in gptq or awq: no conversion that can be computed again"
    )
    assert refused.value.hint == (
        f"{source} is in FP8 e4m3 in scaled blocks (DeepSeek V3, R1, V3.1, V3.2); known are "
        "conversions to BF16, FP16, FP32, FP8 in blocks, and W4AFP8 for TensorRT-LLM or vLLM"
    )
    with pytest.raises(CheckpointError, match=r"problem\(s\) in the checkpoint"):
        (source / SECOND).unlink()
        verify(other, source)
