import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.client import run
from flagdeploy.evals.journal import Journal


def append(path: Path, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Append `rows` all at once; the rows that were there before."""

    async def work() -> list[dict[str, Any]]:
        with Journal(path) as journal:
            before = list(journal.rows())
            await asyncio.gather(*(journal.append(row) for row in rows))
            return before

    return run(work())


def numbers(path: Path) -> list[int]:
    return [row["n"] for row in Journal(path).rows()]


def test_rows_stay(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "log.jsonl"
    assert append(path, {"n": 1, "text": "\u4e00\n\u2028\r"}) == []
    assert append(path, {"n": 2}) == [{"n": 1, "text": "\u4e00\n\u2028\r"}]
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize("torn", [b'{"n": 3, "te', b"{", b"\0" * 3_000_000, b"\xff" * 5])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log.jsonl"
    for kept in (b'{"n": 1}\n{"n": 2}\n', b""):
        path.write_bytes(kept + torn)
        append(path, {"n": 4})
        assert path.read_bytes() == kept + b'{"n": 4}\n'


def test_a_damaged_line_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"n": 1}\n\0\0\0\n{"n": \xff}\n7\n{"n": 2}\n')
    assert numbers(path) == [1, 2]


def test_a_row_counts_once_it_is_on_disk_and_rows_share_an_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    real, on_disk, syncs = os.fsync, 0, 0

    def fsync(descriptor: int) -> None:
        nonlocal on_disk, syncs
        real(descriptor)
        if path.exists():
            on_disk, syncs = len(path.read_bytes().splitlines()), syncs + 1

    monkeypatch.setattr(os, "fsync", fsync)

    async def one(journal: Journal, number: int) -> None:
        await journal.append({"n": number})
        assert number in numbers(path)[:on_disk]

    async def work() -> None:
        with Journal(path) as journal:
            await asyncio.gather(*(one(journal, number) for number in range(200)))

    run(work())
    assert sorted(numbers(path)) == list(range(200))
    assert syncs < 100


def test_what_was_handed_over_is_written_even_when_nobody_waits_any_more(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    async def work() -> None:
        with Journal(path) as journal:
            tasks = [asyncio.ensure_future(journal.append({"n": n})) for n in range(5)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(work())
    assert numbers(path) == [0, 1, 2, 3, 4]


def test_two_runs_do_not_record_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    async def work() -> None:
        with Journal(path), pytest.raises(EvalError) as error:
            Journal(path).__enter__()
        assert str(error.value) == f"{path}: another run is recording there"

    run(work())
    append(path, {"n": 1})


def test_a_full_disk_is_told_and_nothing_follows_a_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    append(path, {"n": 1})
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 3:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:-2])

    async def work() -> list[BaseException | None]:
        with Journal(path) as journal, monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            ends = await asyncio.gather(journal.append({"n": 2}), return_exceptions=True)
            patch.undo()  # space again, but the line before is torn
            return [*ends, *await asyncio.gather(journal.append({"n": 3}), return_exceptions=True)]

    for error in run(work()):
        assert isinstance(error, EvalError)
        assert str(error) == f"{path}: cannot record any more: No space left on device"
    assert path.read_bytes() == b'{"n": 1}\n'
    append(path, {"n": 4})
    assert numbers(path) == [1, 4]
