"""Token ids to text as they come, and the stop strings in it."""

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
CONTEXT = 5  # prompt tokens decoded in front, so that a first word keeps its leading space


class Decoder(Protocol):
    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str: ...


class Detokenizer:
    """Decodes one sequence token by token; the parts joined are the text of the whole.

    Each token is decoded together with those before it up to the last character boundary, since a
    token alone may be part of a character and loses its leading space with some tokenizers.
    """

    def __init__(
        self, decoder: Decoder, prompt: Sequence[int], *, skip_special_tokens: bool = True
    ) -> None:
        self._decoder = decoder
        self._skip = skip_special_tokens
        self._window = list(prompt[-CONTEXT:])
        self._known = self._decode().rstrip(REPLACEMENT)
        self._start = len(self._window)

    def push(self, token: int) -> str:
        """The text this token completes: empty inside a character."""
        self._window.append(token)
        text = self._decode()
        if text.endswith(REPLACEMENT):
            return ""
        return self._take(text)

    def flush(self) -> str:
        """What is left when the sequence ends inside a character."""
        return self._take(self._decode())

    def _take(self, text: str) -> str:
        new = text[len(self._known) :]
        if new:
            del self._window[: self._start]
            self._start = len(self._window)
            self._known = self._decode()
        return new

    def _decode(self) -> str:
        return self._decoder.decode(self._window, skip_special_tokens=self._skip)


class StopStrings:
    """Finds the first stop string in text that arrives in parts.

    Text that may be the beginning of a stop string is held back until the next part decides.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._held = ""

    def push(self, part: str, *, armed: bool = True) -> tuple[str, str | None]:
        """Text that is certain, and the stop string found; without `armed` none is looked for."""
        text = self._held + part
        self._held = ""
        found = [(text.find(stop), stop) for stop in self._stops if stop in text] if armed else []
        if found:
            at, stop = min(found)
            return text[: at + len(stop) if self._include else at], stop
        held = self._prefix_at_end(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], None

    def flush(self) -> str:
        text, self._held = self._held, ""
        return text

    def _prefix_at_end(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
