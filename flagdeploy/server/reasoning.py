"""Splitting a reasoning model's output into its thoughts and its answer.

``deepseek_r1``: thoughts come first, between ``<think>`` (often already in the prompt) and
``</think>``; the answer follows. Output that never closes its thoughts is all thoughts.
"""

OPEN, CLOSE = "<think>", "</think>"


def starts_answering(prompt: str, *, continued: bool) -> bool:
    """Whether output after `prompt` is answer from its first character.

    So it is when the template closed the thoughts itself (thinking switched off), or when the final
    message that is `continued` has closed them.
    """
    if continued:
        return prompt.rfind(CLOSE) > prompt.rfind(OPEN)
    return prompt.rstrip().endswith(CLOSE)


class ReasoningSplitter:
    """Takes text in parts and returns (thoughts, answer) of each; the tags belong to neither."""

    def __init__(self, *, answering: bool) -> None:
        self._answering = answering
        self._started = False
        self._held = ""

    def push(self, part: str) -> tuple[str, str]:
        if self._answering:
            return "", part
        text, self._held = self._held + part, ""
        if not self._started:
            if len(text) < len(OPEN) and OPEN.startswith(text):
                self._held = text
                return "", ""
            self._started = True
            text = text.removeprefix(OPEN)
        thoughts, close, answer = text.partition(CLOSE)
        if close:
            self._answering = True
            return thoughts, answer
        keep = _beginning_of_close(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""

    def flush(self) -> str:
        """Thoughts still held back when the output ends."""
        held, self._held = self._held, ""
        return held


def _beginning_of_close(text: str) -> int:
    """Length of the longest end of `text` that begins the closing tag."""
    lengths = range(min(len(CLOSE) - 1, len(text)), 0, -1)
    return next((length for length in lengths if CLOSE.startswith(text[-length:])), 0)
