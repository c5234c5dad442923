"""What a model wrote, as text that stays text: nothing invisible, nothing endless, nothing lost
without saying so.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

# Characters that move the cursor, or reorder or hide the text around them (Unicode 15, Cc and
# Bidi_Control and zero width), as (first, last). Line breaks and tabs are left, and the joiners
# U+200C and U+200D, because scripts and emoji need them.
_HIDDEN = (
    (0x00, 0x08),
    (0x0B, 0x1F),
    (0x7F, 0x9F),
    (0xAD, 0xAD),
    (0x61C, 0x61C),
    (0x180E, 0x180E),
    (0x200B, 0x200B),
    (0x200E, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xFEFF, 0xFEFF),
)
_UNWRITABLE = (*range(0xD800, 0xE000), 0xFFFE, 0xFFFF)  # in neither UTF-8 nor XML 1.0
_TABLE: dict[int, str] = {
    **{code: f"⟨U+{code:04X}⟩" for low, high in _HIDDEN for code in range(low, high + 1)},
    **dict.fromkeys(_UNWRITABLE, "\ufffd"),
}

LONGEST = 2000  # characters of any text but an answer
SAME, HEAD, TAIL = 240, 1600, 800  # of an answer: before, and from where the two part


def legible(value: Any) -> Any:
    """`value` with every text visible and bounded; answers (``content``) only made visible."""
    if isinstance(value, str):
        return bounded(value.translate(_TABLE))
    if isinstance(value, Mapping):
        return {
            legible(key): inner.translate(_TABLE)
            if key == "content" and isinstance(inner, str)
            else legible(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [legible(inner) for inner in value]
    return value


def bounded(text: str, limit: int = LONGEST) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} {left_out(len(text) - 2 * half)} {text[-half:]}"


def left_out(count: int) -> str:
    return f"[… {count:,} characters left out …]"


class Piece(NamedTuple):
    """A stretch of an answer: ``same`` as the other side's, ``other``, or ``left out``."""

    kind: str
    text: str


def excerpts(a: str, b: str) -> tuple[list[Piece], list[Piece]]:
    """Two answers word by word, each bounded: a little of what is the same, where they part, and
    how they end.
    """
    common = _common(a, b)
    before = a[:common]
    start: list[Piece] = []
    if len(before) > SAME + TAIL:
        start.append(Piece("left out", left_out(common - SAME)))
        before = before[-SAME:]
    start.append(Piece("same", before))
    (head_a, gap_a, tail_a), (head_b, gap_b, tail_b) = _cut(a[common:]), _cut(b[common:])
    heads, tails = _marked(head_a, head_b), _marked(tail_a, tail_b)
    sides = []
    for side, gap in enumerate((gap_a, gap_b)):
        middle = [Piece("left out", left_out(gap))] if gap else []
        pieces = [*start, *heads[side], *middle, *tails[side]]
        sides.append([piece for piece in pieces if piece.text])
    return sides[0], sides[1]


def _common(a: str, b: str) -> int:
    """Length of the common beginning, back to the end of its last whole word."""
    pairs = zip(a, b, strict=False)
    shorter = min(len(a), len(b))
    common = next((i for i, (x, y) in enumerate(pairs) if x != y), shorter)
    if common == len(a) == len(b):
        return common
    while common and (a[common - 1].isalnum() and _goes_on(a, b, common)):
        common -= 1
    return common


def _goes_on(a: str, b: str, at: int) -> bool:
    return any(text[at : at + 1].isalnum() for text in (a, b))


def _cut(text: str) -> tuple[str, int, str]:
    """Beginning, number of characters left out, and end."""
    if len(text) <= HEAD + TAIL:
        return text, 0, ""
    return text[:HEAD], len(text) - HEAD - TAIL, text[-TAIL:]


def _marked(a: str, b: str) -> tuple[list[Piece], list[Piece]]:
    words_a, words_b = _words(a), _words(b)
    found = difflib.SequenceMatcher(None, words_a, words_b, autojunk=False).get_opcodes()
    left = ((kind, words_a[i:j]) for kind, i, j, _, _ in found)
    right = ((kind, words_b[i:j]) for kind, _, _, i, j in found)
    return list(_pieces(left)), list(_pieces(right))


def _pieces(rows: Iterable[tuple[str, list[str]]]) -> Iterator[Piece]:
    for kind, words in rows:
        yield Piece("same" if kind == "equal" else "other", "".join(words))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)
