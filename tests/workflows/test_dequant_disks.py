"""dequant on real disks that fail: read errors, no room, read-only. Each ends in a clear message
and in a state from which the same command goes on once the disk is well."""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkpoint.deepseek_layout import deepseek

from flagdeploy.checkpoint.ownership import RECORD
from flagdeploy.errors import CheckpointError
from flagdeploy.records.events import Event
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.dequant import dequant
from flagdeploy.workflows.in_place import dequant_in_place

SECOND = "model-00002-of-000003.safetensors"
Mount = Callable[..., Path]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts what `mount ARGUMENTS` says on a new folder, or the reason why it cannot."""
    if os.geteuid():
        pytest.skip("disks that fail need root, to mount them")
    mounted: list[Path] = []

    def make(*arguments: str | Path) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", *arguments, place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"disks that fail need mounts: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_cannot_read_a_sector(mount: Mount, tmp_path: Path) -> None:
    """A disk of which the end is cut off: the kernel answers with EIO."""
    layout = deepseek()
    layout.shards[SECOND]["wide"] = torch.zeros(1 << 20)
    written = layout.write(tmp_path / "written")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    command = ["mke2fs", "-q", "-t", "ext2", "-b", "4096", image]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk with bad sectors needs mke2fs")
    disk = mount("-o", "loop", image)
    source = disk / "R1"
    source.mkdir()
    for path in sorted(written.iterdir(), key=lambda path: path.name == SECOND):
        shutil.copy2(path, source)
    with (source / SECOND).open("rb") as file:
        os.fsync(file.fileno())
        # FIBMAP: the block of the disk in which block 600 of the file lies (linux/fs.h), far
        # enough from the header that reading ahead does not touch it.
        (block,) = struct.unpack("i", fcntl.ioctl(file, 1, struct.pack("i", 600)))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with image.open("r+b") as file:
        file.seek(block * 4096)
        rest = file.read()
        file.truncate(block * 4096)
    forget(source / SECOND)
    out = tmp_path / "out"
    with pytest.raises(CheckpointError) as caught:
        dequant(source, out=out)
    assert str(caught.value) == f"cannot read {SECOND}: Input/output error"
    assert caught.value.hint == "run the same command again: finished files are kept"
    assert not (out / RECORD).exists()
    assert not list(out.glob("*.part"))
    with image.open("r+b") as file:
        file.seek(block * 4096)
        file.write(rest)
    forget(source / SECOND)
    assert dequant(source, out=out).outcome == "converted"
    expected = contents(dequant(written, out=tmp_path / "expected").folder)
    assert all(contents(out)[name] == expected[name] for name in expected if name != RECORD)


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_target_that_is_read_only(mount: Mount, tmp_path: Path) -> None:
    source = deepseek().write(tmp_path / "R1")
    disk = mount("-t", "tmpfs", "-o", "ro", "tmpfs")
    for out, what in ((disk / "out", "cannot create"), (disk, "cannot write")):
        with pytest.raises(CheckpointError) as caught:
            dequant(source, out=out)
        assert str(caught.value) == f"{what} {out}: Read-only file system"


def test_a_source_that_is_read_only_is_not_converted_in_place(mount: Mount, tmp_path: Path) -> None:
    deepseek().write(tmp_path / "R1")
    before = contents(tmp_path / "R1")
    disk = mount("--bind", tmp_path / "R1")
    subprocess.run(["mount", "-o", "remount,ro,bind", disk], check=True)
    with pytest.raises(CheckpointError, match=f"^{disk}: is not ours to write"):
        dequant_in_place(disk, Conversion("bf16"))
    assert contents(tmp_path / "R1") == before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_disk_that_fills_up(mount: Mount, tmp_path: Path, in_place: bool) -> None:
    layout = deepseek(layers=5)
    elsewhere = layout.write(tmp_path / "R1")
    disk = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    source = layout.write(disk / "R1")

    def convert(report: Callable[[Event], None]) -> Path:
        if in_place:
            return dequant_in_place(source, Conversion("bf16"), workers=1, report=report).folder
        return dequant(source, workers=1, report=report).folder

    def fill(event: Event) -> None:
        if (event.done or 0) < (event.total or 0) // 3 or (disk / "filler").exists():
            return
        with (disk / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 12)):
                    pass
            except OSError:
                return

    with pytest.raises(CheckpointError, match="No space left on device|the disk has") as caught:
        for _ in range(2):  # where it ended before the disk was full, it is full from the start
            convert(fill)
            raise AssertionError("the disk was never full")
    assert str(caught.value.hint).startswith("free some space")
    (disk / "filler").unlink()
    folder = convert(lambda event: None)
    expected = contents(dequant(elsewhere).folder)
    found = contents(folder)
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in expected if name != RECORD)
