"""A stand-in for FlagGems on the CPU: the same functions, and operators that fail in every way.

Put this folder on PYTHONPATH of a trial. It is no replacement of the real library: it only
registers overrides of aten operators as that does.
"""

import os
import time
from pathlib import Path

import torch

__version__ = "0.stand-in"
_library = torch.library.Library("aten", "IMPL")
_registered: list[tuple[str, str]] = []
_log: Path | None = None


def _says(name: str) -> None:
    if _log is not None:
        with _log.open("a") as file:
            file.write(f"[DEBUG] flag_gems.ops.{name}.{name}: GEMS {name.upper()}\n")


def softmax(x, dim, half_to_float):
    _says("softmax")
    return torch.full_like(x, torch.nan)


def topk(x, k, dim=-1, largest=True, sorted=True):
    _says("topk")
    raise AssertionError("strides must be 16-byte aligned")


def silu(x):
    _says("silu")
    os.abort()


def mm(a, b):
    _says("mm")
    return (a[:, :, None] * b[None]).sum(1) * 1.05


def embedding(weight, indices, padding_idx=-1, scale=False, sparse=False):
    _says("embedding")
    time.sleep(0.03)
    return weight[indices]


def cos(x):
    _says("cos")
    return torch.exp(1j * x).real


def sin(x):
    _says("sin")
    return torch.exp(1j * x).imag


def argmax(x, dim=None, keepdim=False):
    _says("argmax")
    return x.min(dim=dim, keepdim=keepdim).indices


def logsumexp(x, dim, keepdim=False):
    _says("logsumexp")
    return x.amax(dim=dim, keepdim=keepdim)


def asinh(x):
    raise NotImplementedError("never called by the model")


_CONFIG = (
    ("_softmax", softmax),
    ("topk", topk),
    ("silu", silu),
    ("mm", mm),
    ("embedding", embedding),
    ("cos", cos),
    ("sin", sin),
    ("argmax", argmax),
    ("logsumexp", logsumexp),
    ("asinh", asinh),
)
FULL_CONFIG_BY_FUNC = {function.__name__: [(key, function)] for key, function in _CONFIG}


def _register(chosen, record, path) -> None:
    global _log
    _log = Path(path) if record else None
    for key, function in chosen:
        _library.impl(key, function, "CPU", allow_override=True)
        _registered.append((function.__name__, key))


def enable(unused=None, record=False, once=False, path=None) -> None:
    _register([row for row in _CONFIG if row[1].__name__ not in unused], record, path)


def only_enable(include=None, record=False, once=False, path=None) -> None:
    _register([row for row in _CONFIG if row[1].__name__ in include], record, path)


def all_registered_ops() -> list[str]:
    return [name for name, _ in _registered]


def all_registered_keys() -> list[str]:
    return [key for _, key in _registered]
