"""Numbers out of torch.save's files, without torch and without executing what a file says.

Format (torch/serialization.py, since torch 1.6): an uncompressed zip archive of ``NAME/data.pkl``,
a pickle of protocol 2, ``NAME/data/KEY``, the bytes of each storage, and ``NAME/byteorder``.
"""

import io
import reprlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flagdeploy.checkpoint import torch_pickle
from flagdeploy.checkpoint.torch_pickle import Tensor
from flagdeploy.errors import CheckpointError

# The pickle of all experts of DeepSeek-R1 in one file is 11 MB, the archive's table of names 9 MB.
MAX_PICKLE_BYTES = 16 << 20
MAX_TABLE_BYTES = 32 << 20
MAX_STORAGE_BYTES = 1 << 20

_SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}


def read_numbers(path: Path, wanted: Callable[[str], bool]) -> dict[str, float]:
    """The tensors of a state dict whose name is `wanted`: ``{name: value}``, one element each, of
    F32, BF16, F16 or F64. Storages of other tensors are not read.

    Raises CheckpointError, with the file and the reason, for a file that is not what torch.save
    writes for a dict of tensors, beyond a limit above, or whose wanted tensors hold more.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: is not a file")
    with _refusing(path), _Bounded(path) as file, zipfile.ZipFile(file) as archive:
        records = _Records(archive)
        content = torch_pickle.parse(records.read("data.pkl", MAX_PICKLE_BYTES))
        if type(content) is not dict:
            raise ValueError("holds no dict of tensors")
        chosen = {
            name: tensor for name, tensor in content.items() if type(name) is str and wanted(name)
        }
        return {name: _number(name, tensor, records) for name, tensor in chosen.items()}


def _number(name: str, tensor: object, records: "_Records") -> float:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: is not a tensor")
    dtype, key, elements = tensor.storage
    if dtype not in _SIZES or any(length != 1 for length in tensor.shape):
        shape, known = reprlib.repr(list(tensor.shape)), ", ".join(_SIZES)
        raise ValueError(f"{name}: is {dtype} {shape}, not one number of {known}")
    raw = records.read(f"data/{key}", MAX_STORAGE_BYTES)
    size = _SIZES[dtype]
    if len(raw) != elements * size or tensor.offset >= elements:
        raise ValueError(f"{name}: its storage has {len(raw)} bytes, not {elements} of {dtype}")
    raw = raw[tensor.offset * size : (tensor.offset + 1) * size]
    if dtype == "BF16":
        dtype, raw = "F32", b"\0\0" + raw
    value: float = struct.unpack({"F32": "<f", "F16": "<e", "F64": "<d"}[dtype], raw)[0]
    return value


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


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    hint = "copy this file again from where it was written; it must be of torch.save, torch >= 1.6"
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    # What zipfile raises for damaged archives besides its own error.
    except (zipfile.BadZipFile, RuntimeError, EOFError, OverflowError) as error:
        raise CheckpointError(f"{path}: not a sound zip archive: {error}", hint) from None
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: {error}", hint) from None
