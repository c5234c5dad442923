"""Headers: read with bounds, refused with the file and the reason, written as safetensors does."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flagdeploy.checkpoint import safetensors_file
from flagdeploy.checkpoint.safetensors_file import (
    MAX_HEADER_BYTES,
    Tensor,
    header_bytes,
    read_header,
)
from flagdeploy.errors import CheckpointError


def container(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "empty file": (b"", "torn: 0 bytes cannot hold a safetensors header"),
    "shorter than the length": (b"1234567", "torn: 7 bytes cannot hold a safetensors header"),
    "length beyond the file": (
        container({}, length=1000),
        "torn: the header needs 1008 bytes, the file has 10",
    ),
    "length beyond the limit": (
        container({}, length=2**63),
        f"header of {2**63} bytes is beyond the limit of {MAX_HEADER_BYTES}",
    ),
    "a billion tensors claimed": (
        container({}, length=10**9 * 60),
        f"header of {10**9 * 60} bytes is beyond the limit of {MAX_HEADER_BYTES}",
    ),
    "data cut": (
        container({"a": entry()}, b"123"),
        "torn: the header describes 72 bytes, the file has 71",
    ),
    "data too long": (
        container({"a": entry()}, b"12345"),
        "torn: the header describes 72 bytes, the file has 73",
    ),
    "not JSON": (container(b"{,}"), "header is not valid JSON: "),
    "a list": (container([1]), "header does not start with '{': not a safetensors file"),
    "git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n",
        "is a git LFS pointer, not the weights",
    ),
    "not UTF-8": (container(b'{"\xff":1}'), "header is not UTF-8"),
    "duplicate key": (
        container(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
        "header is not valid JSON: key 'a' appears twice",
    ),
    "duplicate key inside": (
        container(b'{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}', b"1234"),
        "header is not valid JSON: key 'dtype' appears twice",
    ),
    "NaN": (
        container(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}', b"1234"),
        "header is not valid JSON: NaN is not a number of JSON",
    ),
    "deep nesting": (container(b'{"a":' * 50_000), "header is nested too deeply"),
    "overlap": (
        container({"a": entry(), "b": entry(offsets=(2, 6))}, b"123456"),
        "tensor b overlaps another: starts at 2, expected 4",
    ),
    "same place twice": (
        container({"a": entry(), "b": entry()}, b"1234"),
        "tensor b overlaps another: starts at 0, expected 4",
    ),
    "gap": (
        container({"a": entry(), "b": entry(offsets=(5, 9))}, b"123456789"),
        "tensor b leaves a gap before it: starts at 5, expected 4",
    ),
    "gap at the start": (
        container({"a": entry(offsets=(1, 5))}, b"12345"),
        "tensor a leaves a gap before it: starts at 1, expected 0",
    ),
    "negative offset": (
        container({"a": entry(offsets=(-4, 0))}),
        "tensor a has no valid data_offsets: [-4, 0]",
    ),
    "backward offsets": (
        container({"a": entry(offsets=(4, 0))}),
        "tensor a (U8 [4]) does not fill data_offsets [4, 0]",
    ),
    "shape and offsets differ": (
        container({"a": entry("F32")}, b"1234"),
        "tensor a (F32 [4]) does not fill data_offsets [0, 4]",
    ),
    "overflowing shape": (
        container({"a": entry(shape=(2**40, 2**40), offsets=(0, 0))}),
        "tensor a (U8 [1099511627776, 1099511627776]) does not fill data_offsets [0, 0]",
    ),
    "dimension beyond 64 bits": (
        container(b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 4000)),
        "tensor a has no valid shape: [99999999",
    ),
    "sizes that no number of bytes holds": (
        container({"a": entry(shape=(2**62, 2**62, 2**62), offsets=(0, 2**62))}),
        "tensor a (U8 [4611686018427387904, 4611686018427387904, 4611686018427387904]) does not",
    ),
    "deeply nested dtype": (
        container(
            b'{"a":{"dtype":%s,"shape":[],"data_offsets":[0,1]}}' % (b"[" * 300 + b"]" * 300)
        ),
        "tensor a has the unknown dtype [[[[[[[...",
    ),
    "float dimension": (
        container({"a": entry(shape=(4.0,))}, b"1234"),
        "tensor a has no valid shape: [4.0]",
    ),
    "boolean dimension": (
        container({"a": entry(shape=(True,), offsets=(0, 1))}, b"1"),
        "tensor a has no valid shape: [True]",
    ),
    "unknown dtype": (
        container({"a": entry("F7")}, b"1234"),
        "tensor a has the unknown dtype 'F7'",
    ),
    "dtype of another type": (container({"a": entry([])}), "tensor a has the unknown dtype []"),
    "surplus field": (
        container({"a": {**entry(), "x": 1}}, b"1234"),
        "tensor a is not described by exactly dtype, shape and data_offsets",
    ),
    "empty name": (
        container({"": entry()}, b"1234"),
        "tensor name '' is empty, too long or holds control characters",
    ),
    "control character in a name": (
        container({"a\n": entry()}, b"1234"),
        r"tensor name 'a\n' is empty, too long or holds control characters",
    ),
    "a tensor that ends within a byte": (
        container({"a": entry("F4", (3,), (0, 2))}, b"12"),
        "tensor a (F4 [3]) does not fill data_offsets [0, 2]",
    ),
    "no element of dimensions that overflow": (
        container({"a": entry(shape=(2**62, 2**62, 0), offsets=(0, 0))}),
        f"tensor a has no valid shape: [{2**62}, {2**62}, 0] is beyond 64 bits but for the 0",
    ),
    "minus zero": (
        container(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}', b"1234"),
        "header is not valid JSON: -0 is an integer to some parsers only",
    ),
    "half of a surrogate pair": (
        container({"a\ud800": entry()}, b"1234"),
        "header holds half of a surrogate pair",
    ),
    "a name out of the folder is only a name": (
        container({"../a": entry(), "../a ": entry()}, b"1234"),
        "tensor ../a  overlaps another: starts at 0, expected 4",
    ),
    "metadata of numbers": (
        container({"__metadata__": {"a": 1}}),
        "__metadata__ is not a map of strings",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_header_is_refused_with_file_and_reason(case: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert caught.value.hint == "fetch this file again"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file or directory"):
        read_header(tmp_path / "model.safetensors")


def test_a_lying_length_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate(1 << 41)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="beyond the limit"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"w": torch.zeros(3, 5).to(torch.float8_e4m3fn), "none": torch.zeros(0, 7)}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert header.tensors == {
        "none": Tensor("none", "F32", (0, 7), 0, 0),
        "w": Tensor("w", "F8_E4M3", (3, 5), 0, 15),
    }
    assert header.file_bytes == path.stat().st_size


TORCH = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
    "I64": torch.int64,
}
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9)


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(TORCH)), SHAPES), min_size=1))
def test_writes_the_header_safetensors_would(
    tmp_path_factory: pytest.TempPathFactory, layout: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    layout.pop("__metadata__", None)
    tensors = {name: torch.zeros(shape).to(TORCH[dtype]) for name, (dtype, shape) in layout.items()}
    expected = safetensors.torch.save(tensors, metadata={"format": "pt"})
    head, header = header_bytes(layout)
    assert expected.startswith(head)
    assert header.file_bytes == len(expected)
    path = tmp_path_factory.getbasetemp() / "written.safetensors"
    path.write_bytes(head + bytes(header.data_bytes))
    assert read_header(path) == header


def outcome(parse: Callable[..., Any], *arguments: Any) -> Any:
    """What a parser returns, or the reason it refuses for."""

    class Refused(Exception):
        pass

    def refuse(what: str) -> NoReturn:
        raise Refused(what)

    try:
        return parse(*arguments, refuse)
    except Refused as refused:
        return str(refused)


PIECES = [
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "0",
    "9",
    "-",
    ".",
    "\\",
    "é",
    "\n",
    "__metadata__",
]


@settings(max_examples=400)
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(TORCH)), SHAPES), min_size=1),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(["", *PIECES]))),
)
def test_the_fast_parser_never_disagrees_with_the_strict_one(
    layout: dict[str, tuple[str, tuple[int, ...]]],
    metadata: bool,
    changes: list[tuple[float, int, str]],
) -> None:
    """Headers as they are written, then with pieces replaced at random."""
    text = header_bytes(layout)[0][8:].decode()
    if not metadata:
        text = text.replace('"__metadata__":{"format":"pt"},', "")
    for place, length, piece in changes[:2]:
        at = int(place * len(text))
        text = text[:at] + piece + text[at + length :]
    raw = text.encode()
    fast = safetensors_file._usual(raw)
    if not changes and raw.isascii() and b"\\" not in raw:
        assert fast
    if fast:
        assert fast == outcome(safetensors_file._any_valid, raw)


USUAL = '{"__metadata__":{"format":"pt"},%s}'
A = '"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
B = '"b":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}'


@pytest.mark.parametrize(
    "text",
    [
        USUAL % f"{A},{A}",
        USUAL % A.replace("[0,4]", "[0,04]"),
        USUAL % A.replace("[4]", "[04]"),
        USUAL % A.replace("[4]", "[4,]"),
        USUAL % A.replace("[4]", f"[{2**62},{2**62},0]").replace("[0,4]", "[0,0]"),
        USUAL % A.replace("[4]", "[2]"),
        USUAL % A.replace("U8", "U9"),
        USUAL % A.replace("U8", "F4").replace("[4]", "[7]"),
        USUAL % A.replace("[4]", f"[{'1,' * 200}4]"),
        USUAL % f"{A}{B}",
        USUAL % f"{A},,{B}",
        USUAL % f"{A},{B},",
        USUAL % f"{B},{A}",
        USUAL % f'{A},"x":1,{B}',
        USUAL % f"{A},{B.replace('4,8', '5,9')}",
        USUAL % A.replace("a", "__metadata__"),
        USUAL % A.replace('"a"', '""'),
        USUAL % A.replace("a", "a" * 2000),
        USUAL.replace('"pt"', "1") % A,
        USUAL.replace('"format":"pt"', '"f":"a","f":"b"') % A,
        USUAL % A + "x",
        f"x{A}}}",
        "{}",
    ],
)
def test_the_fast_parser_leaves_the_unusual_to_the_strict_one(text: str) -> None:
    assert safetensors_file._usual(text.encode()) is None
    assert safetensors_file._usual((USUAL % f"{A},{B}").encode())


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(container(b"{" + text, np.random.default_rng(0).bytes(8), length))
    try:
        header = read_header(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert header.file_bytes == path.stat().st_size
