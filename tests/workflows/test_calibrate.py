"""`calibrate` on the model in the box: what the experts get, as `dequant --to w4afp8` takes it."""

import hashlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from flagdeploy import __version__
from flagdeploy.errors import CheckpointError, FlagdeployError, UsageError
from flagdeploy.records.events import Event
from flagdeploy.workflows.calibrate import Calibration, calibrate
from flagdeploy.workflows.dequant import dequant

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny_deepseek_r1"
CHECKPOINT = EXAMPLE / "checkpoint"
COUNT = 12


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "questions.jsonl"
    lines = (EXAMPLE / "questions" / "gsm8k.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:COUNT]))
    return path


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dequant(CHECKPOINT, "bf16", tmp_path_factory.mktemp("bf16") / "bf16").folder


@pytest.fixture(scope="module")
def calibrated(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    return calibrate(CHECKPOINT, prompts, tmp_path_factory.mktemp("out") / "act_scales.safetensors")


class Inputs(TorchFunctionMode):
    """The largest input of every product with a slice of the experts' weights."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.scales: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self._names: dict[int, tuple[str, ...]] = {}
        for layer in (1, 2):
            experts = model.model.layers[layer].mlp.experts
            for number in range(8):
                prefix = f"model.layers.{layer}.mlp.experts.{number}"
                inner, outer = experts.gate_up_proj[number], experts.down_proj[number]
                self._names[inner.data_ptr()] = (f"{prefix}.w1", f"{prefix}.w3")
                self._names[outer.data_ptr()] = (f"{prefix}.w2",)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.linear:
            for name in self._names.get(args[1].data_ptr(), ()):
                scale = float(args[0].abs().max() / 448)
                key = f"{name}.input_scale"
                self.scales[key] = max(self.scales.get(key, 0.0), scale)
                self.tokens[key] = self.tokens.get(key, 0) + len(args[0])
        return function(*args, **(kwargs or {}))


def independent(folder: Path, prompts: Path) -> Inputs:
    """The same from transformers alone: its model, its tokenizer, its experts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    model.set_experts_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad(), Inputs(model) as inputs:
        for line in prompts.read_text().splitlines():
            message = {"role": "user", "content": json.loads(line)["question"]}
            ids = tokenizer.apply_chat_template([message], add_generation_prompt=True)
            model(input_ids=torch.tensor([ids["input_ids"]]))
    return inputs


def test_scales_are_those_of_an_independent_run(
    calibrated: Calibration, bf16: Path, prompts: Path
) -> None:
    expected = independent(bf16, prompts)
    found = load_file(calibrated.file)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(
        expected.scales, (1,)
    )
    values = {name: float(value) for name, value in found.items()}
    assert values == pytest.approx(expected.scales, rel=1e-5)
    for name, value in values.items():
        assert value == values[name.replace(".w3.", ".w1.")] or ".w2." in name
    counts = {
        f"model.layers.{layer}.mlp.experts.{expert}.w{which}.input_scale": count
        for layer, experts in calibrated.tokens_of.items()
        for expert, count in enumerate(experts)
        for which in (1, 2, 3)
    }
    assert counts == expected.tokens


def test_what_the_file_says_of_itself(calibrated: Calibration, prompts: Path) -> None:
    with safe_open(calibrated.file, "pt") as file:
        metadata = file.metadata()
    names = ["config.json", *sorted(path.name for path in CHECKPOINT.glob("*.safetensors"))]
    sums = "".join(
        f"{hashlib.sha256((CHECKPOINT / name).read_bytes()).hexdigest()}  {name}\n"
        for name in names
    )
    counts = calibrated.tokens_of
    assert json.loads(metadata.pop("tokens_per_expert")) == {
        str(layer): {"min": min(counts[layer]), "max": max(counts[layer]), "without": []}
        for layer in (1, 2)
    }
    assert metadata == {
        "format": "pt",
        "tool": f"flagdeploy calibrate {__version__}",
        "model_sha256": hashlib.sha256(sums.encode()).hexdigest(),
        "prompts_sha256": hashlib.sha256(prompts.read_bytes()).hexdigest(),
        "prompts": str(COUNT),
        "tokens": str(calibrated.tokens),
        "max_tokens_per_prompt": "",
        "chat_template": "true",
        "dtype": "float32",
    }
    assert calibrated.warning is None
    assert calibrated.to_dict()["model_sha256"] == metadata["model_sha256"]


def test_dequant_takes_the_file(calibrated: Calibration, tmp_path: Path) -> None:
    folder = dequant(CHECKPOINT, "w4afp8", tmp_path / "w4", act_scales=calibrated.file).folder
    found, given = load_file(folder / "act_scales.safetensors"), load_file(calibrated.file)
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) for name in given)


