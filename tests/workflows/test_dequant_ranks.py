"""Several ranks on one conversion: together they leave what one process would, whatever happens."""

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.deepseek_layout import Layout, deepseek
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flagdeploy.checkpoint import ownership
from flagdeploy.checkpoint.ownership import RANKS, RECORD, UNFINISHED
from flagdeploy.errors import CheckpointError
from flagdeploy.records.events import Event
from flagdeploy.workflows.dequant import dequant
from flagdeploy.workflows.dequant_result import DequantResult


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return deepseek(layers=5).write(tmp_path / "R1")


def scattered(seed: int, homes: list[int]) -> Layout:
    """The tensors of a small model in up to six shards: scales lie anywhere, one value is NaN."""
    layout = deepseek(layers=2, seed=seed)
    layout.tensors["model.layers.0.self_attn.o_proj.weight"].view(torch.uint8)[0, 0] = 0x7F
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for home, (name, tensor) in zip(homes, layout.tensors.items(), strict=False):
        shards.setdefault(f"model-{home:05d}.safetensors", {})[name] = tensor
    return Layout(shards, layout.config)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 99),
    homes=st.lists(st.integers(1, 6), min_size=50, max_size=50),
    ranks=st.integers(1, 5),
    data=st.data(),
)
def test_together_they_leave_what_one_process_would(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    homes: list[int],
    ranks: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("ranks")
    source = scattered(seed, homes).write(folder / "R1")
    expected = contents(dequant(source, out=folder / "alone").folder)
    order = data.draw(st.permutations(range(ranks)))
    results = [
        dequant(source, out=folder / "out", rank=rank, world_size=ranks, workers=1)
        for rank in order
    ]
    assert sum(result.shards_written for result in results) == len(results[0].plan.jobs)
    assert [result.outcome for result in results].count("converted") == 1
    assert contents(folder / "out") == expected


def test_all_at_once(source: Path, tmp_path: Path) -> None:
    expected = contents(dequant(source, out=tmp_path / "alone").folder)

    def convert(rank: int) -> DequantResult:
        return dequant(source, out=tmp_path / "out", rank=rank, world_size=8)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(convert, range(8)))
    assert sum(result.shards_written for result in results) == 6
    assert sum(result.outcome == "converted" for result in results) == 1
    assert contents(tmp_path / "out") == expected


