"""Patches in git's format, read strictly: what is not certain to mean one thing is refused.

Format: git-diff(1), "Generating patch text with -p", and git-format-patch(1) for mails around it.
Programs that apply patches skip what they do not understand; here only the text of a mail is
skipped, and nothing in it may look like a change.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from flagdeploy.errors import PatchError
from flagdeploy.patching.names import danger_of, shown, unquoted

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(?: .*)?", re.DOTALL)
_INDEX = re.compile(rb"([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: ([0-7]{6}))?")
_BLOCK = re.compile(rb"(?:literal|delta) \d+")
_BASE85 = re.compile(rb"[A-Za-z][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]+")
_MAIL = re.compile(rb"From [0-9a-f]{40,64} ")
_FRAGMENTS = (b"--- ", b"+++ ", b"@@ -", b"GIT binary patch", b"Binary files ")
_QUOTED_FIRST = re.compile(rb'("(?:[^"\\]|\\.)*") (.+)')
_QUOTED_LAST = re.compile(rb'(.+) ("(?:[^"\\]|\\.)*")')
REGULAR = ("100644", "100755")


@dataclass(frozen=True)
class Change:
    """What a patch does to one file. Names are relative, bytes outside UTF-8 as surrogates."""

    old: str | None
    """Name before; None when the file is made."""
    new: str | None
    """Name after; None when it is deleted."""
    line: int
    copied: bool = False
    before: str = ""
    """Abbreviated blob before; empty when the patch does not say."""
    modes: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Names whose content it reads or changes."""
        return frozenset(name for name in (self.old, self.new) if name is not None)


def changes(content: bytes, name: str) -> tuple[Change, ...]:
    """The changes in a patch, in its order; messages call it `name`.

    Raises PatchError naming file and line: for what git does not write, for a hunk that is cut off,
    for names that are absolute, lead out with ``..`` or into ``.git``, for links and submodules,
    and for binary changes that cannot be taken back.
    """
    return _Reader(content, name).read()


