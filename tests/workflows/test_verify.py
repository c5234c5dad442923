"""verify on real folders: every fault is made, found and named."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint.damage import flip, kinds, place, rewrite
from checkpoint.deepseek_layout import INDEX, deepseek
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flagdeploy.checkpoint.safetensors_file import read_header
from flagdeploy.errors import CheckpointError
from flagdeploy.workflows.pull import pull
from flagdeploy.workflows.verify import verify

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests/cases/verify"
TINY = ROOT / "examples/tiny_deepseek_r1/checkpoint"
FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))
NORM = "model.layers.1.input_layernorm.weight"
PROJECTION = "model.layers.1.self_attn.o_proj.weight"

Fault = Callable[[Path], None]
FAULTS: dict[str, tuple[Fault, dict[str, bool]]] = {}


def fault(**options: bool) -> Callable[[Fault], Fault]:
    """Register a function that damages a pulled folder, found with these options."""

    def add(function: Fault) -> Fault:
        FAULTS[function.__name__] = function, options
        return function

    return add


@fault()
def missing_shard(folder: Path) -> None:
    (folder / SECOND).unlink()


@fault()
def torn_shard(folder: Path) -> None:
    with (folder / SECOND).open("r+b") as file:
        file.truncate(100_000)


@fault()
def torn_and_missing(folder: Path) -> None:
    torn_shard(folder)
    (folder / THIRD).unlink()


@fault()
def renamed_shards(folder: Path) -> None:
    (folder / SECOND).rename(folder / "x")
    (folder / THIRD).rename(folder / SECOND)
    (folder / "x").rename(folder / THIRD)


@fault()
def shard_of_another_revision_with_other_shapes(folder: Path) -> None:
    rewrite(folder, SECOND, **{NORM: torch.ones(300).bfloat16()})


@fault()
def the_same_where_nothing_is_recorded(folder: Path) -> None:
    (folder / "flagdeploy.json").unlink()
    shard_of_another_revision_with_other_shapes(folder)


@fault(hashes=True)
def shard_of_another_revision_with_the_same_shapes(folder: Path) -> None:
    tensors = deepseek(seed=1).shards[SECOND]
    save_file(tensors, folder / SECOND, metadata={"format": "pt"})


@fault(hashes=True)
def one_bit(folder: Path) -> None:
    path, start = place(folder, PROJECTION)
    flip(path, start + 1000)


@fault(hashes=True, nan=True)
def nan_in_a_weight_and_a_scale(folder: Path) -> None:
    path, start = place(folder, NORM)
    flip(path, start + 14, 0xFF)
    with path.open("r+b") as file:
        file.seek(start + 2 * 7)
        file.write(b"\xc0\x7f\x80\x7f")
        file.seek(place(folder, PROJECTION)[1] + 384 * 3 + 5)
        file.write(b"\xff")
    path, start = place(folder, f"{PROJECTION}_scale_inv")
    with path.open("r+b") as file:
        file.seek(start + 4)
        file.write(np.float32("-inf").tobytes())


@fault()
def scale_of_another_shape(folder: Path) -> None:
    (folder / "flagdeploy.json").unlink()
    rewrite(folder, SECOND, **{f"{PROJECTION}_scale_inv": torch.ones(1, 3)})


@fault()
def scale_lacking(folder: Path) -> None:
    (folder / "flagdeploy.json").unlink()
    name = f"{PROJECTION}_scale_inv"
    tensors = load_file(folder / SECOND)
    del tensors[name]
    save_file(tensors, folder / SECOND, metadata={"format": "pt"})
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][name]
    (folder / INDEX).write_text(json.dumps(index))


@fault()
def shard_lost_with_the_scale_of_another(folder: Path) -> None:
    """The first scale of layer 0 is in the second shard: only the shard is named."""
    (folder / "flagdeploy.json").unlink()
    (folder / SECOND).unlink()


@fault()
def interrupted(folder: Path) -> None:
    (folder / ".flagdeploy-unfinished.json").write_text("{}")


@fault()
def config_edited(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    make, options = FAULTS[name]
    folder = pull(deepseek().write(tmp_path / "hub"), to=tmp_path / "R1").folder
    assert verify(folder, **options).ok  # type: ignore[arg-type]
    make(folder)
    text = str(verify(folder, **options)).replace(str(tmp_path), "")  # type: ignore[arg-type]
    golden = CASES / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(f"{text}\n")
    assert f"{text}\n" == golden.read_text()


def test_the_model_in_the_box(tmp_path: Path) -> None:
    folder = pull(TINY, to=tmp_path / "tiny").folder
    one, two, three, four, five = sorted(path.name for path in folder.glob("*.safetensors"))
    assert verify(folder, hashes=True, nan=True).ok
    flip(folder / one, (folder / one).stat().st_size - 1)
    with (folder / two).open("r+b") as file:
        file.truncate(1_000_000)
    (folder / three).unlink()
    (folder / four).rename(folder / "x")
    (folder / five).rename(folder / four)
    (folder / "x").rename(folder / five)
    assert kinds(verify(folder, hashes=True, nan=True)) == [
        ("torn", two),
        ("missing", three),
        ("swapped", four),
        ("swapped", five),
        ("changed", one),
    ]


@pytest.fixture(scope="module")
def recorded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded")
    return pull(deepseek().write(root / "hub"), to=root / "R1").folder


@settings(max_examples=60)
@given(chance=st.randoms(use_true_random=False), mask=st.integers(1, 255))
def test_no_byte_of_the_data_changes_unnoticed(
    recorded_folder: Path, chance: random.Random, mask: int
) -> None:
    path = recorded_folder / chance.choice([FIRST, SECOND, THIRD])
    header = read_header(path)
    offset = chance.randrange(header.data_start, header.file_bytes)
    flip(path, offset, mask)
    found = verify(recorded_folder, hashes=True)
    flip(path, offset, mask)
    assert kinds(found) == [("changed", path.name)]


def test_what_is_not_complete_yet(tmp_path: Path) -> None:
    folder = deepseek().write(tmp_path / "R1")
    (folder / ".flagdeploy-unfinished.json").write_text("{}")
    (folder / INDEX).unlink()
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    assert str(caught.value) == (
        f"{folder}: is not complete: a pull or dequant into it was interrupted"
    )


def test_shards_without_a_known_hash_are_noted(tmp_path: Path) -> None:
    folder = pull(deepseek().write(tmp_path / "hub"), to=tmp_path / "R1").folder
    record = json.loads((folder / "flagdeploy.json").read_text())
    del record["files"][FIRST]
    (folder / "flagdeploy.json").write_text(json.dumps(record))
    result = verify(folder, hashes=True)
    assert result.ok
    assert result.notes == (f"flagdeploy.json has no hash of {FIRST}",)
    assert not verify(folder).notes
