"""From the deltas of a request's sequences to the objects of its answer, whole or streamed.

One `CompletionAnswer` or `ChatAnswer` per request; both have the same three methods, so that the
route that drives them is one.
"""

from typing import Any

from flagdeploy.server import render
from flagdeploy.server.protocol import Shape
from flagdeploy.server.reasoning import ReasoningSplitter
from flagdeploy.server.sequence import Delta
from flagdeploy.server.tokens import Tokens


class CompletionAnswer:
    """``/v1/completions``: choice i belongs to prompt ``i // n``."""

    kind = chunk_kind = "text_completion"

    def __init__(
        self,
        shape: Shape,
        logprobs: int | None,
        prompts: list[tuple[int, ...]],
        echo_texts: list[str],
        tokens: Tokens,
    ) -> None:
        self._shape = shape
        self._logprobs = logprobs
        self._prompts = prompts
        self._echo_texts = echo_texts
        self._text_of = tokens.text_of
        self._labels = render.Labels(tokens.text_of, shape.tokens_as_ids)
        self._offsets: dict[int, int] = {}

    def opening(self) -> list[dict[str, Any]]:
        """Choices sent before the first token of a stream."""
        return []

    def choice(self, delta: Delta) -> dict[str, Any]:
        """One choice; the first of each index carries what belongs to the prompt."""
        first = delta.index not in self._offsets
        prompt = delta.index // self._shape.n
        text = delta.text
        if first and self._shape.echo:
            text = self._echo_texts[prompt] + text
        choice = render.completion_choice(delta, text, self._choice_logprobs(delta, first))
        if first and self._shape.prompt_logprobs is not None:
            choice["prompt_logprobs"] = render.prompt_logprobs(
                delta.prompt_logprobs or [], self._shape.prompt_logprobs, self._text_of
            )
        if self._shape.return_token_ids:
            choice["prompt_token_ids"] = list(self._prompts[prompt]) if first else None
            choice["token_ids"] = delta.tokens
        return choice

    def _choice_logprobs(self, delta: Delta, first: bool) -> dict[str, Any] | None:
        offset = self._offsets.setdefault(delta.index, 0)
        if self._logprobs is None:
            return None
        ids, entries = delta.tokens, list[render.Entry](delta.logprobs)
        if first and self._shape.echo:
            ids = [*self._prompts[delta.index // self._shape.n], *ids]
            entries = [*(delta.prompt_logprobs or [None]), *entries]
        self._offsets[delta.index] += sum(len(self._text_of(token)) for token in ids)
        return render.completion_logprobs(ids, entries, self._logprobs, self._labels, offset)

    def extras(self, deltas: list[Delta]) -> dict[str, Any]:
        """Fields beside ``choices`` in a whole answer."""
        return {}


class ChatAnswer:
    """``/v1/chat/completions``; `reasoning` is None without a reasoning parser."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(
        self,
        shape: Shape,
        logprobs: int | None,
        prompt: tuple[int, ...],
        tokens: Tokens,
        *,
        reasoning: bool,
        answering: bool,
    ) -> None:
        self._shape = shape
        self._logprobs = logprobs
        self._prompt = prompt
        self._text_of = tokens.text_of
        self._labels = render.Labels(tokens.text_of, shape.tokens_as_ids)
        self._splitters = [
            ReasoningSplitter(answering=answering) if reasoning else None for _ in range(shape.n)
        ]

    def opening(self) -> list[dict[str, Any]]:
        """Choices sent before the first token of a stream: whose turn it is."""
        message = {"role": "assistant", "content": ""}
        return [render.chat_choice(Delta(i), "delta", message, None) for i in range(self._shape.n)]

    def choice(self, delta: Delta) -> dict[str, Any]:
        part = "delta" if self._shape.stream else "message"
        logprobs = None
        if self._logprobs is not None:
            logprobs = render.chat_logprobs(delta.logprobs, self._logprobs, self._labels)
        choice = render.chat_choice(delta, part, self._message(delta), logprobs)
        if self._shape.return_token_ids:
            choice["token_ids"] = delta.tokens
        return choice

    def _message(self, delta: Delta) -> dict[str, Any]:
        thoughts, answer = self._split(delta)
        if self._shape.stream:
            message = {"reasoning_content": thoughts} if thoughts else {}
            return message | ({"content": answer} if answer or not thoughts else {})
        if self._splitters[delta.index] is None:
            return {"role": "assistant", "content": answer}
        texts = {"content": answer or None, "reasoning_content": thoughts or None}
        return {"role": "assistant", **texts}

    def _split(self, delta: Delta) -> tuple[str, str]:
        splitter = self._splitters[delta.index]
        if splitter is None:
            return "", delta.text
        thoughts, answer = splitter.push(delta.text)
        return thoughts + splitter.flush() if delta.last else thoughts, answer

    def extras(self, deltas: list[Delta]) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self._shape.prompt_logprobs is not None:
            extras["prompt_logprobs"] = render.prompt_logprobs(
                deltas[0].prompt_logprobs or [], self._shape.prompt_logprobs, self._text_of
            )
        if self._shape.return_token_ids:
            extras["prompt_token_ids"] = list(self._prompt)
        return extras


Answer = CompletionAnswer | ChatAnswer
