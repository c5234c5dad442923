"""One sequence being generated: its tokens, text, stop conditions, and what is still to be sent."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from flagdeploy.server.logprobs import TokenLogprobs
from flagdeploy.server.protocol import Sampling
from flagdeploy.server.refusal import Refusal
from flagdeploy.server.sampling import Choice
from flagdeploy.server.text import Decoder, Detokenizer, StopStrings


@dataclass
class Delta:
    """What is new of sequence `index` of a request since its last delta.

    `prompt_logprobs` comes with the first; `finish_reason` (``stop`` or ``length``) or `error` with
    the last. `stop_reason` is the stop string or stop token id, None for EOS, as in vLLM.
    """

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    error: Refusal | None = None

    @property
    def last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Sequence:
    """State of one sequence. The batch's thread owns it; `cancelled` may be set by any thread.

    `deliver` is called in the event loop's thread with each `Delta`: after every step with
    `stream`, otherwise once at the end.
    """

    def __init__(
        self,
        index: int,
        prompt: tuple[int, ...],
        sampling: Sampling,
        *,
        max_tokens: int,
        eos: frozenset[int],
        decoder: Decoder,
        stream: bool,
        deliver: Callable[[Delta], None],
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.deliver = deliver
        self.cancelled = False
        self.finished = False
        self.finish_reason: str | None = None
        self.cache = DynamicCache()
        self.prefilled = 0
        self.tokens: list[int] = []
        self._max_tokens = max_tokens
        self._eos = frozenset() if sampling.ignore_eos else eos
        self._stream = stream
        self._delta = Delta(index)
        self._detokenizer = Detokenizer(
            decoder, prompt, skip_special_tokens=sampling.skip_special_tokens
        )
        self._stops = StopStrings(sampling.stop, include=sampling.include_stop_str_in_output)
        generator = torch.Generator()
        generator.manual_seed(random.getrandbits(63) if sampling.seed is None else sampling.seed)
        ends = self._eos.union(sampling.stop_token_ids)
        self._free = Choice(sampling, generator)
        self._held = Choice(sampling, generator, banned=tuple(sorted(ends)))

    @property
    def length(self) -> int:
        """Position of the newest token: how many tokens of this sequence the cache holds."""
        return len(self.prompt) + len(self.tokens) - 1

    @property
    def choice(self) -> Choice:
        return self._held if len(self.tokens) < self.sampling.min_tokens else self._free

    def release_cache(self) -> DynamicCache:
        """Give up the cache of the prompt: the batch has its own from here on."""
        cache, self.cache = self.cache, DynamicCache()
        return cache

    def add_prompt_logprobs(self, entries: list[TokenLogprobs]) -> None:
        if self._delta.prompt_logprobs is None:
            self._delta.prompt_logprobs = [None]  # nothing precedes the first token
        self._delta.prompt_logprobs += entries

    def end_without_output(self) -> bool:
        """Finish now if no token was asked for (scoring a prompt)."""
        if self._max_tokens == 0:
            self._end("length", None)
        return self.finished

    def accept(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """Take the next token and finish if it, the text or the length says so."""
        self.tokens.append(token)
        self._delta.tokens.append(token)
        if logprobs is not None:
            self._delta.logprobs.append(logprobs)
        if token in self._eos or token in self.sampling.stop_token_ids:
            if self.sampling.include_stop_str_in_output:
                self._delta.text += self._stops.push(self._detokenizer.push(token))[0]
            self._flush()
            self._end("stop", None if token in self._eos else token)
            return
        armed = len(self.tokens) >= self.sampling.min_tokens
        text, stop = self._stops.push(self._detokenizer.push(token), armed=armed)
        self._delta.text += text
        if stop is not None:
            self._end("stop", stop)
        elif len(self.tokens) >= self._max_tokens:
            self._flush()
            self._end("length", None)

    def fail(self, error: Refusal) -> None:
        self._delta.error = error
        self.finished = True

    def take_delta(self) -> Delta | None:
        """What should be sent now, if anything."""
        if not self.finished and not (self._stream and self._delta.tokens):
            return None
        delta, self._delta = self._delta, Delta(self._delta.index)
        return delta

    def _flush(self) -> None:
        self._delta.text += self._stops.push(self._detokenizer.flush())[0] + self._stops.flush()

    def _end(self, reason: str, stop_reason: str | int | None) -> None:
        self._delta.finish_reason, self._delta.stop_reason = reason, stop_reason
        self.finished, self.finish_reason = True, reason
