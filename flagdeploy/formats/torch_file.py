"""torch.save's files, without torch and without executing what a file says.

Format (torch/serialization.py, since torch 1.6): an uncompressed zip archive of ``NAME/data.pkl``,
a pickle of protocol 2, ``NAME/data/KEY``, the bytes of each storage, and ``NAME/byteorder``.
"""

import io
import math
import reprlib
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagdeploy.formats.torch_pickle import Tensor, parse_state

if TYPE_CHECKING:
    import numpy as np

# The pickle of all experts of DeepSeek-R1 in one file is 11 MB, the archive's table of names 9 MB.
MAX_PICKLE_BYTES = 16 << 20
MAX_TABLE_BYTES = 32 << 20

# numpy's names; a BF16 is read as the upper half of an F32.
_DTYPES = {"F32": "<f4", "BF16": "<u2", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4"}
_DTYPES |= {"I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}


class TorchFile:
    """`content` is what was saved, with `Tensor` in the place of tensors."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._records = _Records(archive)
        self.content: Any = parse_state(self._records.read("data.pkl", MAX_PICKLE_BYTES))

    def values(self, name: str, tensor: Tensor, limit: int) -> "np.ndarray[Any, Any]":
        """The elements of `tensor` in its shape, BF16 as F32; `name` is for messages.

        ValueError when its storage or what it spans has more than `limit` bytes, or does not fit.
        """
        import numpy as np

        dtype, key, elements = tensor.storage
        size = np.dtype(_DTYPES[dtype]).itemsize
        if math.prod(tensor.shape) * size > limit:
            raise ValueError(f"{name}: is {described(tensor)}, more than {limit} bytes")
        raw = self._records.read(f"data/{key}", limit)
        if len(raw) != elements * size or tensor.offset >= max(elements, 1):
            raise ValueError(f"{name}: its storage has {len(raw)} bytes, not {elements} of {dtype}")
        if math.prod(tensor.shape) and tensor.offset + _reach(tensor) >= elements:
            raise ValueError(f"{name}: is {described(tensor)}, beyond its {elements} elements")
        storage = np.frombuffer(raw, _DTYPES[dtype])[tensor.offset :]
        steps = [size * step for step in tensor.stride]
        found = np.lib.stride_tricks.as_strided(storage, tensor.shape, steps, writeable=False)
        if dtype == "BF16":
            return (found.astype(np.uint32) << 16).view(np.float32)
        return found.copy()


def _reach(tensor: Tensor) -> int:
    """How far the last element lies behind the first."""
    return sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))


def described(tensor: Tensor) -> str:
    return f"{tensor.storage.dtype} {reprlib.repr(list(tensor.shape))}"


@contextmanager
def opened(path: Path) -> Iterator[TorchFile]:
    """A file of torch.save, open for reading tensors.

    Raises ValueError with the reason for a file that torch.save would not write, or beyond a limit
    above, also while tensors are read; OSError when the disk says so.
    """
    if not path.is_file():
        raise ValueError("is not a file")
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            yield TorchFile(archive)
    # What zipfile raises for damaged archives besides its own error.
    except (zipfile.BadZipFile, RuntimeError, EOFError, OverflowError) as error:
        raise ValueError(f"not a sound zip archive: {error}") from None
    except struct.error as error:
        raise ValueError(str(error)) from None


class _Records:
    """The archive's records by their name below its one folder."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in archive.infolist():
            if entry.filename in self._entries:
                raise ValueError(f"has two records named {entry.filename!r}")
            self._entries[entry.filename] = entry
        roots = [name for name in self._entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"has {len(roots)} records data.pkl, not one")
        self._root = roots[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in self._entries and self.read("byteorder", 16) != b"little":
            raise ValueError("was not written on a little-endian machine")

    def read(self, name: str, limit: int) -> bytes:
        entry = self._entries.get(self._root + name)
        if entry is None:
            raise ValueError(f"has no record {name!r}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(f"record {name!r} is compressed, which torch.save never does")
        if entry.file_size > limit:
            raise ValueError(f"record {name!r} has {entry.file_size} bytes, limit {limit}")
        return self._archive.read(entry)


class _Bounded(io.FileIO):
    """A file of which zipfile reads no more at once than a real archive's table of names."""

    def read(self, size: int | None = -1, /) -> bytes:
        limit = MAX_TABLE_BYTES + 1
        data = super().read(limit if size is None or size < 0 else min(size, limit)) or b""
        if len(data) == limit:
            raise ValueError(f"has a table of records of more than {MAX_TABLE_BYTES} bytes")
        return data
