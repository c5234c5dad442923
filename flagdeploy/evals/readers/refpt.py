"""`.refpt` files of the Tenstorrent demos: tokens of a text and the reference's five best each.

Written by torch.save, read here without torch and without executing them. Four layouts:

- A, models/tt_transformers and the first DeepSeek demo: `reference_tokens` [1, T] and
  `top5_tokens` [T-1, 5] or [T, 5], whose row i predicts token i+1. The first T//2+1 tokens are the
  prompt. D, of tt-xla, is the same with `top1_tokens` and `library_versions` beside.
- B, models/demos/deepseek_v3 generate_teacher_forced_file.py: `tf_prompt_len` says where the
  prompt ends, and row i of `top5_tokens` [L, 5] predicts token i itself.
- C, ``multi_prompt_v1``: `entries` like B; ``multi_prompt_v1_lzma_v1``: `tensor_lzma`, for each of
  `entry_layout` P prompt tokens, G generated ones and G times five, int32, little endian.
"""

import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.formats.torch_file import TorchFile, opened
from flagdeploy.formats.torch_pickle import Tensor

SUFFIXES = (".refpt", ".pt", ".pth")
MAX_BYTES = 64 << 20  # of one tensor, or of what is compressed: three million positions
TOP = 5
# generate_reference_hf.py, which writes T-1 rows, starts every 1024 tokens without those before, so
# that later rows know less than whoever is compared with them.
CHUNK = 1024


@dataclass(frozen=True)
class Entry:
    """One text: `prompt`, the tokens that follow it, and per such token the reference's five most
    likely ids, best first; None where the file has none."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    top: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class TokenReference:
    """`layout` is ``A``, ``B``, ``C`` or ``D`` of the list above; `left_out` tokens at the end do
    not count, because the reference saw too little of what precedes them."""

    name: str
    layout: str
    entries: tuple[Entry, ...]
    left_out: int = 0


def read(path: Path) -> TokenReference:
    """Raise EvalError, with what is wrong, for a file of none of the four layouts."""
    try:
        with opened(path) as file:
            found = _read(path.name, file)
            if not any(entry.continuation for entry in found.entries):
                raise ValueError("holds no tokens to predict")
            return found
    except OSError as error:
        raise EvalError(f"{path}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, lzma.LZMAError) as error:
        raise EvalError(f"{path}: not a teacher-forcing file: {error!r}") from None
    except ValueError as error:
        raise EvalError(
            f"{path}: {error}",
            "a teacher-forcing file (.refpt) of torch.save holds reference_tokens and top5_tokens, "
            "or entries with prompt_tokens, generated_tokens and top5_tokens",
        ) from None


def _read(name: str, file: TorchFile) -> TokenReference:
    content = file.content
    if not isinstance(content, dict):
        raise ValueError("holds no dict")
    if "tensor_lzma" in content:
        return TokenReference(name, "C", tuple(_unpacked(content)))
    if "entries" in content:
        entries = tuple(_prompted(file, entry) for entry in content["entries"])
        return TokenReference(name, "C", entries)
    if "tf_prompt_len" in content:
        return TokenReference(name, "B", (_prompted(file, content),))
    if {"reference_tokens", "top5_tokens"} <= content.keys():
        layout = "D" if "top1_tokens" in content else "A"
        entry, left_out = _halved(file, content)
        return TokenReference(name, layout, (entry,), left_out)
    raise ValueError(f"holds {', '.join(map(str, content))}, none of the four layouts")


def _halved(file: TorchFile, content: Mapping[str, Any]) -> tuple[Entry, int]:
    """A text split in the middle, as the demos' TokenAccuracy does: at T//2+1."""
    tokens = _ids(file, content, "reference_tokens")
    rows = _rows(file, content)
    if len(rows) not in (len(tokens) - 1, len(tokens)):
        raise ValueError(f"has {len(rows)} rows of top5_tokens for {len(tokens)} tokens")
    whole = len(tokens)
    if len(rows) < whole:
        tokens = tokens[: CHUNK + 1]
    split = len(tokens) // 2 + 1
    entry = Entry(tokens[:split], tokens[split:], rows[split - 1 : len(tokens) - 1])
    return entry, whole - len(tokens)


def _prompted(file: TorchFile, entry: Mapping[str, Any]) -> Entry:
    tokens = _ids(file, entry, "prompt_tokens") + _ids(file, entry, "generated_tokens")
    start, rows = entry["tf_prompt_len"], _rows(file, entry)
    if len(rows) != len(tokens) or not 0 < start < len(tokens):
        raise ValueError(
            f"has {len(rows)} rows of top5_tokens for {len(tokens)} tokens, tf_prompt_len {start}"
        )
    return Entry(tokens[:start], tokens[start:], rows[start:])


def _ids(file: TorchFile, content: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """A row of token ids: the tensor's shape is [1, n], or [n]."""
    values = file.values(name, _tensor(content, name), MAX_BYTES)
    if values.ndim not in (1, 2) or values.shape[0] != 1 and values.ndim == 2:
        raise ValueError(f"{name}: has the shape {list(values.shape)}, not [1, n]")
    return _natural(name, values.reshape(-1).tolist())


def _rows(file: TorchFile, content: Mapping[str, Any]) -> tuple[tuple[int, ...] | None, ...]:
    values = file.values("top5_tokens", _tensor(content, "top5_tokens"), MAX_BYTES)
    if values.ndim != 2 or values.shape[1] != TOP:
        raise ValueError(f"top5_tokens: has the shape {list(values.shape)}, not [n, {TOP}]")
    return tuple(map(_predicted, values.tolist()))


def _predicted(row: Sequence[int]) -> tuple[int, ...] | None:
    """Five different tokens; rows that nobody predicted are zeros."""
    return _natural("top5_tokens", row) if any(row) else None


def _natural(name: str, ids: Sequence[Any]) -> tuple[int, ...]:
    if any(type(id_) is not int or id_ < 0 for id_ in ids):
        raise ValueError(f"{name}: are no token ids")
    return tuple(ids)


def _tensor(content: Mapping[str, Any], name: str) -> Tensor:
    if not isinstance(content.get(name), Tensor):
        raise ValueError(f"has no tensor {name}")
    tensor: Tensor = content[name]
    return tensor


def _unpacked(content: Mapping[str, Any]) -> Iterator[Entry]:
    import numpy as np

    unpacker = lzma.LZMADecompressor(memlimit=2 * MAX_BYTES)
    raw = unpacker.decompress(content["tensor_lzma"], MAX_BYTES)
    sizes = [(entry["P"], entry["G"], entry["tf_prompt_len"]) for entry in content["entry_layout"]]
    wanted = 4 * sum(prompt + (1 + TOP) * generated for prompt, generated, _ in sizes)
    if not unpacker.eof or len(raw) != wanted:
        raise ValueError(f"tensor_lzma: has {len(raw)} bytes, its entry_layout needs {wanted}")
    ids = np.frombuffer(raw, "<i4").tolist()
    at = 0
    for prompt, generated, start in sizes:
        if start != prompt or min(prompt, generated) < 1:
            raise ValueError(f"entry_layout: P {prompt}, G {generated}, tf_prompt_len {start}")
        end, last = at + prompt + generated, at + prompt + (1 + TOP) * generated
        top = [_predicted(ids[row : row + TOP]) for row in range(end, last, TOP)]
        yield Entry(
            _natural("prompt", ids[at : at + prompt]),
            _natural("generated", ids[at + prompt : end]),
            tuple(top),
        )
        at = last
