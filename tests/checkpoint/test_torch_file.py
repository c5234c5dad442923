"""torch.save's files are read as data: real ones exactly, hostile ones never executed."""

import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.checkpoint.torch_file import read_numbers
from flagdeploy.errors import CheckpointError
from flagdeploy.formats import pickle as pickles
from flagdeploy.formats import torch_file
from flagdeploy.formats.torch_pickle import parse_state


def every(name: str) -> bool:
    return True


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_numbers_of_all_dtypes_and_places(tmp_path: Path) -> None:
    together = torch.tensor([1.0, 2.0, 3.0]).bfloat16()
    content = {
        "f32": torch.tensor(0.1),
        "bf16": torch.tensor([0.1]).bfloat16(),
        "f16": torch.tensor(0.1).half(),
        "f64": torch.tensor([[0.1]]).double(),
        "third": together[2],
        "parameter": torch.nn.Parameter(torch.tensor(5.0), requires_grad=False),
        "denormal": torch.tensor(1e-45),
        "inf": torch.tensor(float("inf")),
    }
    found = read_numbers(saved(tmp_path / "a.pt", content), every)
    assert found == {name: float(tensor) for name, tensor in content.items()}


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    content = {
        "amax": torch.tensor(2.0),
        "matrix": torch.zeros(3, 4),
        "counts": torch.zeros(2, dtype=torch.int64),
        "state": {"steps": [1, 2.5, None, True, 1 << 40], "name": "text", "pair": (1, (2, 3, 4))},
        7: "seven",
    }
    path = saved(tmp_path / "a.pt", content)
    assert read_numbers(path, lambda name: name == "amax") == {"amax": 2.0}


def test_a_whole_state_dict(tmp_path: Path) -> None:
    """An OrderedDict with versions of modules in an attribute."""
    module = torch.nn.Linear(1, 1)
    state = module.state_dict()
    assert isinstance(state, OrderedDict)
    assert read_numbers(saved(tmp_path / "a.pt", state), every) == {
        name: float(parameter.detach()) for name, parameter in module.named_parameters()
    }


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=8), st.floats(width=32), max_size=20
    )
)
def test_any_numbers_come_back(values: dict[str, float]) -> None:
    raw = io.BytesIO()
    torch.save({name: torch.tensor(value) for name, value in values.items()}, raw)
    with zipfile.ZipFile(raw) as archive:
        content = parse_state(archive.read("archive/data.pkl"))
        assert content.keys() == values.keys()
        for name, tensor in content.items():
            stored = archive.read(f"archive/data/{tensor.storage.key}")
            assert stored == torch.tensor(values[name]).numpy().tobytes()


