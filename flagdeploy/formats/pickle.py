"""Pickles interpreted as data: nothing is imported, called or executed.

A pickle is a program for a stack machine that may name and call any function of Python. This
machine knows the instructions of protocols 2 to 5 that write containers, numbers and text, and the
names of one `Vocabulary` only, which gives them a meaning of ours. Everything else is refused by
name. Instructions: CPython's Lib/pickletools.py.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pickletools import opcodes
from typing import Any, NamedTuple

# A state dict takes 26 instructions per tensor; this bounds what a hostile one can build.
MAX_INSTRUCTIONS = 4_000_000

_OPCODES = {opcode.code: opcode for opcode in opcodes}


class Global(NamedTuple):
    """A name of the vocabulary where the pickle names a function or class: ``module name``."""

    name: str


def _nothing(*_: Any) -> Any:
    raise TypeError


@dataclass(frozen=True)
class Vocabulary:
    """What pickles of one kind may say beside containers, numbers and text; `what` they hold.

    `call(function, arguments)` gives the object that a call of one of `names` stands for,
    `persistent(id)` the one that a persistent id does, `build(object, state)` adds attributes.
    Each raises TypeError for what does not fit.
    """

    what: str = "plain data"
    names: frozenset[str] = frozenset()
    call: Callable[[Any, Any], Any] = _nothing
    persistent: Callable[[Any], Any] = _nothing
    build: Callable[[Any, Any], None] = _nothing


PLAIN = Vocabulary()


def parse(raw: bytes, vocabulary: Vocabulary = PLAIN, limit: int | None = None) -> Any:
    """The object that a pickle describes, made of plain Python data and what `vocabulary` gives.

    Raises ValueError with the reason for a pickle that says anything else, or takes more than
    `limit` instructions (default: MAX_INSTRUCTIONS).
    """
    machine = _Machine(vocabulary)
    for at, name, argument in _instructions(raw, MAX_INSTRUCTIONS if limit is None else limit):
        try:
            _STEPS[name](machine, argument)
        except (IndexError, KeyError, TypeError):
            raise ValueError(
                f"instruction {name} at byte {at} does not fit what is before it"
            ) from None
    if len(machine.stack) != 1 or machine.below:
        raise ValueError("the pickle does not end with one object")
    return machine.stack[0]


def exactly(kind: type, value: Any) -> Any:
    """`value`, which must be of `kind` and of no subclass; TypeError."""
    if type(value) is not kind:
        raise TypeError
    return value


def natural(value: Any) -> bool:
    """Whether `value` can be a size or an offset of a file."""
    return type(value) is int and 0 <= value < 1 << 63


def _instructions(raw: bytes, limit: int) -> Iterator[tuple[int, str, Any]]:
    """Position, name and argument of each instruction up to STOP; ValueError for unknown ones."""
    stream = io.BytesIO(raw)
    for _ in range(limit):
        at = stream.tell()
        code = stream.read(1)
        if not code:
            raise ValueError(f"the pickle ends at byte {at} without STOP")
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None or opcode.name not in _STEPS:
            name = opcode.name if opcode else f"0x{code.hex()}"
            raise ValueError(f"instruction {name} at byte {at} is none that plain data needs")
        if opcode.name == "GLOBAL":  # pickletools would read escapes, which pickle does not know
            argument: Any = f"{_line(stream)} {_line(stream)}"
        else:
            argument = opcode.arg.reader(stream) if opcode.arg else None
        yield at, opcode.name, argument
        if opcode.name == "STOP":
            return
    raise ValueError(f"the pickle has more than {limit} instructions")


def _line(stream: io.BytesIO) -> str:
    line = stream.readline(256)
    if not line.endswith(b"\n"):
        raise ValueError(f"no name ends before byte {stream.tell()}")
    return line[:-1].decode("utf-8")


class _Machine:
    """`stack` is the part above the last mark, `below` the parts beneath the earlier ones."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
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
        if name not in self.vocabulary.names:
            shown = name.replace(" ", ".") if name.isprintable() else ascii(name)
            raise ValueError(f"names {shown}, which is no part of {self.vocabulary.what}")
        self.push(Global(name))

    def stacked_name(self) -> None:
        module, name = self.pop(2)
        self.name(f"{exactly(str, module)} {exactly(str, name)}")

    def call(self) -> None:
        function, arguments = self.pop(2)
        self.push(self.vocabulary.call(exactly(Global, function), exactly(tuple, arguments)))

    def persistent(self) -> None:
        self.push(self.vocabulary.persistent(self.stack.pop()))

    def build(self) -> None:
        state = self.stack.pop()
        self.vocabulary.build(self.stack[-1], state)

    def set_items(self, values: list[Any]) -> None:
        target = exactly(dict, self.stack[-1])
        keys = values[::2]
        if len(values) % 2 or not all(type(key) in (str, int) for key in keys):
            raise TypeError
        target.update(zip(keys, values[1::2], strict=True))

    def extend(self, values: list[Any]) -> None:
        exactly(list, self.stack[-1]).extend(values)


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(tuple(machine.pop(count)))


def _literal(machine: _Machine, value: Any) -> None:
    machine.push(value)


_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")

_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.stack.pop(),
    **dict.fromkeys((*_NUMBERS, *_TEXTS, *_BYTES), _literal),
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
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, index: machine.remember(index)),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])
    ),
    "GLOBAL": lambda machine, name: machine.name(name),
    "STACK_GLOBAL": lambda machine, _: machine.stacked_name(),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call()),
    "BINPERSID": lambda machine, _: machine.persistent(),
    "BUILD": lambda machine, _: machine.build(),
}
