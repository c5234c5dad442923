"""Chrome traces as torch.profiler writes them, read event by event: files of hundreds of megabytes
become no tree in memory.

The format is the object form of the Trace Event Format ("JSON Object Format"), whose header kineto
fills with `deviceProperties` and `distributedInfo` (pytorch/kineto, libkineto/src/output_json.cpp);
the bare array of events is read as well.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from flagdeploy.errors import UsageError

PIECE = 1 << 20  # characters read at once
LONGEST = 1 << 26  # characters of one value; an event has a few hundred
_TAIL = 8  # characters of a literal or an escape that the window may cut
_SPACES = re.compile(r"[ \t\r\n]*").match
_GZIP = b"\x1f\x8b"


class ChromeTrace:
    """`header` holds what the file says of itself, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event in file order.

        Raises UsageError for a file that cannot be read, that is no trace, or that ends early.
        """
        with ExitStack() as stack:
            try:
                raw = stack.enter_context(self.path.open("rb"))
                start = raw.read(2)
                raw.seek(0)
                source: Any = gzip.GzipFile(fileobj=raw) if start == _GZIP else raw
                text = io.TextIOWrapper(source, encoding="utf-8", errors="replace")
                yield from self._events(_Text(text, self.path))
            except EOFError:
                raise _cut_short(self.path) from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise UsageError(f"{self.path}: damaged gzip file: {error}") from None
            except OSError as error:
                what = error.strerror or error
                raise UsageError(f"{self.path}: cannot be read: {what}") from None

    def _events(self, text: "_Text") -> Iterator[dict[str, Any]]:
        first = text.peek()
        if first == "[":
            yield from text.array()
            return
        if first != "{":
            raise _no_trace(self.path)
        found = False
        for name in text.members():
            if name == "traceEvents" and text.peek() == "[":
                found = True
                yield from text.array()
            else:
                self.header[name] = text.value()
        if not found:
            raise _no_trace(self.path)


class _Text:
    """A window of the file, and JSON values taken from its front."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._window = ""
        self._at = 0
        self._gone = 0  # characters before the window
        self._ended = False
        self._decoder = json.JSONDecoder(strict=False)  # names may hold control characters

    def peek(self) -> str:
        """The next character that is no space; raises UsageError at the end of the file."""
        while True:
            self._at = _SPACES(self._window, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                empty = self._gone + self._at == 0
                raise _no_trace(self._path) if empty else _cut_short(self._path)

    def take(self, expected: str) -> str:
        found = self.peek()
        if found not in expected:
            raise self._broken(f"{found!r} where {' or '.join(expected)} belongs")
        self._at += 1
        return found

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._may_go_on(error) or len(self._window) - self._at > LONGEST:
                    raise self._broken(error.msg, error.pos - self._at) from None
                if not self._more():
                    raise _cut_short(self._path) from None
                continue
            except RecursionError:
                raise self._broken("nested too deep") from None
            if end == len(self._window) and self._more():
                continue  # a number may go on
            self._at = end
            return value

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Is it the end of the window that is wrong? `pos` of an open string is its start."""
        return "Unterminated" in error.msg or error.pos > len(self._window) - _TAIL

    def members(self) -> Iterator[str]:
        """The names in an object, each when the text stands before its value."""
        self.take("{")
        if self.peek() == "}":
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self._broken("a name that is no text")
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def array(self) -> Iterator[dict[str, Any]]:
        """The objects of an array; kineto leaves a comma before the end in some versions."""
        self.take("[")
        while self.peek() != "]":
            event = self.value()
            if not isinstance(event, dict):
                raise self._broken("an event that is no object")
            yield event
            if self.peek() != "]":
                self.take(",")
        self.take("]")

    def _more(self) -> bool:
        """As much again as is left, so that a long value costs no more than its length twice."""
        if self._ended:
            return False
        rest = self._window[self._at :]
        piece = self._file.read(max(PIECE, len(rest)))
        self._gone += self._at
        self._window, self._at = rest + piece, 0
        self._ended = not piece
        return bool(piece)

    def _broken(self, what: str, ahead: int = 0) -> UsageError:
        where = self._gone + self._at + ahead
        return UsageError(
            f"{self._path}: not JSON at character {where}: {what}", "profile again, or fetch again"
        )


def _cut_short(path: Path) -> UsageError:
    return UsageError(
        f"{path}: ends in the middle: the trace was not written to its end",
        "wait until the profiler has written it, or copy it again",
    )


def _no_trace(path: Path) -> UsageError:
    return UsageError(
        f"{path}: is no trace: it has no `traceEvents`",
        "torch.profiler's export_chrome_trace writes them (.json, .json.gz)",
    )
