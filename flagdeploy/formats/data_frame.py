"""A pandas DataFrame out of its pickle, without pandas and without executing what the file says.

What pandas 1.5 to 3 writes with protocols 2 to 5: a DataFrame of a BlockManager, which holds the
columns' names and one array per type of columns (pandas/core/internals/managers.py); arrays of
numpy (numpy/_core/src/multiarray/methods.c, `__reduce__`), and, from pandas 3 on, text as arrays
of Arrow: offsets, bytes and a bit mask of what is there (arrow.apache.org, columnar format).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagdeploy.formats.pickle import Global, Vocabulary, exactly, natural, parse

if TYPE_CHECKING:
    import numpy as np

# MLPerf's DeepSeek-R1 set holds 20 million token ids, an instruction each.
MAX_INSTRUCTIONS = 64_000_000
MAX_BYTES = 2 << 30


def read_columns(path: Path) -> dict[str, list[Any]]:
    """The columns of a pickled DataFrame whose names are text: one value per row, None where
    pandas has a missing text. Values are plain Python data; arrays in cells become lists.

    Raises ValueError with the reason for a file that is anything else, OSError when the disk does.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"has {size} bytes, limit {MAX_BYTES}")
    try:
        frame = parse(path.read_bytes(), _VOCABULARY, MAX_INSTRUCTIONS)
        return _columns(_is(frame, "DataFrame"))
    except (TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"is no pickled DataFrame that is understood: {error!r}") from None


@dataclass
class _Made:
    """What a call gave: `kind` is the last part of its name, `state` what BUILD added."""

    kind: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass
class _Array:
    """An array of numpy: `values` has its raw bytes, or, of objects, the list of them."""

    dtype: Any = None
    shape: tuple[int, ...] = ()
    values: Any = b""
    column_major: bool = False


_NUMPY = ("numpy.core", "numpy._core")
_PANDAS = ("pandas", "pandas.core.frame", "pandas.core.indexes.base", "pandas.core.indexes.range")
_KINDS = {
    **{f"{module} DataFrame": "DataFrame" for module in _PANDAS},
    **{f"{module} Index": "Index" for module in _PANDAS},
    **{f"{module} RangeIndex": "RangeIndex" for module in _PANDAS},
    "pandas.core.indexes.numeric Int64Index": "Index",
    "pandas.core.indexes.base _new_Index": "_new_Index",
    "pandas.core.internals.managers BlockManager": "BlockManager",
    "pandas._libs.internals _unpickle_block": "Block",
    "pandas StringDtype": "StringDtype",
    "pandas.core.arrays.string_ StringDtype": "StringDtype",
    "pandas.arrays ArrowStringArray": "StringArray",
    "pandas.arrays StringArray": "StringArray",
    "pandas.core.arrays.string_ StringArray": "StringArray",
    "pandas.core.arrays.string_ StringArrayNumpySemantics": "StringArray",
    "pandas.core.arrays.string_arrow ArrowStringArray": "StringArray",
    "pandas.core.arrays.string_arrow ArrowStringArrayNumpySemantics": "StringArray",
    "pyarrow.lib _restore_array": "arrow",
    "pyarrow.lib py_buffer": "buffer",
    "pyarrow.lib type_for_alias": "alias",
    "pandas._libs.arrays __pyx_unpickle_NDArrayBacked": "StringArray",
    "builtins slice": "slice",
    "__builtin__ slice": "slice",
    "builtins bytes": "bytes",
    "__builtin__ bytes": "bytes",
    "builtins bytearray": "bytes",
    "__builtin__ bytearray": "bytes",
    "_codecs encode": "encode",
    "numpy dtype": "dtype",
    "numpy ndarray": "ndarray",
    **{f"{module}.multiarray _reconstruct": "reconstruct" for module in _NUMPY},
    **{f"{module}.multiarray scalar": "scalar" for module in _NUMPY},
    **{f"{module}.numeric _frombuffer": "frombuffer" for module in _NUMPY},
}


def _call(function: Global, arguments: tuple[Any, ...]) -> Any:
    kind = _KINDS[function.name]
    match kind, arguments:
        case "encode", (str(text), "latin1"):
            return text.encode("latin1")
        case "bytes", ():
            return b""
        case "bytes", (bytes() | bytearray() as content,):
            return bytes(content)
        case "reconstruct", (Global("numpy ndarray"), tuple(), bytes()):
            return _Array()
        case "frombuffer", (bytes() | bytearray() as raw, _Made("dtype") as dtype, tuple(shape), o):
            return _Array(dtype, _sizes(shape), raw, o == "F")
        case "scalar", (_Made("dtype") as dtype, bytes(raw)):
            return _Array(dtype, (), raw)
    if kind in ("encode", "bytes", "reconstruct", "frombuffer", "scalar", "ndarray"):
        raise TypeError
    return _Made(kind, arguments)


