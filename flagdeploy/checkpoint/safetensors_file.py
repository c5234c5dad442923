"""The safetensors container: headers read with bounds, headers written.

Format (huggingface/safetensors, README "Format"): 8 bytes, little-endian u64 N; N bytes of JSON
``{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}``, padded
with spaces; then the data, to which the offsets are relative. Nothing here reads the data.
"""

import hashlib
import json
import math
import operator
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from flagdeploy.checkpoint import strict_json
from flagdeploy.errors import CheckpointError

# Bits per element, in the order of the format's own enumeration, by which its writer sorts tensors.
DTYPE_BITS = {
    **{"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8},
    **{"F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16},
    **{"F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64},
    **{"I64": 64, "U64": 64},
}
_DTYPE_RANK = {dtype: rank for rank, dtype in enumerate(DTYPE_BITS)}

# Room for some 300,000 tensors in one file; a published shard's header is below 1 MB. Parsing JSON
# takes about ten times its size in memory, so this also bounds what a hostile file can claim.
MAX_HEADER_BYTES = 32 << 20
_FIELDS = {"dtype", "shape", "data_offsets"}
_MAX_NAME = 1024
_MAX_RANK = 16
_MAX_SHAPE = _MAX_RANK * 20
_BEYOND = 1 << 63

# An entry of a header as every writer in use writes it: without spaces, fields in this order. The
# last group is what follows the entry.
_ENTRY = re.compile(
    rf'"([ !#-\[\]-~]{{1,{_MAX_NAME}}})":\{{("dtype":"\w+","shape":\[[\d,]{{0,{_MAX_SHAPE}}}\]),'
    r'"data_offsets":\[(0|[1-9]\d{0,17}),(0|[1-9]\d{0,17})\]\}(.)'
)
_ENTRY_BYTES = len('"":{,"data_offsets":[,]}')
_METADATA = re.compile(r'\{"__metadata__":(\{[^{}]*\}),')

Refuse = Callable[[str], NoReturn]
# Tensors, metadata and the bytes of data.
_Parsed = tuple[dict[str, "Tensor"], dict[str, str], int]


class Tensor(NamedTuple):
    """One entry of a header; `begin` and `end` are bytes relative to the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """A file's whole header; the data starts at byte `data_start` of the file, `sha256` is that of
    the header's JSON text."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    data_start: int
    data_bytes: int
    sha256: str = field(default="", compare=False)

    @property
    def file_bytes(self) -> int:
        return self.data_start + self.data_bytes


def tensor_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Size of a tensor of a known dtype in bytes, of which the format has whole ones only."""
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def place(index: int, shape: Iterable[int]) -> list[int]:
    """The coordinates of element `index` (row-major) of a tensor."""
    coordinates = []
    for size in reversed(tuple(shape)):
        index, coordinate = divmod(index, size)
        coordinates.append(coordinate)
    return coordinates[::-1]


def read_header(path: Path) -> Header:
    """Read and check the header of one file; at most `MAX_HEADER_BYTES` of it are ever read.

    Raises CheckpointError, naming the file and the reason, when the file is missing, shorter or
    longer than its header says, or when the header is not exactly what the format allows.
    """

    def refuse(what: str) -> NoReturn:
        raise CheckpointError(f"{path}: {what}", "fetch this file again")

    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if first == b"version ":
                refuse("is a git LFS pointer, not the weights")
            if size < 8:
                refuse(f"torn: {size} bytes cannot hold a safetensors header")
            if length > MAX_HEADER_BYTES:
                refuse(f"header of {length} bytes is beyond the limit of {MAX_HEADER_BYTES}")
            if 8 + length > size:
                refuse(f"torn: the header needs {8 + length} bytes, the file has {size}")
            raw = file.read(length)
    except OSError as error:
        refuse(f"cannot be read: {error.strerror}")
    header = parse_header(raw, refuse)
    if header.file_bytes != size:
        refuse(f"torn: the header describes {header.file_bytes} bytes, the file has {size}")
    return header


def parse_header(raw: bytes, refuse: Refuse) -> Header:
    """Parse the JSON part of a header; `refuse` is called with the reason when it is not valid."""
    tensors, metadata, end = _usual(raw) or _any_valid(raw, refuse)
    return Header(tensors, metadata, 8 + len(raw), end, hashlib.sha256(raw).hexdigest())


def _usual(raw: bytes) -> _Parsed | None:
    """Tensors and metadata of a valid header in the usual form; None for any other bytes.

    Three times as fast as the parser below, which decides about all that is not plainly valid.
    """
    if not raw.isascii():
        return None
    text = raw.decode("ascii").rstrip(" ")
    first = _METADATA.match(text)
    start = first.end() if first else 1
    columns = tuple(zip(*_ENTRY.findall(text, start), strict=True))
    if not columns:
        return None
    names, kinds, begins, ends, follows = columns
    count = len(names)
    # The entries leave out no byte, and what is between them is what JSON has there.
    covered = sum(len("".join(column)) for column in columns) + count * _ENTRY_BYTES
    whole = text[0] == "{" and start + covered == len(text)
    if not whole or "".join(follows) != "," * (count - 1) + "}":
        return None
    known = {kind: _kind(kind) for kind in set(kinds)}
    metadata = _strings(first[1]) if first else {}
    if metadata is None or None in known.values() or begins != ("0", *ends[:-1]):
        return None
    dtypes, shapes, sizes = zip(*map(known.__getitem__, kinds), strict=True)
    bounds = (0, *map(int, ends))
    if tuple(map(operator.sub, bounds[1:], bounds)) != sizes:
        return None
    entries = zip(names, dtypes, shapes, bounds, bounds[1:], strict=False)
    tensors = dict(zip(names, map(partial(tuple.__new__, Tensor), entries), strict=True))
    if len(tensors) != count or "__metadata__" in tensors:
        return None
    return tensors, metadata, bounds[-1]


@lru_cache(4096)
def _kind(text: str) -> tuple[str, tuple[int, ...], int] | None:
    """(dtype, shape, bytes) of the text of an entry's first two fields, or None."""
    try:
        entry = strict_json.parse(f"{{{text}}}".encode())
    except ValueError:
        return None
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in DTYPE_BITS or not _naturals(shape) or len(shape) > _MAX_RANK:
        return None
    if math.prod(shape) * DTYPE_BITS[dtype] % 8 or _overflows(shape):
        return None
    return dtype, tuple(shape), tensor_bytes(dtype, shape)


def _strings(text: str) -> dict[str, str] | None:
    try:
        found = strict_json.parse(text.encode())
    except ValueError:
        return None
    return found if all(isinstance(value, str) for value in found.values()) else None


def _any_valid(raw: bytes, refuse: Refuse) -> _Parsed:
    """Tensors and metadata of any valid header."""
    if not raw.startswith(b"{"):
        refuse("header does not start with '{': not a safetensors file")
    try:
        entries = strict_json.parse(raw)
    except ValueError as error:
        refuse(f"header {error}")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse("__metadata__ is not a map of strings")
    tensors = {name: _tensor(name, entry, refuse) for name, entry in entries.items()}
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            what = "overlaps another" if tensor.begin < end else "leaves a gap before it"
            refuse(f"tensor {tensor.name} {what}: starts at {tensor.begin}, expected {end}")
        end = tensor.end
    return tensors, metadata, end


def header_bytes(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    more_metadata: Mapping[str, str] = MappingProxyType({}),
) -> tuple[bytes, Header]:
    """Lay out ``{name: (dtype, shape)}`` and return the bytes before the data, and their meaning.

    The order (widest dtype first, then by name), the ``{"format": "pt"}`` metadata that
    transformers insists on and the padding to 8 bytes are those of safetensors' own `save_file`,
    so that equal tensors give equal files.
    """
    order = sorted(tensors.items(), key=lambda item: (-_DTYPE_RANK[item[1][0]], item[0]))
    laid: dict[str, Tensor] = {}
    end = 0
    for name, (dtype, shape) in order:
        begin, end = end, end + tensor_bytes(dtype, shape)
        laid[name] = Tensor(name, dtype, shape, begin, end)
    metadata = {"format": "pt"} | dict(more_metadata)
    entries: dict[str, Any] = {"__metadata__": metadata} | {
        t.name: {"dtype": t.dtype, "shape": t.shape, "data_offsets": (t.begin, t.end)}
        for t in laid.values()
    }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, Header(laid, metadata, 8 + len(text), end)


def _tensor(name: str, entry: Any, refuse: Refuse) -> Tensor:
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        refuse(f"tensor name {name[:80]!r} is empty, too long or holds control characters")
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        refuse(f"tensor {name} is not described by exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        refuse(f"tensor {name} has the unknown dtype {reprlib.repr(dtype)}")
    if not _naturals(shape) or len(shape) > _MAX_RANK:
        refuse(f"tensor {name} has no valid shape: {reprlib.repr(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        refuse(f"tensor {name} has no valid data_offsets: {reprlib.repr(offsets)}")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
        refuse(f"tensor {name} ({dtype} {shape}) does not fill data_offsets [{begin}, {end}]")
    if _overflows(shape):
        refuse(f"tensor {name} has no valid shape: {shape} is beyond 64 bits but for the 0")
    return Tensor(name, dtype, tuple(shape), begin, end)


def _overflows(shape: list[int]) -> bool:
    """True for an empty tensor whose other dimensions no program could multiply."""
    return math.prod(filter(None, shape)) >= _BEYOND


def _naturals(value: Any) -> bool:
    """True for a list of integers below 2**63; a bool is an int to Python, but not a dimension."""
    if type(value) is not list:
        return False
    for number in value:  # noqa: SIM110 - this runs twice per tensor, 200,000 times for a model
        if type(number) is not int or not 0 <= number < _BEYOND:
            return False
    return True