def modelopt(path: Path, scales: dict[str, torch.Tensor], ranks: int) -> Path:
    """The folder that ptq.py would leave on `ranks` GPUs: an expert belongs to one of them."""
    path.mkdir()
    for rank in range(ranks):
        amax = {}
        for name, scale in scales.items():
            _, _, layer, _, _, expert, which, _ = name.split(".")
            if int(expert) * ranks // 8 == rank:
                key = f"layers.{layer}.ffn.experts.{expert}.{which}.input_quantizer._amax"
                amax[key] = scale[0] * 448
        torch.save(amax, path / f"amax_dict_rank{rank}-mp{ranks}.pt")
    return path


def test_dequant_takes_the_folder_of_model_optimizer(
    calibrated: Calibration, tmp_path: Path
) -> None:
    given = load_file(calibrated.file)
    amax = modelopt(tmp_path / "amax", given, 4)
    folder = dequant(CHECKPOINT, "w4afp8", tmp_path / "w4", act_scales=amax).folder
    found = load_file(folder / "act_scales.safetensors")
    assert found.keys() == given.keys()
    for name in given:
        torch.testing.assert_close(found[name], given[name])


def test_amax_that_differ_between_w1_and_w3_are_refused(
    calibrated: Calibration, tmp_path: Path
) -> None:
    """Model-Optimizer's own scripts assert that they are equal: they are of one input."""
    name = "model.layers.2.mlp.experts.5"
    changed = load_file(calibrated.file) | {f"{name}.w3.input_scale": torch.tensor([9.0])}
    amax = modelopt(tmp_path / "amax", changed, 2)
    with pytest.raises(CheckpointError, match=rf"{name}\.w1 and w3: differ, though they share"):
        dequant(CHECKPOINT, "w4afp8", tmp_path / "w4", act_scales=amax)
    assert not (tmp_path / "w4").exists()


def test_twice_gives_the_same_bytes_from_fp8_and_from_bf16_the_same_scales(
    calibrated: Calibration, bf16: Path, prompts: Path, tmp_path: Path
) -> None:
    again = calibrate(CHECKPOINT, prompts, tmp_path / "again.safetensors")
    assert again.file.read_bytes() == calibrated.file.read_bytes()
    over = calibrate(bf16, prompts, tmp_path / "again.safetensors")
    assert load_file(over.file) == load_file(calibrated.file)
    assert over.model_sha256 != calibrated.model_sha256
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_other_prompts_other_scales(
    calibrated: Calibration, bf16: Path, prompts: Path, tmp_path: Path
) -> None:
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(prompts.read_text().splitlines(keepends=True)[:3]))
    cases: dict[str, tuple[Path, dict[str, Any]]] = {
        "fewer": (fewer, {}),
        "raw": (prompts, {"raw": True}),
        "short": (prompts, {"max_tokens_per_prompt": 20}),
    }
    found = {"all": load_file(calibrated.file)}
    for name, (file, options) in cases.items():
        done = calibrate(bf16, file, tmp_path / f"{name}.safetensors", **options)
        found[name] = load_file(done.file)
        if name == "short":
            assert done.tokens == 20 * COUNT
    values = [tuple(float(scale) for _, scale in sorted(f.items())) for f in found.values()]
    assert len(set(values)) == len(values)
    assert all(f.keys() == found["all"].keys() for f in found.values())
    assert all(few <= all_ for few, all_ in zip(values[1], values[0], strict=True))


