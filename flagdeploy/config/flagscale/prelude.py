"""`cmds.before_start`: shell text that is run as it is, or, where it only sets variables, those."""

import re
import shlex

_NOT_LITERAL = re.compile(r"[$`\\*?\[~!{]|\S#")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def variables(text: str) -> dict[str, str] | None:
    """The variables of ``export A=1 && export B="2 3" # comment``.

    None for any other text: only a shell can say what that does.
    """
    if _NOT_LITERAL.search(text):
        return None
    found: dict[str, str] = {}
    for line in text.splitlines():
        assigned = _line(line)
        if assigned is None:
            return None
        found |= assigned
    return found


def _line(line: str) -> dict[str, str] | None:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|<>()")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # an open quote
        return None
    found: dict[str, str] = {}
    exporting = False
    for word in words:
        assignment = _ASSIGNMENT.fullmatch(word)
        if word in ("&&", ";"):
            exporting = False
        elif word == "export":
            exporting = True
        elif assignment and exporting:
            found[assignment[1]] = assignment[2]
        else:
            return None
    return found


def names(text: str) -> list[str]:
    """The variables that any text exports with a value."""
    return list(dict.fromkeys(re.findall(r"\bexport\s+([A-Za-z_][A-Za-z0-9_]*)=", text)))


def exported(text: str, name: str) -> str | None:
    """The value of the last ``export NAME=VALUE`` in any text."""
    found = re.findall(rf"\bexport\s+{name}=[\"']?([^\s;&\"']*)", text)
    return found[-1] if found else None