def test_what_a_rank_does_while_another_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins between the look for marks and the listing; it completes before a mark is read."""
    identity = {"kind": "dequant"}
    iterdir, read_json = Path.iterdir, ownership.read_json

    def begun_meanwhile(folder: Path) -> Iterator[Path]:
        ownership.note(folder, identity, {})
        (folder / RANKS).mkdir()
        return iterdir(folder)

    def completed_meanwhile(path: Path) -> dict[str, Any]:
        if path.name == UNFINISHED:
            ownership.complete(tmp_path, identity, {})
        return read_json(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", begun_meanwhile)
        assert ownership.look(tmp_path, identity).state == "resume"
    monkeypatch.setattr(ownership, "read_json", completed_meanwhile)
    assert ownership.look(tmp_path, identity).state == "complete"


def test_each_says_what_it_did_and_what_is_missing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = dequant(source, out=out, rank=0, world_size=2)
    assert str(first) == (
        f"{out}: rank 0 of 2: 3 of its 3 shard(s) written now, all are there; "
        "3 of 6 shard(s) are missing of other ranks, the last of which completes the folder"
    )
    data = first.to_dict()
    assert (data["rank"], data["world_size"], len(data["missing"])) == (0, 2, 3)
    assert set(data["share"]) | set(data["missing"]) == set(first.plan.jobs.names)
    assert not (out / RECORD).exists()
    with pytest.raises(CheckpointError, match="is unfinished: a conversion into this folder"):
        ownership.require_complete(out)
    second = dequant(source, out=out, rank=1, world_size=2)
    assert str(second) == (
        f"{out}: 6 shard(s), 2.8 MB of bf16: rank 1 of 2 wrote 3, all are there, verified"
    )


def test_a_dry_run_shows_the_share(source: Path, tmp_path: Path) -> None:
    planned = dequant(source, rank=1, world_size=4, dry_run=True)
    assert "\n  rank 1 of 4: 1 of the shards: 243.6 kB read, 461.2 kB written" in str(planned)
    assert not Path(f"{source}-bf16").exists()


def test_a_call_without_rank_completes_what_ranks_left(source: Path, tmp_path: Path) -> None:
    expected = contents(dequant(source, out=tmp_path / "alone").folder)
    out = tmp_path / "out"
    dequant(source, out=out, rank=2, world_size=3)
    before = {path: path.stat().st_ino for path in out.glob("*.safetensors")}
    done = dequant(source, out=out)
    assert (done.outcome, done.shards_written) == ("converted", 4)
    assert contents(out) == expected
    assert before.items() <= {path: path.stat().st_ino for path in out.iterdir()}.items()


def test_ranks_complete_what_a_call_without_rank_left(source: Path, tmp_path: Path) -> None:
    expected = contents(dequant(source, out=tmp_path / "alone").folder)

    def interrupt(event: Event) -> None:
        if list((tmp_path / "out").glob("*.safetensors")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dequant(source, out=tmp_path / "out", workers=1, report=interrupt)
    for rank in range(3):
        dequant(source, out=tmp_path / "out", rank=rank, world_size=3)
    assert contents(tmp_path / "out") == expected


def test_more_ranks_than_shards(source: Path, tmp_path: Path) -> None:
    results = [dequant(source, rank=rank, world_size=9) for rank in range(9)]
    assert sorted(len(result.share) for result in results[:8]) == [0, 0, *[1] * 6]
    assert (results[5].outcome, results[8].outcome) == ("converted", "already done")


def test_counts_of_nonfinite_values_are_merged(tmp_path: Path) -> None:
    layout = deepseek(layers=3)
    for layer in range(4):
        layout.tensors[f"model.layers.{layer}.self_attn.o_proj.weight"].view(torch.uint8)[0] = 0x7F
    source = layout.write(tmp_path / "R1")
    for rank in range(2):
        result = dequant(source, rank=rank, world_size=2)
    expected = {f"model.layers.{i}.self_attn.o_proj.weight": 384 for i in range(4)}
    assert result.nonfinite == expected
    assert json.loads((result.folder / RECORD).read_text())["nonfinite"] == expected
    # What is known of undamaged shards stays known when the others are made again.
    next(result.folder.glob("*.safetensors")).unlink()
    results = [dequant(source, rank=rank, world_size=2) for rank in range(2)]
    assert "converted" in [result.outcome for result in results]
    assert json.loads((result.folder / RECORD).read_text())["nonfinite"] == expected


class Held:
    """A rank that stays at its first sign of progress until it is let go."""

    def __init__(self, source: Path, **options: int) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        options = {"workers": 1, **options}
        arguments = {"args": (source,), "kwargs": {**options, "report": self.wait}}
        self.thread = threading.Thread(target=dequant, **arguments)

    def wait(self, event: Event) -> None:
        self.entered.set()
        self.release.wait(30)

    def __enter__(self) -> "Held":
        self.thread.start()
        self.entered.wait(30)
        return self

    def __exit__(self, *exception: object) -> None:
        self.release.set()
        self.thread.join()


def test_the_same_rank_twice_is_refused(source: Path) -> None:
    with Held(source, rank=0, world_size=2):
        with pytest.raises(CheckpointError) as caught:
            dequant(source, rank=0, world_size=2)
        assert str(caught.value) == (f"{source}-bf16: another process is rank 0 of 2 already")
        with pytest.raises(CheckpointError, match="another flagdeploy is writing here"):
            dequant(source)
        assert dequant(source, rank=1, world_size=2).shards_written == 3
    assert (Path(f"{source}-bf16") / RECORD).exists()


def test_a_rank_of_other_work_is_refused(source: Path, tmp_path: Path) -> None:
    with Held(source, rank=0, world_size=2), pytest.raises(CheckpointError, match="other numbers"):
        dequant(source, "fp16", f"{source}-bf16", rank=1, world_size=2)
    with Held(source, out=tmp_path / "alone"), pytest.raises(CheckpointError, match="is writing"):
        dequant(source, out=tmp_path / "alone", rank=1, world_size=2)


def test_without_locks_it_works_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on network file systems that have none: twice the same rank only wastes work."""
    expected = contents(dequant(source, out=tmp_path / "alone").folder)

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)

    def convert(rank: int) -> None:
        dequant(source, out=tmp_path / "out", rank=rank, world_size=3)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(convert, range(3)))
    assert contents(tmp_path / "out") == expected


def test_without_locks_a_rank_that_died_completing_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    out = tmp_path / "out"
    for rank in range(2):
        dequant(source, out=tmp_path / "alone", rank=rank, world_size=2)
    dequant(source, out=out, rank=0, world_size=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            ownership, "complete", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        dequant(source, out=out, rank=1, world_size=2)
    waiting = dequant(source, out=out, rank=0, world_size=2)
    assert str(waiting).endswith("all are there; another rank completes the folder")
    assert dequant(source, out=out, rank=1, world_size=2).outcome == "converted"
    assert contents(out) == contents(tmp_path / "alone")


SLOWLY = """
import sys, time
import flagdeploy.checkpoint.shard as shard
from flagdeploy.workflows.dequant import dequant
writing = shard.write_at
def slowly(*arguments):
    time.sleep(0.01)
    writing(*arguments)
shard.write_at = slowly
dequant(sys.argv[1], out=sys.argv[2], workers=1, rank=int(sys.argv[3]), world_size=3)
"""


def test_ranks_killed_at_any_moment_are_made_up_for(source: Path, tmp_path: Path) -> None:
    expected = contents(dequant(source, out=tmp_path / "alone").folder)
    out, moments = tmp_path / "out", random.Random(0)
    for _ in range(3):
        command = [sys.executable, "-c", SLOWLY, str(source), str(out)]
        ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(3)]
        deadline = time.monotonic() + 30
        while not list(out.glob(f"{RANKS}/*/*.part")) and time.monotonic() < deadline:
            if all(rank.poll() is not None for rank in ranks):
                break
            time.sleep(0.01)
        for rank in ranks:
            time.sleep(moments.uniform(0, 0.1))
            rank.send_signal(signal.SIGKILL)
        for rank in ranks:
            rank.wait()
    for rank in range(2):
        dequant(source, out=out, rank=rank, world_size=2)
    assert contents(out) == expected
    assert not (out / UNFINISHED).exists()