class Runs:
    """A pickle of it calls `function` when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_numbers(path, every)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ["touch EVIL"], "posix.system"),
        (eval, ["open('EVIL', 'w')"], "__builtin__.eval"),
        (exec, ["open('EVIL', 'w')"], "__builtin__.exec"),
        (getattr, [os, "system"], "__builtin__.getattr"),
        (open, ["EVIL", "w"], "io.open"),
        (io.FileIO, ["EVIL", "w"], "_io.FileIO"),
        (torch.load, ["EVIL"], "torch.serialization.load"),
        (__import__, ["this"], "__builtin__.__import__"),
    ],
)
def test_nothing_is_executed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., Any],
    arguments: list[Any],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [argument for argument in arguments if argument is not os]
    path = saved(tmp_path / "a.pt", {"amax": torch.tensor(1.0), "x": Runs(function, *given)})
    assert refusal(path) == f"names {name}, which is no part of a tensor"
    assert not (tmp_path / "EVIL").exists()


def archive(path: Path, pickled: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)
        for name, content in records.items():
            file.writestr(f"a/{name}", content)
    return path


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"", "the pickle ends at byte 0 without STOP"),
        (b"\x80\x02}", "the pickle ends at byte 3 without STOP"),
        (b"\x80\x02.", "the pickle does not end with one object"),
        (b"\x80\x02}(.", "the pickle does not end with one object"),
        (b"\x80\x02}}.", "the pickle does not end with one object"),
        (b"\x80\x02].", "holds no dict of tensors"),
        (b"\x80\x02K\x01K\x02K\x03s.", "instruction SETITEM at byte 8 does not fit what is before"),
        (b"\x80\x02}K\x01u.", "instruction SETITEMS at byte 5 does not fit what is before it"),
        (b"\x80\x02}(K\x01u.", "instruction SETITEMS at byte 6 does not fit what is before it"),
        (b"\x80\x02}(K\x01K\x02e.", "instruction APPENDS at byte 8 does not fit what is before it"),
        (b"\x80\x02h\x05.", "instruction BINGET at byte 2 does not fit what is before it"),
        (b"\x80\x02}}K\x01s.", "instruction SETITEM at byte 6 does not fit what is before it"),
        (
            b"\x80\x02" + REBUILD + b")R.",
            "instruction REDUCE at byte 36 does not fit what is before",
        ),
        (
            b"\x80\x02" + REBUILD + b"}b.",
            "instruction BUILD at byte 36 does not fit what is before",
        ),
        (b"\x80\x02ccollections\nOrderedDict\n](]]e\x85R.", "instruction REDUCE at byte 33 does"),
        (b"\x80\x02X\x02\x00\x00\x00idQ.", "instruction BINPERSID at byte 9 does not fit what"),
        (b"\x80\x02}\x81.", "instruction NEWOBJ at byte 3 does not fit what is before it"),
        (b"(dp0\nS'a'\nI1\ns.", "instruction DICT at byte 1 is none that plain data needs"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}.", ""),  # no frame is relied upon
        (b"\x80\x02\x8e" + b"\xff" * 8 + b"x.", "bytes8 byte count > sys.maxsize"),
        (b"\x80\x02X\xff\xff\xff\x7fx.", "expected 2147483647 bytes in a unicodestring4, but on"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", ""),  # the memo is a dict: a large index costs nothing
        (b"\x80\x02\xff.", "instruction 0xff at byte 2 is none that plain data needs"),
        (b"\x80\x02cos\n\x1b[31m\n.", "names 'os \\x1b[31m', which is no part of a tensor"),
        (b"\x80\x02cos", "no name ends before byte 5"),
        (b"cos\nsystem\n(S'echo'\ntR.", "names os.system, which is no part of a tensor"),
    ],
)
def test_pickles_that_torch_does_not_write(tmp_path: Path, pickled: bytes, message: str) -> None:
    path = archive(tmp_path / "a.pt", pickled)
    if message:
        assert refusal(path).startswith(message)
    else:
        assert read_numbers(path, every) == {}


def tensor(
    offset: bytes = b"K\x00",
    shape: bytes = b")",
    storage: bytes = STORAGE,
    stride: bytes = b"",
) -> bytes:
    """A pickle of {"t": tensor}; shape () when not given, and strides of 1."""
    rest = (stride or shape) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\x00\x00\x00t" + REBUILD + b"(" + storage + offset + shape + rest + b"s."


@pytest.mark.parametrize(
    ("pickled", "records", "message"),
    [
        (tensor(), {}, "has no record 'data/0'"),
        (tensor(), {"data/0": b"123"}, "t: its storage has 3 bytes, not 1 of F32"),
        (tensor(b"K\x01"), {"data/0": b"1234"}, "t: its storage has 4 bytes, not 1 of F32"),
        (tensor(b"J\xff\xff\xff\xff"), {"data/0": b"1234"}, "instruction REDUCE at byte"),
        (tensor(shape=b"K\x02\x85"), {"data/0": b"1234"}, "t: is F32 [2], not one number of F32"),
        (tensor(shape=b"X\x00\x00\x00\x00\x85"), {"data/0": b"1234"}, "instruction REDUCE at"),
        (tensor(shape=b"\x88\x85"), {"data/0": b"1234"}, "instruction REDUCE at byte"),
        (
            tensor(storage=STORAGE.replace(b"FloatS", b"LongS")),
            {"data/0": b"12345678"},
            "t: is I64 [], not one number of F32, BF16, F16, F64",
        ),
        (
            tensor(storage=STORAGE.replace(b"X\x01\x00\x00\x000", b"X\x09\x00\x00\x00../../../")),
            {},
            "has no record 'data/../../../'",
        ),
        (b"\x80\x02}X\x01\x00\x00\x00tK\x01s.", {}, "t: is not a tensor"),
        (tensor(), {"data/0": b"1234", "byteorder": b"big"}, "was not written on a little-endian"),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, pickled: bytes, records: dict[str, bytes], message: str
) -> None:
    assert refusal(archive(tmp_path / "a.pt", pickled, **records)).startswith(message)


@pytest.mark.parametrize(
    "made",
    [
        torch.arange(6).reshape(1, 6),
        torch.arange(6).reshape(2, 3).T,
        torch.arange(12.0).reshape(3, 4)[1:, ::2],
        torch.arange(3.0).bfloat16().expand(2, 3),
        torch.tensor(7, dtype=torch.int32),
        torch.zeros(0, 3),
        torch.tensor([True, False]),
    ],
)
def test_tensors_of_any_shape_and_stride(tmp_path: Path, made: torch.Tensor) -> None:
    with torch_file.opened(saved(tmp_path / "a.pt", {"t": made})) as file:
        found = file.values("t", file.content["t"], 1000)
    assert (found.shape, found.tolist()) == (tuple(made.shape), made.tolist())


@pytest.mark.parametrize(
    ("shape", "stride", "message"),
    [
        (b"K\x02\x85", b"K\x01\x85", "t: is F32 [2], beyond its 1 elements"),
        (b"M\x10\x27\x85", b"K\x00\x85", "t: is F32 [10000], more than 1000 bytes"),
    ],
)
def test_tensors_beyond_their_storage(
    tmp_path: Path, shape: bytes, stride: bytes, message: str
) -> None:
    path = archive(tmp_path / "a.pt", tensor(shape=shape, stride=stride), **{"data/0": b"1234"})
    with torch_file.opened(path) as file, pytest.raises(ValueError) as caught:
        file.values("t", file.content["t"], 1000)
    assert str(caught.value) == message


def test_the_tensor_written_by_hand_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", tensor(), **{"data/0": b"\0\0\x80?"})
    assert read_numbers(path, every) == {"t": 1.0}


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"\0" * (64 << 20))
    assert bomb.stat().st_size < 100_000
    assert refusal(bomb) == "record 'data.pkl' is compressed, which torch.save never does"

    large = archive(tmp_path / "large.pt", b"\0" * (torch_file.MAX_PICKLE_BYTES + 1))
    assert refusal(large) == "record 'data.pkl' has 16777217 bytes, limit 16777216"

    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    many = archive(tmp_path / "many.pt", b"\x80\x02" + b"]" * 1000 + b".")
    assert refusal(many) == "the pickle has more than 1000 instructions"

    monkeypatch.setattr(torch_file, "MAX_TABLE_BYTES", 4096)
    with zipfile.ZipFile(tmp_path / "table.pt", "w") as file:
        for number in range(100):
            file.writestr(f"a/data/{number}", b"")
    assert refusal(tmp_path / "table.pt").startswith("has a table of records of more than 4096")


def test_nested_deeper_than_the_stack_of_python(tmp_path: Path) -> None:
    deep = b"\x80\x02}X\x01\x00\x00\x00x" + b"]" * 100_000 + b"a" * 99_999 + b"s."
    assert refusal(archive(tmp_path / "a.pt", deep)) == "x: is not a tensor"


def test_what_is_no_archive_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert refusal(path) == "is not a file"
    path.mkdir()
    assert refusal(path) == "is not a file"
    path.rmdir()
    os.mkfifo(path)
    assert refusal(path) == "is not a file"
    path.unlink()
    path.write_bytes(b"")
    assert refusal(path) == "not a sound zip archive: File is not a zip file"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert refusal(path) == "not a sound zip archive: File is not a zip file"
    torch.save({"a": torch.tensor(1.0)}, path, _use_new_zipfile_serialization=False)
    assert refusal(path) == "not a sound zip archive: File is not a zip file"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/other", b"")
    assert refusal(path) == "has 0 records data.pkl, not one"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"")
        file.writestr("b/data.pkl", b"")
    assert refusal(path) == "has 2 records data.pkl, not one"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a/data.pkl", b"")
    assert refusal(path) == "has two records named 'a/data.pkl'"


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"amax": torch.tensor(1.0)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert refusal(path)


def test_changed_bytes_give_the_numbers_or_a_refusal(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"amax": torch.tensor(1.0), "b": torch.tensor(2.0).half()})
    whole = path.read_bytes()
    luck = random.Random(1)
    outcomes = []
    for _ in range(1000):
        changed = bytearray(whole)
        for _ in range(luck.choice([1, 1, 2, 8])):
            changed[luck.randrange(len(changed))] = luck.randrange(256)
        path.write_bytes(changed)
        try:
            outcomes.append(str(read_numbers(path, every)))
        except CheckpointError as error:
            outcomes.append(type(error).__name__)
    assert outcomes.count("CheckpointError") > 150
    assert {"CheckpointError", "{'amax': 1.0, 'b': 2.0}"} == set(outcomes)


def test_changed_pickles_give_an_object_or_a_reason() -> None:
    """Without the archive's checksums in the way."""
    raw = io.BytesIO()
    torch.save({"amax": torch.tensor(1.0), "b": {"c": [1, 2.0, None, (True,)]}}, raw)
    whole = zipfile.ZipFile(raw).read("archive/data.pkl")
    luck = random.Random(2)
    refused = 0
    for _ in range(20000):
        changed = bytearray(whole)
        for _ in range(luck.choice([1, 2, 4])):
            changed[luck.randrange(len(changed))] = luck.randrange(256)
        try:
            parse_state(bytes(changed))
        except ValueError:
            refused += 1
    assert 5000 < refused < 20000
