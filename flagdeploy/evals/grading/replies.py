"""Where the answer stands in a reply. Linear in its length."""

import re


def final_text(reply: str, finish_reason: str | None = None) -> str | None:
    """What follows the thoughts, or None when they were cut off.

    Templates in the manner of DeepSeek-R1 open ``<think>`` inside the prompt, so a reply cut by
    its token limit without ``</think>`` is taken for unfinished thoughts too.
    """
    thoughts, closed, answer = reply.rpartition("</think>")
    if closed:
        return None if "<think>" in answer else answer
    if "<think>" in reply or finish_reason == "length":
        return None
    return reply


def last_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}``, braces matched; None when it never closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    return None