def test_experts_that_no_token_reached(bf16: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("2\n")
    done = calibrate(bf16, short, tmp_path / "a.safetensors", raw=True)
    assert done.tokens == 2  # BOS and a byte
    assert done.without_tokens.keys() == {1, 2}
    named = "; ".join(
        f"layer {layer}: {', '.join(map(str, experts))}"
        for layer, experts in done.without_tokens.items()
    )
    assert done.warning == (
        "no token reached these experts, which got the largest scale of their layer: "
        f"{named}; more prompts would reach them"
    )
    scales = load_file(done.file)
    for layer, unseen in done.without_tokens.items():
        for which in ("w1", "w2", "w3"):
            values = [
                float(scales[f"model.layers.{layer}.mlp.experts.{expert}.{which}.input_scale"])
                for expert in range(8)
            ]
            assert {values[expert] for expert in unseen} == {max(values)}
            assert min(values) > 0
    with safe_open(done.file, "pt") as file:
        said = json.loads(file.metadata()["tokens_per_expert"])
    assert {int(layer): row["without"] for layer, row in said.items()} == done.without_tokens


def test_progress_and_no_network(
    bf16: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def refuse(*arguments: object) -> None:
        calls.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    events: list[Event] = []
    done = calibrate(bf16, prompts, tmp_path / "a.safetensors", report=events.append)
    stages = [(event.message, event.unit) for event in events if event.done == event.total]
    assert stages == [
        ("identifying the model", "B"),
        (f"loading {bf16} in float32 on cpu", ""),
        ("running prompts", "tokens"),
    ]
    assert events[-1].total == done.tokens
    assert calls == []


@pytest.mark.parametrize("moment", ["running prompts", "to bf16"])
def test_an_interruption_leaves_nothing(prompts: Path, tmp_path: Path, moment: str) -> None:
    def interrupt(event: Event) -> None:
        if event.message == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(CHECKPOINT, prompts, tmp_path / "a.safetensors", report=interrupt)
    assert list(tmp_path.iterdir()) == []


def refusal(kind: type[FlagdeployError], *arguments: Any, **options: Any) -> tuple[str, str | None]:
    with pytest.raises(kind) as caught:
        calibrate(*arguments, **options)
    return str(caught.value), caught.value.hint


def test_prompts_beyond_the_context_are_named_by_line(bf16: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(f"short\n{'x' * 1024}\n")
    out = tmp_path / "a.safetensors"
    message = f"{path}:2: the prompt has 1025 tokens, the model takes 1024"
    hint = "cut prompts with --max-tokens-per-prompt 1024, or leave it out"
    assert refusal(UsageError, bf16, path, out, raw=True) == (message, hint)
    assert calibrate(bf16, path, out, raw=True, max_tokens_per_prompt=1024).prompts == 2


def test_prompts_that_cannot_be_rendered(bf16: Path, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    out = tmp_path / "a.safetensors"
    assert refusal(UsageError, bf16, path, out, raw=True) == (
        f"{path}:1: messages need the chat template",
        "leave --raw out",
    )
    assert calibrate(bf16, path, out).prompts == 1


def test_what_is_refused_before_any_work(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    assert refusal(UsageError, CHECKPOINT, prompts, out, dtype="int8") == (
        "--dtype int8: unknown",
        "known are float32, bfloat16, float16, auto",
    )
    assert refusal(UsageError, CHECKPOINT, prompts, out, max_tokens_per_prompt=0)[0] == (
        "--max-tokens-per-prompt 0: must be at least 1"
    )
    nowhere = tmp_path / "none" / "a.safetensors"
    assert refusal(UsageError, CHECKPOINT, prompts, nowhere)[0] == (
        f"--out {nowhere}: there is no folder {nowhere.parent}"
    )
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert refusal(UsageError, CHECKPOINT, empty, out)[0] == f"{empty}: holds no prompts"
    assert refusal(CheckpointError, tmp_path / "none", prompts, out)[0] == (
        f"{tmp_path}/none: no such folder"
    )


def test_files_of_others_are_not_replaced(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "published.safetensors"
    save_file({"a": torch.ones(1)}, out)
    for path in (out, tmp_path):
        assert refusal(UsageError, CHECKPOINT, prompts, path) == (
            f"--out {path}: holds something else",
            "remove it or name another file",
        )
    assert load_file(out).keys() == {"a"}


def test_models_without_experts(prompts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dense"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    assert refusal(CheckpointError, folder, prompts, tmp_path / "a.safetensors") == (
        f"{folder}: has no routed experts (model.layers.L.mlp.experts.E.gate_proj.weight): nothing "
        "to calibrate",
        "w4afp8 quantizes the experts of mixture-of-experts models",
    )


@pytest.mark.parametrize("module", ["torch", "transformers"])
def test_without_the_pytorch_engine(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert refusal(UsageError, CHECKPOINT, prompts, tmp_path / "a.safetensors") == (
        "calibrate runs the model in the pytorch engine, which is not installed",
        "it is an extra: pip install 'flagdeploy[pytorch]'",
    )


def test_torch_is_loaded_only_to_run_the_model(tmp_path: Path) -> None:
    code = (
        "import sys; from flagdeploy.workflows.calibrate import calibrate\n"
        "try: calibrate(sys.argv[1], sys.argv[2])\n"
        "except Exception as error: print(error)\n"
        "print({'torch', 'transformers', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(CHECKPOINT), str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r".*/none: cannot be read: .*\nset\(\)\n", done.stdout)