class _Reader:
    """One patch under way, line by line."""

    def __init__(self, content: bytes, name: str) -> None:
        self.name = name
        self.lines = content.split(b"\n")
        if self.lines[-1] == b"":
            self.lines.pop()
        self.at = 0

    def read(self) -> tuple[Change, ...]:
        found: list[Change] = []
        if b"\0" in b"\n".join(self.lines[:1]):
            raise self.error("is not text: no patch, or an encrypted one")
        in_mail = True
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith(b"diff --git "):
                found.append(self._section())
                in_mail = False
            elif line.startswith(b"diff --"):
                raise self.error("a merge is not read: make the patch between two commits")
            elif line.startswith(_FRAGMENTS):
                raise self.error("a change without `diff --git` header: make the patch with git")
            elif in_mail or not line.strip():
                self.at += 1
            elif line == b"-- " or _MAIL.match(line):
                in_mail = True
                self.at += 1
            else:
                raise self.error("expected the next file or the end of the patch")
        if not found:
            raise PatchError(f"{self.name}: holds no change")
        return tuple(found)

    def error(self, what: str, line: int | None = None) -> PatchError:
        return PatchError(f"{self.name}:{(self.at if line is None else line) + 1}: {what}")

    def _section(self) -> Change:
        start = self.at
        header = self.lines[start][len(b"diff --git ") :]
        if header.endswith(b"\r"):  # a name would be quoted
            raise self.error("has line ends of Windows: fetch it again with core.autocrlf=false")
        self.at += 1
        change, same = self._extended(start)
        if self._next(b"GIT binary patch"):
            self._binary(change)
        elif self._next(b"Binary files "):
            raise self.error("a binary file without its content: `git diff --binary` keeps it")
        elif self._next(b"--- "):
            change = self._text(change)
        elif not change.modes and change.old is None and change.new is None:
            raise self.error("a change that changes nothing", start)
        if change.old is None and change.new is None or same:
            change = self._named_by(header, change, same, start)
        self._agrees(header, change, start)
        self._check(change, start)
        return change

    def _next(self, prefix: bytes) -> bool:
        return self.at < len(self.lines) and self.lines[self.at].startswith(prefix)

    def _extended(self, start: int) -> tuple[Change, str]:
        """Header lines up to the content; and whether only one name counts (``new``, ``deleted``,
        ``both``) that they do not give."""
        change, same, seen = Change(None, None, start + 1), "both", set[bytes]()
        readers: dict[bytes, Callable[[Change, bytes], Change]] = {
            b"old mode ": self._mode,
            b"new mode ": self._mode,
            b"new file mode ": self._mode,
            b"deleted file mode ": self._mode,
            b"rename from ": lambda c, rest: replace(c, old=self._plain(rest)),
            b"rename to ": lambda c, rest: replace(c, new=self._plain(rest)),
            b"copy from ": lambda c, rest: replace(c, old=self._plain(rest), copied=True),
            b"copy to ": lambda c, rest: replace(c, new=self._plain(rest), copied=True),
            b"index ": self._index,
            b"similarity index ": lambda c, rest: c,
            b"dissimilarity index ": lambda c, rest: c,
        }
        while self.at < len(self.lines):
            line = self.lines[self.at]
            key = next((key for key in readers if line.startswith(key)), None)
            if key is None:
                break
            if key in seen:
                raise self.error(f"`{key.decode().strip()}` twice for one file")
            seen.add(key)
            change = readers[key](change, line[len(key) :])
            self.at += 1
        for first, second in ((b"rename from ", b"rename to "), (b"copy from ", b"copy to ")):
            if (first in seen) != (second in seen):
                raise self.error(f"`{first.decode()}` and `{second.decode()}` belong together")
        if b"new file mode " in seen:
            same = "new"
        elif b"deleted file mode " in seen:
            same = "deleted"
        elif change.old is not None:
            same = ""
        return change, same

    def _mode(self, change: Change, rest: bytes) -> Change:
        mode = rest.decode(errors="replace")
        if not re.fullmatch("[0-7]{6}", mode):
            raise self.error(f"`{mode}` is no file mode")
        return replace(change, modes=(*change.modes, mode))

    def _index(self, change: Change, rest: bytes) -> Change:
        match = _INDEX.fullmatch(rest)
        if not match:
            raise self.error("an index line that git does not write")
        before = match[1].decode()
        modes = (match[3].decode(),) if match[3] else ()
        change = replace(change, modes=(*change.modes, *modes))
        return replace(change, before="" if set(before) == {"0"} else before)

    def _text(self, change: Change) -> Change:
        """``--- a/x``, ``+++ b/x`` and the hunks."""
        old = self._side(self.lines[self.at][4:], b"a/")
        self.at += 1
        if not self._next(b"+++ "):
            raise self.error("`--- ` without `+++ `")
        new = self._side(self.lines[self.at][4:], b"b/")
        self.at += 1
        if old is None and new is None:
            raise self.error("/dev/null becomes /dev/null")
        moved = change.old is not None
        if moved and (old, new) != (change.old, change.new):
            raise self.error("`---` and `+++` name other files than the lines above")
        if not self._next(b"@@ -"):
            raise self.error("no hunk after `+++ `")
        while self._next(b"@@ -"):
            self._hunk()
        return replace(change, old=old, new=new)

    def _side(self, rest: bytes, prefix: bytes) -> str | None:
        if rest == b"/dev/null":
            return None
        return self._stripped(self._unquoted(rest.removesuffix(b"\t")), prefix)

    def _hunk(self) -> None:
        match = _HUNK.fullmatch(self.lines[self.at])
        if not match:
            raise self.error("a hunk header that cannot be read")
        start = self.at
        old, new = (1 if n is None else int(n) for n in (match[2], match[4]))
        self.at += 1
        while old > 0 or new > 0 or self._next(b"\\"):
            if self.at == len(self.lines):
                raise self.error(f"the patch ends inside the hunk of line {start + 1}")
            kind = self.lines[self.at][:1]
            if kind not in (b" ", b"", b"-", b"+", b"\\"):
                raise self.error(f"a line that is none of the hunk of line {start + 1}")
            old -= kind in (b" ", b"", b"-")
            new -= kind in (b" ", b"", b"+")
            if old < 0 or new < 0:
                raise self.error(f"the hunk of line {start + 1} has other lines than it says")
            self.at += 1

    def _binary(self, change: Change) -> None:
        """Two blocks in base 85, forwards and back, each with an empty line at its end."""
        start = self.at
        self.at += 1
        for _ in range(2):
            if self.at >= len(self.lines) or not _BLOCK.fullmatch(self.lines[self.at]):
                what = "a binary change that cannot be taken back: `git diff --binary` makes both"
                raise self.error(what, start)
            self.at += 1
            while self.at < len(self.lines) and self.lines[self.at]:
                if not _BASE85.fullmatch(self.lines[self.at]):
                    raise self.error("no data of a binary change")
                self.at += 1
            self.at += 1
        self.at = min(self.at, len(self.lines))

    def _named_by(self, header: bytes, change: Change, same: str, start: int) -> Change:
        """Where only `diff --git` has the name, it is the same on both sides."""
        name = self._common(header, start)
        old = None if same == "new" else name
        new = None if same == "deleted" else name
        if (change.old, change.new) not in ((None, None), (old, new)):
            raise self.error("`diff --git` and the lines below it name different files", start)
        return replace(change, old=old, new=new)

    def _common(self, header: bytes, start: int) -> str:
        if header.startswith(b'"') or header.endswith(b'"'):
            first, second = self._quoted_pair(header, start)
        else:
            middle = len(header) // 2
            first, second = header[:middle], header[middle + 1 :]
            if header[middle : middle + 1] != b" ":
                raise self.error("`diff --git` names two files, the lines below it none", start)
        names = self._stripped(first, b"a/"), self._stripped(second, b"b/")
        if names[0] != names[1]:
            raise self.error("`diff --git` names two files, the lines below it none", start)
        return names[0]

    def _quoted_pair(self, header: bytes, start: int) -> tuple[bytes, bytes]:
        # A name with a space alone is not quoted.
        match = _QUOTED_FIRST.fullmatch(header) or _QUOTED_LAST.fullmatch(header)
        if not match:
            raise self.error("the names after `diff --git` cannot be read", start)
        return self._unquoted(match[1]), self._unquoted(match[2])

    def _agrees(self, header: bytes, change: Change, start: int) -> None:
        """The header must name the same files; git believes the header in some cases."""
        old, new = change.old or change.new, change.new or change.old
        assert old is not None and new is not None
        raw = [f"a/{old}".encode(errors="surrogateescape"),
               f"b/{new}".encode(errors="surrogateescape")]  # fmt: skip
        if header == b" ".join(raw):
            return
        if not (b'"' in header and list(self._quoted_pair(header, start)) == raw):
            raise self.error("`diff --git` and the lines below it name different files", start)

    def _check(self, change: Change, start: int) -> None:
        for path in sorted(change.names):
            if danger := danger_of(path):
                raise self.error(f"{shown(path)} {danger}", start)
        for mode in change.modes:
            if mode == "120000":
                raise self.error(f"{shown(change.new or change.old)} is a symbolic link", start)
            if mode == "160000":
                raise self.error(f"{shown(change.new or change.old)} is a submodule", start)
            if mode not in REGULAR:
                raise self.error(f"{shown(change.new or change.old)} has the mode {mode}", start)

    def _plain(self, rest: bytes) -> str:
        return self._unquoted(rest).decode(errors="surrogateescape")

    def _stripped(self, name: bytes, prefix: bytes) -> str:
        if name.startswith(b"/"):
            raise self.error(f"{shown(name.decode(errors='replace'))} is an absolute path")
        if not name.startswith(prefix):
            text = f"{shown(name.decode(errors='replace'))} does not begin with {prefix.decode()}"
            raise self.error(f"{text}: make the patch without --no-prefix")
        return name[len(prefix) :].decode(errors="surrogateescape")

    def _unquoted(self, name: bytes) -> bytes:
        try:
            return unquoted(name)
        except ValueError as error:
            raise self.error(str(error)) from None
