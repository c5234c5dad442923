"""DataFrames of several releases of pandas are read without it; hostile pickles do nothing."""

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from flagdeploy.formats import data_frame
from flagdeploy.formats.data_frame import read_columns
from flagdeploy.formats.pickle import parse

FILES = sorted((Path(__file__).parent.parent / "cases" / "data_frames").glob("*.pkl"))
COLUMNS = {
    "text_input": ["What is 1+1?", "\u4e8c\u52a0\u4e8c\n", "y", "x"],
    "ground_truth": ["2", "4", "\u00e9", None],
    "ref_accuracy": [100.0, 0.0, 2.0, 1.5],
    "other": [1.0, 2.0, 4.0, 3.0],
    "tok": [[1, 2, 300, 128803], [0], [-1], []],
    "n": [4, 1, 7, 0],
    "ok": [True, False, True, True],
    "obj": [1, "a", 2.5, None],
    "arr": [[1, 2], [3], [1.5], []],
    "sc": [1.5, 3, True, "x"],
}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_frame_of_every_release_and_protocol(path: Path) -> None:
    found = read_columns(path)
    assert found == COLUMNS
    assert list(found) == list(COLUMNS)


def test_releases_and_protocols_are_as_many_as_thought() -> None:
    assert len(FILES) == 10


class Runs:
    """A pickle of it calls `function` when it is loaded."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ["touch EVIL"], "posix.system"),
        (eval, ["open('EVIL', 'w')"], "builtins.eval"),
        (open, ["EVIL", "w"], "io.open"),
        (Path.touch, [Path("EVIL")], "builtins.getattr"),
        (__import__, ["this"], "builtins.__import__"),
    ],
)
def test_nothing_is_executed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: int,
    function: Any,
    arguments: list[Any],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "frame.pkl"
    path.write_bytes(pickle.dumps({"x": Runs(function, *arguments)}, protocol=protocol))
    with pytest.raises(ValueError) as caught:
        read_columns(path)
    named = name.replace("builtins.", "__builtin__.") if protocol == 2 else name
    methods = {"__builtin__.getattr", "builtins.getattr", "pathlib.Path.touch"}
    named_ones = methods if function is Path.touch else {named}
    assert str(caught.value) in {
        f"names {one}, which is no part of a DataFrame of numbers and text" for one in named_ones
    }
    assert not (tmp_path / "EVIL").exists()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (pickle.dumps([1, 2]), "is no pickled DataFrame that is understood: TypeError('a list"),
        (pickle.dumps({}), "is no pickled DataFrame that is understood: TypeError('a dict"),
        (b"", "the pickle ends at byte 0 without STOP"),
        (b"\x80\x02cpandas\nDataFrame\n)\x81.", "is no pickled DataFrame that is understood"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "instruction REDUCE at byte 18 does not fit"),
        (b"\x80\x02\x82\x01.", "instruction EXT1 at byte 2 is none that plain data needs"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER at byte 2 is none that plain data needs"),
    ],
)
def test_what_is_no_frame(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "frame.pkl"
    path.write_bytes(raw)
    with pytest.raises(ValueError) as caught:
        read_columns(path)
    assert str(caught.value).startswith(message)


def test_a_file_beyond_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_frame, "MAX_BYTES", 10)
    path = tmp_path / "frame.pkl"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="has 11 bytes, limit 10"):
        read_columns(path)


def test_changed_bytes_give_columns_or_a_reason(tmp_path: Path) -> None:
    luck = random.Random(3)
    path = tmp_path / "frame.pkl"
    refused = 0
    for _ in range(1500):
        changed = bytearray(luck.choice(FILES).read_bytes())
        for _ in range(luck.choice([1, 2, 4])):
            changed[luck.randrange(len(changed))] = luck.randrange(256)
        path.write_bytes(changed)
        try:
            read_columns(path)
        except ValueError:
            refused += 1
    assert 300 < refused < 1500


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back(protocol: int) -> None:
    data = {
        "a": [1, -2, 1 << 40, 1 << 2100, 2.5, None, True],
        7: ("x", ("\u00e9" * 300, b"")),
        "": {},
    }
    if protocol == 2:  # bytes are a call there
        data[7] = ("x", ("\u00e9" * 300,))
    assert parse(pickle.dumps(data, protocol=protocol)) == data
