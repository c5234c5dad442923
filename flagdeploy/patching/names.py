"""Names of files in patches: git's quoting, and which of them must not be written."""

import re

_OCTAL = re.compile(rb"[0-7]{3}")
_ESCAPES = {
    ord(c): v for c, v in zip('abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True)
}  # fmt: skip
_IGNORED_BY_HFS = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF]
)


def danger_of(path: str) -> str:
    """Why a path must not be written, empty when it may. Git refuses the same (path.c)."""
    if path.startswith("/"):
        return "is an absolute path"
    for part in path.split("/"):
        if part == "..":
            return "leads out of the tree with `..`"
        if part in ("", "."):
            return "has an empty component"
        if any(map(_is_dot_git, part.split("\\"))):  # to Windows a separator
            return "leads into .git/"
    return ""


def _is_dot_git(name: str) -> bool:
    """Is it ``.git`` to some file system: in other letters, with what HFS+ passes over, with the
    end that Windows drops, or by its short name there?"""
    plain = name.translate(_IGNORED_BY_HFS).lower().partition(":")[0].rstrip(" .")
    return plain in (".git", "git~1")


def unquoted(name: bytes) -> bytes:
    """A name without git's C-style quotes, which it uses for control characters and bytes from 128.

    Raises ValueError for what git does not write.
    """
    if not name.startswith(b'"'):
        return name
    body, result, at = name[1:-1], bytearray(), 0
    if len(name) < 2 or not name.endswith(b'"'):
        raise ValueError("a quoted name without its end")
    while at < len(body):
        if body[at] != ord("\\"):
            result.append(body[at])
            at += 1
        elif octal := _OCTAL.match(body, at + 1):
            result.append(int(octal[0], 8) & 255)
            at += 4
        elif at + 1 < len(body) and body[at + 1] in _ESCAPES:
            result.append(_ESCAPES[body[at + 1]])
            at += 2
        else:
            raise ValueError("a quoted name with an unknown escape")
    return bytes(result)


def shown(path: str | None) -> str:
    """A name for messages, on one line, without bytes that a terminal would obey."""
    text = (path or "").encode(errors="surrogateescape").decode(errors="backslashreplace")
    return text if text.isprintable() else repr(text)[1:-1]
