"""The pickles of torch.save's files, interpreted as data: nothing is imported, called or executed.

A pickle is a program for a stack machine that may name and call any function of Python. This
machine knows the instructions of protocol 2 with which torch.save writes containers, numbers and
tensors, and the names in `_FUNCTIONS` and `_STORAGES` only, whose meaning is `_call`'s. Everything
else is refused by name. Instructions: CPython's Lib/pickletools.py; what torch.save writes:
torch/_utils.py and torch/serialization.py.
"""

import io
from collections.abc import Callable, Iterator
from pickletools import opcodes
from typing import Any, NamedTuple

# A state dict takes 26 instructions per tensor; this bounds what a hostile one can build.
MAX_INSTRUCTIONS = 4_000_000

_OPCODES = {opcode.code: opcode for opcode in opcodes}
_STORAGES = {
    **{"torch FloatStorage": "F32", "torch BFloat16Storage": "BF16", "torch HalfStorage": "F16"},
    **{"torch DoubleStorage": "F64", "torch LongStorage": "I64", "torch IntStorage": "I32"},
    **{"torch ShortStorage": "I16", "torch CharStorage": "I8", "torch ByteStorage": "U8"},
    "torch BoolStorage": "BOOL",
}
_FUNCTIONS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}


class Storage(NamedTuple):
    """`elements` of `dtype` in the record ``data/KEY`` of the archive."""

    dtype: str
    key: str
    elements: int


class Tensor(NamedTuple):
    """A tensor's place in its storage; `offset` counts elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


class _Global(NamedTuple):
    name: str


def parse(raw: bytes) -> Any:
    """The object that a pickle describes, with `Tensor` in the place of tensors.

    Raises ValueError with the reason for anything that torch.save does not write for a nest of
    dicts, lists, tuples, numbers, strings and tensors.
    """
    machine = _Machine()
    for at, name, argument in _instructions(raw):
        try:
            _STEPS[name](machine, argument)
        except (IndexError, KeyError, TypeError):
            raise ValueError(
                f"instruction {name} at byte {at} does not fit what is before it"
            ) from None
    if len(machine.stack) != 1 or machine.below:
        raise ValueError("the pickle does not end with one object")
    return machine.stack[0]


def _instructions(raw: bytes) -> Iterator[tuple[int, str, Any]]:
    """Position, name and argument of each instruction up to STOP; ValueError for unknown ones."""
    stream = io.BytesIO(raw)
    for _ in range(MAX_INSTRUCTIONS):
        at = stream.tell()
        code = stream.read(1)
        if not code:
            raise ValueError(f"the pickle ends at byte {at} without STOP")
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None or opcode.name not in _STEPS:
            name = opcode.name if opcode else f"0x{code.hex()}"
            raise ValueError(f"instruction {name} at byte {at} is none of a plain state dict")
        if opcode.name == "GLOBAL":  # pickletools would read escapes, which pickle does not know
            argument: Any = f"{_line(stream)} {_line(stream)}"
        else:
            argument = opcode.arg.reader(stream) if opcode.arg else None
        yield at, opcode.name, argument
        if opcode.name == "STOP":
            return
    raise ValueError(f"the pickle has more than {MAX_INSTRUCTIONS} instructions")


def _line(stream: io.BytesIO) -> str:
    line = stream.readline(256)
    if not line.endswith(b"\n"):
        raise ValueError(f"no name ends before byte {stream.tell()}")
    return line[:-1].decode("utf-8")


class _Machine:
    """`stack` is the part above the last mark, `below` the parts beneath the earlier ones."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        values = [self.stack.pop() for _ in range(count)]
        return values[::-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, name: str) -> None:
        if name not in _FUNCTIONS and name not in _STORAGES:
            shown = name.replace(" ", ".") if name.isprintable() else ascii(name)
            raise ValueError(f"names {shown}, which is no part of a tensor")
        self.push(_Global(name))

    def call(self) -> None:
        function, arguments = self.pop(2)
        self.push(_call(function, arguments))

    def storage(self) -> None:
        """A storage is named by ("storage", its type, key, device, number of elements)."""
        match self.stack.pop():
            case ("storage", _Global(kind), str(key), str(), int(elements)) if _natural(elements):
                self.push(Storage(_STORAGES[kind], key, elements))
            case _:
                raise TypeError

    def set_items(self, values: list[Any]) -> None:
        target = _exactly(dict, self.stack[-1])
        keys = values[::2]
        if len(values) % 2 or not all(type(key) in (str, int) for key in keys):
            raise TypeError
        target.update(zip(keys, values[1::2], strict=True))

    def extend(self, values: list[Any]) -> None:
        _exactly(list, self.stack[-1]).extend(values)

    def drop_attributes(self) -> None:
        """State dicts of modules carry versions (``_metadata``) as attributes of the dict."""
        self.stack.pop()
        _exactly(dict, self.stack[-1])


def _call(function: Any, arguments: Any) -> Any:
    match function, arguments:
        case _Global("collections OrderedDict"), ():
            return {}
        case (
            _Global("torch._utils _rebuild_tensor_v2"),
            (Storage() as storage, int(offset), tuple(shape), *_),
        ) if all(map(_natural, (offset, *shape))):
            return Tensor(storage, offset, shape)
        case _Global("torch._utils _rebuild_parameter"), (Tensor() as tensor, *_):
            return tensor
    raise TypeError


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(tuple(machine.pop(count)))


def _literal(machine: _Machine, value: Any) -> None:
    machine.push(value)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _literal),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.above_mark())),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.above_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, index: machine.remember(index)),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])
    ),
    "GLOBAL": lambda machine, name: machine.name(name),
    "REDUCE": lambda machine, _: machine.call(),
    "BINPERSID": lambda machine, _: machine.storage(),
    "BUILD": lambda machine, _: machine.drop_attributes(),
}
