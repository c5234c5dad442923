"""Numbers out of torch.save's files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flagdeploy.errors import CheckpointError
from flagdeploy.formats.torch_file import TorchFile, described, opened
from flagdeploy.formats.torch_pickle import Tensor

MAX_STORAGE_BYTES = 1 << 20

_FLOATS = ("F32", "BF16", "F16", "F64")


def read_numbers(path: Path, wanted: Callable[[str], bool]) -> dict[str, float]:
    """The tensors of a state dict whose name is `wanted`: ``{name: value}``, one element each, of
    F32, BF16, F16 or F64. Storages of other tensors are not read.

    Raises CheckpointError, with the file and the reason, for a file that is not what torch.save
    writes for a dict of tensors, beyond its limits, or whose wanted tensors hold more.
    """
    with _refusing(path), opened(path) as file:
        if type(file.content) is not dict:
            raise ValueError("holds no dict of tensors")
        chosen = {
            name: tensor
            for name, tensor in file.content.items()
            if type(name) is str and wanted(name)
        }
        return {name: _number(file, name, tensor) for name, tensor in chosen.items()}


def _number(file: TorchFile, name: str, tensor: object) -> float:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: is not a tensor")
    if tensor.storage.dtype not in _FLOATS or any(length != 1 for length in tensor.shape):
        raise ValueError(f"{name}: is {described(tensor)}, not one number of {', '.join(_FLOATS)}")
    return float(file.values(name, tensor, MAX_STORAGE_BYTES).item())


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {error}",
            "copy this file again from where it was written; it must be of torch.save, "
            "torch >= 1.6",
        ) from None
