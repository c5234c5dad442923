"""Model-Optimizer's folders of amax: the largest of all ranks, under either naming, or refused."""

import os
from pathlib import Path

import pytest
import torch

from flagdeploy.checkpoint.act_scales import read_act_scales
from flagdeploy.checkpoint.modelopt_amax import read_amax
from flagdeploy.errors import CheckpointError

Rank = dict[str, torch.Tensor]


def amax(layer: int, expert: int, projection: str) -> str:
    return f"layers.{layer}.ffn.experts.{expert}.{projection}.input_quantizer._amax"


def rank(*experts: int) -> Rank:
    """What ptq.py with FP8_DEFAULT_CFG saves on one rank, with expert parallelism."""
    content: Rank = {}
    for expert in experts:
        for number in (1, 2, 3):
            name = amax(3, expert, f"w{number}")
            content[name] = torch.tensor(expert + (2.0 if number == 2 else 1.0)).bfloat16()
            content[name.replace("input", "weight")] = torch.tensor(0.5)
    content["layers.3.ffn.shared_experts.w1.input_quantizer._amax"] = torch.tensor(99.0)
    content["layers.0.attn.wo.input_quantizer._amax"] = torch.tensor(98.0)
    content["layers.3.ffn.experts.0.w1.weight_quantizer._scale"] = torch.ones(4, 4)
    return content


def folder(path: Path, *ranks: Rank) -> Path:
    path.mkdir(exist_ok=True)
    for number, content in enumerate(ranks):
        torch.save(content, path / f"amax_dict_rank{number}-mp{len(ranks)}.pt")
    (path / "hf_quant_config.json").write_text("{}")
    return path


def test_experts_of_all_ranks(tmp_path: Path) -> None:
    expected = {
        (3, expert, f"w{number}"): expert + (2.0 if number == 2 else 1.0)
        for expert in range(4)
        for number in (1, 2, 3)
    }
    assert read_amax(folder(tmp_path / "ep", rank(0, 1), rank(2, 3))) == expected


@pytest.mark.parametrize("order", [(1.0, 3.0, 2.0), (3.0, 1.0, 2.0), (2.0, 1.0, 3.0)])
def test_the_largest_of_all_ranks_whichever_comes_last(
    tmp_path: Path, order: tuple[float, ...]
) -> None:
    ranks = [{amax(3, 0, "w1"): torch.tensor(value)} for value in order]
    assert read_amax(folder(tmp_path / "tp", *ranks)) == {(3, 0, "w1"): 3.0}


def test_the_names_of_hugging_face(tmp_path: Path) -> None:
    prefix = "model.layers.61.mlp.experts.255"
    content = {
        f"{prefix}.gate_proj.input_quantizer._amax": torch.tensor(1.0),
        f"{prefix}.down_proj.input_quantizer._amax": torch.tensor([2.0]),
        f"{prefix}.up_proj.input_quantizer._amax": torch.tensor(1.0).half(),
    }
    expected = {(61, 255, "w1"): 1.0, (61, 255, "w2"): 2.0, (61, 255, "w3"): 1.0}
    assert read_amax(folder(tmp_path / "hf", content)) == expected


def test_scales_are_a_448th_in_fp32(tmp_path: Path) -> None:
    values = {"w1": 0.1, "w2": 448.0, "w3": 0.1}
    content = {amax(3, 0, name): torch.tensor(value) for name, value in values.items()}
    assert read_act_scales(folder(tmp_path / "a", content)) == {
        f"model.layers.3.mlp.experts.0.{name}.input_scale": float(torch.tensor(value) / 448)
        for name, value in values.items()
    }


def refusal(path: Path) -> tuple[str, str | None]:
    with pytest.raises(CheckpointError) as caught:
        read_act_scales(path)
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_amax(tmp_path: Path, bad: float) -> None:
    name = amax(3, 1, "w2")
    path = folder(tmp_path / "a", rank(0), rank(1) | {name: torch.tensor(bad)})
    assert refusal(path)[0] == f"{path}/amax_dict_rank1-mp2.pt: {name}: {bad} is not an amax"


def test_amax_beyond_fp32(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", {amax(3, 1, "w2"): torch.tensor(1e300, dtype=torch.float64)})
    assert refusal(path)[0] == (
        "model.layers.3.mlp.experts.1.w2.input_scale: an amax of 1e+300 gives no scale in FP32"
    )


def test_amax_per_channel_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", {amax(3, 1, "w2"): torch.ones(8)})
    message = f"{amax(3, 1, 'w2')}: is F32 [8], not one number of F32, BF16, F16, F64"
    assert refusal(path)[0] == f"{path}/amax_dict_rank0-mp1.pt: {message}"


def test_missing_ranks_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", *(rank(number) for number in range(4)))
    for number in (1, 3):
        (path / f"amax_dict_rank{number}-mp4.pt").unlink()
    assert refusal(path) == (
        f"{path}: lacks amax_dict_rank1-mp4.pt, amax_dict_rank3-mp4.pt: experts of those ranks "
        "would go without scales",
        "every rank of ptq.py writes one file: bring them together",
    )


def test_files_of_two_runs(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", rank(0), rank(1))
    torch.save(rank(0), path / "amax_dict_rank0-mp1.pt")
    assert refusal(path) == (
        f"{path}: has files of runs with 1 and 2 ranks",
        "keep those of one run",
    )


def test_a_rank_too_many(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", rank(0), rank(1))
    torch.save(rank(2), path / "amax_dict_rank2-mp2.pt")
    assert refusal(path)[0] == f"{path}: has amax_dict_rank2-mp2.pt beyond its 2 ranks"


def test_folders_without_calibration(tmp_path: Path) -> None:
    assert refusal(tmp_path)[0] == f"{tmp_path}: has no amax_dict_rank*-mp*.pt"
    path = folder(tmp_path / "a", {"layers.0.attn.wo.input_quantizer._amax": torch.tensor(1.0)})
    assert refusal(path)[0].startswith(f"{path}: has no input_quantizer._amax of routed experts")


class Evil:
    def __reduce__(self) -> object:
        return os.mkdir, ("EVIL",)


def test_nothing_in_a_folder_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = folder(tmp_path / "a", rank(0), rank(1))
    torch.save(rank(0) | {"layers.9.amax": Evil()}, path / "amax_dict_rank0-mp2.pt")
    assert refusal(path)[0] == (
        f"{path}/amax_dict_rank0-mp2.pt: names posix.mkdir, which is no part of a tensor"
    )
    assert not (tmp_path / "EVIL").exists()
