"""dequant --in-place: the source goes, nothing is ever lost, whenever it is stopped."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import Layout, deepseek
from checkpoint.moe_layout import mixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flagdeploy.checkpoint import disk, readback
from flagdeploy.checkpoint.ownership import RECORD, UNFINISHED, require_complete
from flagdeploy.errors import CheckpointError
from flagdeploy.records.events import Event
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.dequant import dequant
from flagdeploy.workflows.in_place import TREE, dequant_in_place

FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))
INDEX = "model.safetensors.index.json"
BF16 = Conversion("bf16")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def without_record(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != RECORD}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek().write(tmp_path / "R1")


def scattered(seed: int, homes: list[int]) -> Layout:
    """The tensors of a small model in up to six shards: scales lie anywhere."""
    layout = deepseek(layers=2, seed=seed)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for home, (name, tensor) in zip(homes, layout.tensors.items(), strict=False):
        shards.setdefault(f"model-{home:05d}.safetensors", {})[name] = tensor
    return Layout(shards, layout.config)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 99), homes=st.lists(st.integers(1, 6), min_size=50, max_size=50))
def test_the_folder_is_what_a_conversion_elsewhere_leaves(
    tmp_path_factory: pytest.TempPathFactory, seed: int, homes: list[int]
) -> None:
    source = scattered(seed, homes).write(tmp_path_factory.mktemp("in-place") / "R1")
    expected = contents(dequant(source).folder)
    result = dequant_in_place(source, BF16)
    assert result.outcome == "converted"
    assert without_record(contents(source)) == without_record(expected)
    record, other = (json.loads(files[RECORD]) for files in (contents(source), expected))
    assert record.pop("in_place") is True
    assert record.pop("identity") == {**other.pop("identity"), "in_place": True}
    assert record == other


@pytest.mark.parametrize("layout", ["trtllm", "vllm"])
def test_w4afp8_whose_shards_need_many_of_the_source(tmp_path: Path, layout: str) -> None:
    source = mixture().write(tmp_path / "R1")
    scales = {"act_scales": 1.0, "parts": 1} if layout == "trtllm" else {}
    conversion = Conversion("w4afp8", layout=layout, **scales)
    expected = contents(dequant(source, "w4afp8", layout=layout, **scales).folder)
    dequant_in_place(source, conversion)
    assert without_record(contents(source)) == without_record(expected)


def test_the_second_time_nothing_changes(source: Path) -> None:
    first = dequant_in_place(source, BF16)
    assert str(first) == f"{source}: 3 shard(s), 1.5 MB of bf16: 3 written in place, verified"
    before = contents(source)
    again = dequant_in_place(source, BF16)
    assert str(again) == f"{source}: is bf16 already, converted in place: no change"
    assert contents(source) == before


def test_a_dry_run_says_how_much_room_it_takes_and_touches_nothing(source: Path) -> None:
    before = contents(source)
    text = str(dequant_in_place(source, BF16, dry_run=True))
    # 463 - 245 + 415 - 220 + 614 kB, the outputs and the sources in turn; then without the last.
    assert "in place: at most 1.0 MB more than now while it runs, 652.9 kB more at the end" in text
    assert contents(source) == before


def test_a_disk_too_small_is_refused_before_anything(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(source)
    monkeypatch.setattr(disk, "free_space", lambda folder: 700_000)
    with pytest.raises(CheckpointError, match=f"{source}: needs .* the disk has 700.0 kB free"):
        dequant_in_place(source, BF16)
    assert contents(source) == before


class Stop(BaseException):
    pass


def stopped_at(source: Path, when: str) -> None:
    """Convert until file `when` of the folder is gone."""

    def report(event: Event) -> None:
        if not (source / when).exists():
            raise Stop

    with pytest.raises(Stop):
        dequant_in_place(source, BF16, report=report)


def test_a_half_converted_folder_says_so(source: Path, tmp_path: Path) -> None:
    stopped_at(source, FIRST)
    assert (source / SECOND).exists()
    assert not (source / "config.json").exists()
    assert not (source / INDEX).exists()
    for look in (require_complete, dequant, lambda folder: dequant(folder, "fp8")):
        with pytest.raises(CheckpointError) as caught:
            look(source)
        assert str(caught.value) == (
            f"{source}: is unfinished: a conversion into this folder has not ended"
        )
        assert caught.value.hint == (
            f"finish it: flagdeploy dequant --ckpt {source} --to bf16 --in-place"
        )
    with pytest.raises(CheckpointError, match="is being converted in place with other options"):
        dequant_in_place(source, Conversion("fp16"))
    assert "more than now" in str(dequant_in_place(source, BF16, dry_run=True))
    assert dequant_in_place(source, BF16).outcome == "converted"


def test_a_difference_stops_before_anything_is_deleted(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(source)
    comparing = readback.compare

    def flipped(job, source, out, *rest) -> None:
        with (out / job.name).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        comparing(job, source, out, *rest)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr("flagdeploy.workflows.in_place.compare", flipped)
        dequant_in_place(source, BF16)
    assert str(caught.value) == (
        f"{source}/{TREE}/out/{FIRST}: differs from the source when it is read back and computed "
        "again"
    )
    assert before.items() <= contents(source).items()


def test_what_is_not_ours_to_destroy_is_refused(source: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--X" / "snapshots" / "1234"
    blobs = tmp_path / "models--X" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(source, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    with pytest.raises(CheckpointError, match="is a link: deleting it would free nothing"):
        dequant_in_place(snapshot, BF16)
    linked = tmp_path / "linked"
    shutil.copytree(source, linked, copy_function=os.link)
    with pytest.raises(CheckpointError, match="is a link: deleting it would free nothing"):
        dequant_in_place(linked, BF16)
    shutil.rmtree(linked)
    (source / "consolidated.bin").touch()
    with pytest.raises(CheckpointError) as caught:
        dequant_in_place(source, BF16)
    assert str(caught.value) == (
        f"{source}: holds other weights, which would stay: consolidated.bin"
    )
    assert caught.value.hint == (
        "move them away, or convert to a folder of its own: leave --in-place out"
    )
    with pytest.raises(CheckpointError, match="none: no such folder"):
        dequant_in_place(tmp_path / "none", BF16)
    assert not (tmp_path / "none").exists()


def test_an_output_damaged_after_its_source_was_freed_is_named(source: Path) -> None:
    stopped_at(source, FIRST)
    (source / TREE / "out" / FIRST).unlink()
    with pytest.raises(CheckpointError, match="is damaged, and a shard it was made of is freed"):
        dequant_in_place(source, BF16)


EVERY_MOMENT = """
import os, shutil, sys
from pathlib import Path
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.in_place import dequant_in_place

