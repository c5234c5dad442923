"""dequant, from folder to folder: exact, resumable at any moment, complete or not usable."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import Layout, deepseek, dequantized
from safetensors.torch import load_file, save_file

from flagdeploy.checkpoint import disk
from flagdeploy.checkpoint.ownership import RECORD, UNFINISHED
from flagdeploy.errors import CheckpointError, UsageError
from flagdeploy.records.events import Event
from flagdeploy.workflows.dequant import dequant

FIRST, SECOND, THIRD = (f"model-{i:05d}-of-000003.safetensors" for i in (1, 2, 3))
TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek().write(tmp_path / "R1")


@pytest.mark.parametrize("scale", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
@pytest.mark.parametrize("to", TORCH)
def test_files_are_those_of_the_published_algorithm(
    tmp_path: Path, to: str, scale: torch.dtype
) -> None:
    """Byte for byte what safetensors writes of the tensors that torch computes."""
    layout = deepseek(scale_dtype=scale)
    result = dequant(layout.write(tmp_path / "R1"), to)
    expected = dequantized(layout, TORCH[to])
    assert result.folder == tmp_path / f"R1-{to}"
    for shard, tensors in layout.shards.items():
        kept = {name: expected[name] for name in tensors if name in expected}
        save_file(kept, tmp_path / "expected", metadata={"format": "pt"})
        assert (result.folder / shard).read_bytes() == (tmp_path / "expected").read_bytes()


def test_special_values(tmp_path: Path) -> None:
    """All codes, NaN among them, with scales that no shortcut holds for."""
    codes = torch.arange(256).repeat(9, 1).to(torch.uint8).view(torch.float8_e4m3fn)
    scales = [0.0, -1.0, 1e-45, 255.99, 256.0, 3e38, float("inf"), float("nan"), 2.0**-133]
    tensors = {}
    for i, scale in enumerate(scales):
        tensors[f"m.{i}.weight"] = codes[i : i + 1].clone()
        tensors[f"m.{i}.weight_scale_inv"] = torch.tensor([[scale, scale]])
    layout = Layout({FIRST: tensors})
    events: list[Event] = []
    result = dequant(layout.write(tmp_path / "R1"), report=events.append)
    got, expected = load_file(result.folder / FIRST), dequantized(layout)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, equal_nan=True)
        nan = torch.isnan(got[name])
        assert (got[name].view(torch.int16)[nan] == 0x7FC0).all()
    bad = {name: int((~torch.isfinite(t)).sum()) for name, t in expected.items()}
    assert result.nonfinite == bad
    assert json.loads((result.folder / RECORD).read_text())["nonfinite"] == bad
    assert events[-1].message == "m.8.weight: 2 values are NaN or infinite"


def test_the_numpy_kernel_gives_the_same_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = dequant(source)
    monkeypatch.setenv("FLAGDEPLOY_KERNEL", "numpy")
    plain = dequant(source, out=tmp_path / "numpy")
    assert plain.kernel == "numpy"
    assert plain.to_dict()["kernel"] == "numpy"
    for shard in (FIRST, SECOND, THIRD):
        assert (plain.folder / shard).read_bytes() == (usual.folder / shard).read_bytes()


def test_wide_matrices_are_cut_into_columns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(3, 1_500_000) * 100).to(torch.float8_e4m3fn)
    scale = torch.rand(1, -(-1_500_000 // 128))
    layout = Layout({FIRST: {"m.weight": weight, "m.weight_scale_inv": scale}})
    result = dequant(layout.write(tmp_path / "R1"))
    assert torch.equal(
        load_file(result.folder / FIRST)["m.weight"], dequantized(layout)["m.weight"]
    )


def test_empty_tensors_and_shards_of_copies_only(tmp_path: Path) -> None:
    layout = deepseek()
    layout.shards[SECOND]["empty.weight"] = torch.zeros(0, 128).to(torch.float8_e4m3fn)
    layout.shards[SECOND]["empty.weight_scale_inv"] = torch.zeros(0, 1)
    layout.shards["model-00004-of-000004.safetensors"] = {"x": torch.zeros(0)}
    result = dequant(layout.write(tmp_path / "R1"))
    assert load_file(result.folder / SECOND)["empty.weight"].shape == (0, 128)
    assert load_file(result.folder / "model-00004-of-000004.safetensors")["x"].shape == (0,)


def test_everything_an_engine_needs_is_there(source: Path) -> None:
    (source / "assets").mkdir()
    (source / "assets" / "chart.svg").write_text("<svg/>")
    result = dequant(source)
    files = contents(result.folder)
    shards = {name for name in files if name.endswith(".safetensors")}
    index = json.loads(files["model.safetensors.index.json"])
    assert set(index["weight_map"].values()) == shards == {FIRST, SECOND, THIRD}
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for shard in shards for tensor in load_file(result.folder / shard).values()
    )
    assert "quantization_config" not in json.loads(files["config.json"])
    assert files["assets/chart.svg"] == b"<svg/>"
    assert files["tokenizer.json"] == b"{}"
    record = json.loads(files[RECORD])
    assert result.kernel == record["kernel"]
    assert record["source"] == str(source)
    assert (record["source_format"], record["format"]) == ("fp8-block", "bf16")
    sizes = {name: len(content) for name, content in files.items() if name != RECORD}
    assert record["files"] == sizes
    assert UNFINISHED not in files


def test_mtp_can_be_dropped(source: Path) -> None:
    result = dequant(source, drop_mtp=True)
    assert not (result.folder / THIRD).exists()
    assert json.loads((result.folder / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_progress_counts_the_source(source: Path) -> None:
    events: list[Event] = []
    result = dequant(source, report=events.append)
    assert {event.stage for event in events} == {"convert"}
    assert events[-1].done == events[-1].total == result.plan.source_bytes


def test_a_dry_run_writes_nothing(source: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    result = dequant(source, dry_run=True)
    assert contents(tmp_path) == before
    assert result.outcome == "planned"
    where, time = str(result).splitlines()[-2:]
    assert where.startswith(f"  to {source}-bf16, where ")
    assert re.fullmatch(
        r"  time: at least \d+ s: reading at \S+ .B/s \(\S+ .B read cold\), "
        r"converting at \S+ .B/s \(\d+ thread\(s\), \w+ kernel, tried for a moment\); "
        r"writing is not measured: 1.5 MB take 0 s at 1 GB/s",
        time,
    )


def test_the_second_time_nothing_changes(source: Path) -> None:
    first = dequant(source)
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = dequant(source)
    assert (first.outcome, second.outcome) == ("converted", "already done")
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == stamps
    assert str(second).endswith("3 shard(s), 1.5 MB of bf16: already done, no change")


def test_a_damaged_output_is_mended(source: Path) -> None:
    folder = dequant(source).folder
    whole = contents(folder)
    (folder / SECOND).unlink()
    result = dequant(source)
    assert (result.outcome, result.shards_written) == ("converted", 1)
    assert contents(folder) == whole


def test_other_work_in_the_folder_is_refused(source: Path, tmp_path: Path) -> None:
    out = dequant(source).folder
    hint = "remove it or give another folder with --out"
    with pytest.raises(CheckpointError, match="holds a conversion of another source") as caught:
        dequant(source, "fp16", out)
    assert caught.value.hint == hint
    os.utime(source / SECOND)
    with pytest.raises(CheckpointError, match="of this source as it was"):
        dequant(source)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    with pytest.raises(CheckpointError) as caught:
        dequant(source, out=foreign)
    assert str(caught.value) == f"{foreign}: is not empty and was not made by flagdeploy"
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        dequant(source, out=source)


def test_unknown_formats_are_refused(source: Path) -> None:
    with pytest.raises(UsageError) as caught:
        dequant(source, "int3")
    assert str(caught.value) == "--to int3: unknown format"
    assert caught.value.hint == "known are bf16, fp16, fp32, fp8, w4afp8"


def test_a_damaged_source_is_refused_before_writing(source: Path) -> None:
    with (source / SECOND).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match=f"{SECOND}: torn"):
        dequant(source)
    assert not Path(f"{source}-bf16").exists()


def test_a_disk_too_small_is_refused_before_writing(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_space", lambda folder: 1_000_000)
    with pytest.raises(CheckpointError) as caught:
        dequant(source)
    assert str(caught.value) == f"{source}-bf16: needs 1.5 MB, the disk has 1.0 MB free"
    assert not Path(f"{source}-bf16").exists()


def test_a_read_only_target_is_named(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()
    with pytest.raises(CheckpointError, match=f"cannot create {target}/out: Not a directory"):
        dequant(source, out=target / "out")


def test_a_source_cut_while_it_is_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, what was begun is removed, and a repaired source goes on."""
    whole = (source / SECOND).read_bytes()
    stamp = (source / SECOND).stat().st_mtime_ns
    reading = os.preadv

    def cut(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return 0 if offset > len(whole) // 2 else reading(descriptor, buffers, offset)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(os, "preadv", cut)
        dequant(source)
    assert str(caught.value).endswith("ends early: it was cut while being read")
    out = Path(f"{source}-bf16")
    assert not list(out.glob("*.part"))
    assert not (out / RECORD).exists()
    os.utime(source / SECOND, ns=(stamp, stamp))
    assert dequant(source).outcome == "converted"


def test_a_disk_that_fills_up(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = os.pwrite
    room = [700_000]

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        piece = data[: len(data) // 2 + 1]
        room[0] -= len(piece)
        return writing(descriptor, piece, offset)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(os, "pwrite", full)
        dequant(source, workers=1)
    out = Path(f"{source}-bf16")
    assert str(caught.value) == f"cannot write {out / SECOND}.part: No space left on device"
    assert caught.value.hint == (
        "free some space, then run the same command again: finished files are kept"
    )
    assert sorted(contents(out)) == [UNFINISHED, FIRST]
    result = dequant(source)
    assert (result.outcome, result.shards_written) == ("converted", 2)


@pytest.mark.parametrize("room", [1, 4_000, 300_000, 800_000, 1_200_000, 1_400_000])
def test_a_disk_full_at_any_point_is_gone_on_from(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    expected = contents(dequant(source, out=tmp_path / "undisturbed").folder)
    writing, left = os.pwrite, [room]

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        piece = data[: left[0]]
        left[0] -= len(piece)
        return writing(descriptor, piece, offset)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="No space left"):
        patch.setattr(os, "pwrite", full)
        dequant(source)
    out = Path(f"{source}-bf16")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert dequant(source).outcome == "converted"
    assert contents(out) == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_interrupt_leaves_a_resumable_folder(source: Path) -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dequant(source, report=interrupt)
    out = Path(f"{source}-bf16")
    assert not (out / RECORD).exists()
    assert (out / UNFINISHED).exists()
    assert dequant(source).outcome == "converted"


def test_two_at_once_in_one_folder(source: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def wait(event: Event) -> None:
        entered.set()
        release.wait(30)

    first = threading.Thread(target=dequant, args=(source,), kwargs={"report": wait})
    first.start()
    try:
        entered.wait(30)
        with pytest.raises(CheckpointError, match="another flagdeploy is writing here"):
            dequant(source)
    finally:
        release.set()
        first.join()


SLOWLY = """
import sys, time
import flagdeploy.checkpoint.shard as shard
from flagdeploy.workflows.dequant import dequant
writing = shard.write_at
def slowly(*arguments):
    time.sleep(0.002)
    writing(*arguments)
shard.write_at = slowly
print("started", flush=True)
dequant(sys.argv[1], workers=2)
"""


def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    source = deepseek(layers=7).write(tmp_path / "R1")
    expected = contents(dequant(source, out=tmp_path / "undisturbed").folder)
    out = tmp_path / "R1-bf16"
    moments = random.Random(0)
    command = [sys.executable, "-c", SLOWLY, str(source)]
    kept = []
    for _ in range(6):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        shards = {path: path.stat() for path in out.glob("*.safetensors")}
        kept.append({path: (stat.st_ino, stat.st_mtime_ns) for path, stat in shards.items()})
    for before, after in zip(kept, kept[1:], strict=False):
        assert before.items() <= after.items(), "a finished shard was written again"
    result = dequant(source)
    assert result.outcome in ("converted", "already done")
    assert contents(out) == expected