def _build(target: Any, state: Any) -> None:
    match target, state:
        case _Array(), (1, tuple(shape), _Made("dtype") as dtype, bool(column_major), values):
            target.dtype, target.shape = dtype, _sizes(shape)
            target.values, target.column_major = values, column_major
        case _Made(), _:
            target.state = state
        case _:
            raise TypeError


def _sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    if not all(map(natural, shape)):
        raise TypeError
    return shape


_VOCABULARY = Vocabulary("a DataFrame of numbers and text", frozenset(_KINDS), _call, build=_build)


def _is(value: Any, kind: str) -> _Made:
    if not isinstance(value, _Made) or value.kind != kind:
        found = value.kind if isinstance(value, _Made) else type(value).__name__
        raise TypeError(f"a {found} stands where a {kind} should")
    return value


def _columns(frame: _Made) -> dict[str, list[Any]]:
    manager = _is(exactly(dict, frame.state)["_mgr"], "BlockManager")
    blocks, axes = manager.arguments
    names = _labels(axes[0])
    found: dict[str, list[Any]] = {}
    for block in blocks:
        values, placement, _ = _is(block, "Block").arguments
        columns = _block(values)
        for name, column in zip(_places(placement, names), columns, strict=True):
            found[name] = column
    return {name: found[name] for name in names}


def _labels(index: Any) -> list[str]:
    """The names that an Index of text holds."""
    _, state = _is(index, "_new_Index").arguments
    (names,) = _block(state["data"])
    if not all(type(name) is str for name in names):
        raise TypeError("its columns are not named by text")
    return names


def _places(placement: Any, names: Sequence[str]) -> list[str]:
    if isinstance(placement, _Array):
        return [names[int(place)] for place in _numbers(placement).tolist()]
    start, stop, step = _is(placement, "slice").arguments
    return list(names)[slice(start, stop, step)]


def _block(values: Any) -> list[list[Any]]:
    """The columns of a block: an array of one or two dimensions, columns first."""
    if isinstance(values, _Array):
        flat = _values(values)
        rows = values.shape[-1]
        count = values.shape[0] if len(values.shape) == 2 else 1
        if len(values.shape) not in (1, 2) or len(flat) != count * rows:
            raise TypeError(f"an array of shape {values.shape} holds {len(flat)} values")
        if values.column_major and count > 1:
            return [flat[column::count] for column in range(count)]
        return [flat[column * rows : (column + 1) * rows] for column in range(count)]
    return [_text(_is(values, "StringArray").state)]


def _values(array: _Array) -> list[Any]:
    """Every element in the order of memory."""
    if isinstance(array.values, list):
        return [_plain(value) for value in array.values]
    found: list[Any] = _numbers(array).tolist()
    return found


def _plain(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    inner = _values(value)
    return inner if value.shape else inner[0]


def _numbers(array: _Array) -> "np.ndarray[Any, Any]":
    """The numbers of an array, flat, in the order of memory."""
    import numpy as np

    name, *_ = _is(array.dtype, "dtype").arguments
    order = array.dtype.state[1] if array.dtype.state else "|"
    dtype = np.dtype(f"{order if order in '<>' else '='}{exactly(str, name)}")
    if dtype.kind not in "biuf":
        raise TypeError(f"an array of type {name}")
    return np.frombuffer(array.values, dtype)


def _text(state: Any) -> list[Any]:
    """A column of text, as Arrow's array or numpy's of objects; None for what is missing."""
    match state:
        case {"_pa_array": arrow}:
            return _arrow(_is(arrow, "arrow").arguments[0])
        case {"_ndarray": _Array() as objects} | (_, _Array() as objects, *_):
            return [value if type(value) is str else None for value in _values(objects)]
    raise TypeError("an array of text without its text")


def _arrow(data: tuple[Any, ...]) -> list[str | None]:
    import numpy as np

    kind, length, _, offset, buffers = data[:5]
    width = {"large_string": "<i8", "string": "<i4"}[_is(kind, "alias").arguments[0]]
    valid, offsets, text = (
        None if buffer is None else exactly(bytes, bytes(_is(buffer, "buffer").arguments[0]))
        for buffer in buffers
    )
    if not natural(length) or not natural(offset) or offsets is None:
        raise TypeError("an Arrow array without offsets")
    ends = np.frombuffer(offsets, width)[offset : offset + length + 1].tolist()
    if len(ends) != length + 1:
        raise TypeError(f"an Arrow array of {length} texts has {len(ends)} offsets")
    there = [True] * length
    if valid is not None:
        bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
        there = bits[offset : offset + length].astype(bool).tolist()
    pairs = zip(ends, ends[1:], there, strict=False)
    return [(text or b"")[start:end].decode() if here else None for start, end, here in pairs]