source, work = Path(sys.argv[1]), Path(sys.argv[2])
os.fsync = os.fdatasync = lambda descriptor: None  # what a killed process wrote is not lost
NAMES = "fsync fdatasync replace unlink pwrite truncate ftruncate mkdir rmdir utime".split()

def contents():
    files = (path for path in work.rglob("*") if path.is_file())
    return {path.relative_to(work): path.read_bytes() for path in files}

def dying_at(moment):
    left = [moment]
    def counted(function):
        def call(*given, **named):
            left[0] -= 1
            if not left[0]:
                os._exit(9)
            return function(*given, **named)
        return call
    for name in NAMES:
        setattr(os, name, counted(getattr(os, name)))

def fresh():
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(source, work)

def child(moment):
    pid = os.fork()
    if not pid:
        try:
            dying_at(moment)
            dequant_in_place(work, Conversion("bf16"), workers=1)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

fresh()
dequant_in_place(work, Conversion("bf16"))
expected = contents()
moment = 1
while True:
    fresh()
    code = child(moment)
    assert code in (0, 9), code
    if not code:
        break
    if moment % 3 == 0:  # and once more while it goes on
        assert child(1 + moment * 7 % 11) in (0, 9)
    assert child(0) == 0, moment
    assert contents() == expected, moment
    moment += 1
print(moment)
"""


def test_killed_before_every_single_change_of_the_disk(tmp_path: Path) -> None:
    source = deepseek(layers=1).write(tmp_path / "R1")
    command = [sys.executable, "-c", EVERY_MOMENT, str(source), str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 100
    assert not (source / UNFINISHED).exists()
