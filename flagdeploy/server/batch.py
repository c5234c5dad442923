"""Continuous batching: one thread that owns the model.

Every step prefills waiting sequences (each alone, in chunks, up to `CHUNK` prompt tokens a step)
and then generates one token for all running sequences together. A sequence joins the batch when its
prompt is done and leaves in the step that finishes it; sequences never wait for one another.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from flagdeploy.server.forward import CHUNK, Forward
from flagdeploy.server.logprobs import TokenLogprobs, finite_rows, token_logprobs
from flagdeploy.server.metrics import Metrics
from flagdeploy.server.refusal import Refusal
from flagdeploy.server.sampling import next_tokens
from flagdeploy.server.sequence import Delta, Sequence

T = TypeVar("T")
log = logging.getLogger(__name__)


class Batch:
    """At most `max_num_seqs` sequences run and at most `max_waiting` wait.

    `submit`, `cancel` and `drain` are called from the event loop's thread, where deltas arrive too.
    """

    def __init__(
        self, forward: Forward, *, max_num_seqs: int, max_waiting: int, metrics: Metrics
    ) -> None:
        self._forward = forward
        self._max_num_seqs = max_num_seqs
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # row i of the cache belongs to entry i
        self._asked: deque[Callable[[], None]] = deque()  # to be done between two steps
        self._cancelled = False
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="batch", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue the sequences of one request, all or none; raises `Refusal` 503 when full."""
        with self._changed:
            if not self.alive:
                raise _unavailable("the server is shutting down")
            if len(self._waiting) + len(sequences) > self._max_waiting:
                raise _unavailable(f"the queue is full ({self._max_waiting} sequences); try again")
            self._waiting.extend(sequences)
            self._metrics.waiting = len(self._waiting)
            self._changed.notify()

    def cancel(self, sequences: list[Sequence]) -> None:
        """Drop what is unfinished of `sequences`; their rows are free from the next step on."""
        with self._changed:
            for sequence in sequences:
                sequence.cancelled = True
            self._cancelled = True
            self._changed.notify()

    async def between_steps(self, work: Callable[[], T]) -> T:
        """Run `work` in the batch's own thread; returns and raises what it does, `Refusal` 503 when
        the server is shutting down."""
        done: Future[T] = Future()
        with self._changed:
            if not self.alive:
                raise _unavailable("the server is shutting down")
            self._asked.append(partial(_settle, done, work))
            self._changed.notify()
        return await asyncio.wrap_future(done)

    async def drain(self, seconds: float) -> None:
        """Take nothing new, let running work finish for at most `seconds`, then end the thread."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closing = True
            self._changed.notify()
        while (self._running or self._waiting) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        with self._changed:
            self.cancel([*self._running, *self._waiting])
        await asyncio.to_thread(self._thread.join)

    # What follows runs in the batch's own thread.

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait_for_work():
                self._do_what_was_asked()
                done = self._prefill_some()
                done += self._guarded(self._decode, self._running)
                # First, so that whoever has an answer finds metrics that know of it.
                self._metrics.running = len(self._running)
                self._deliver(done + self._running)

    def _wait_for_work(self) -> bool:
        with self._changed:
            while True:
                if self._cancelled:
                    self._drop_cancelled()
                if self._asked or self._waiting or self._running:
                    return True
                if self._closing:
                    return False
                self._changed.wait()

    def _do_what_was_asked(self) -> None:
        with self._changed:
            asked, self._asked = self._asked, deque()
        for work in asked:  # without the lock: it may take minutes
            work()

    def _drop_cancelled(self) -> None:
        self._cancelled = False
        dropped = [entry for entry in self._waiting if entry.cancelled]
        self._waiting = deque(entry for entry in self._waiting if not entry.cancelled)
        dropped += self._leave(lambda entry: entry.cancelled)
        self._metrics.finished["abort"] += len(dropped)
        self._metrics.waiting = len(self._waiting)
        self._metrics.running = len(self._running)
        if self._closing:
            for sequence in dropped:
                sequence.fail(_unavailable("the server is shutting down"))
            self._deliver(dropped)

    def _prefill_some(self) -> list[Sequence]:
        """Bring waiting sequences into the batch; returns those that are finished already."""
        done: list[Sequence] = []
        budget = CHUNK
        while self._waiting and len(self._running) < self._max_num_seqs and budget > 0:
            sequence = self._waiting[0]
            before = sequence.prefilled
            done += self._guarded(partial(self._prefill, sequence), [sequence])
            budget -= max(sequence.prefilled - before, 1)
            if sequence.finished or sequence.prefilled == len(sequence.prompt):
                with self._changed:
                    self._waiting.popleft()
                    self._metrics.waiting = len(self._waiting)
        return done

    def _prefill(self, sequence: Sequence) -> list[Sequence]:
        """One chunk of a prompt; after the last one its first token, and its row in the batch."""
        k = sequence.sampling.prompt_logprobs
        start, prompt = sequence.prefilled, sequence.prompt
        logits, count = self._forward.prefill(
            sequence.cache, prompt, start, all_logits=k is not None
        )
        if not all(finite_rows(logits)):
            self._fail_non_finite(sequence)
            return [sequence]
        if k is not None:
            following = list(prompt[start + 1 : start + 1 + count])
            sequence.add_prompt_logprobs(token_logprobs(logits[: len(following)], following, k))
        sequence.prefilled += count
        if sequence.prefilled < len(prompt):
            return []
        self._metrics.prompt_tokens += len(prompt)
        if not sequence.end_without_output():
            self._advance([sequence], logits[-1:])
        if sequence.finished:
            self._count(sequence)
            return [sequence]
        self._forward.cache.join(len(self._running), sequence.release_cache())
        self._running.append(sequence)
        return []

    def _decode(self) -> list[Sequence]:
        """One token for every running sequence; returns those that it finished."""
        running = self._running
        if not running:
            return []
        logits = self._forward.decode(
            [entry.tokens[-1] for entry in running], [entry.length for entry in running]
        )
        finite = finite_rows(logits)
        if all(finite):
            self._advance(running, logits)
        else:
            rows = [row for row, good in enumerate(finite) if good]
            for row in set(range(len(running))).difference(rows):
                self._fail_non_finite(running[row])
            self._advance([running[row] for row in rows], logits[rows])
        done = self._leave(lambda entry: entry.finished)
        for sequence in done:
            self._count(sequence)
        return done

    def _advance(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Give each sequence its next token from its row of `logits` [B, V]."""
        tokens = next_tokens(logits, [entry.choice for entry in sequences])
        self._metrics.generation_tokens += len(tokens)
        reports: dict[int, TokenLogprobs] = {}
        asked = {
            row: k
            for row, entry in enumerate(sequences)
            if (k := entry.sampling.logprobs) is not None
        }
        if asked:
            rows = list(asked)
            chosen = [tokens[row] for row in rows]
            entries = token_logprobs(logits[rows], chosen, max(asked.values()))
            reports = dict(zip(rows, entries, strict=True))
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            sequence.accept(token, reports.get(row))

    def _leave(self, gone: Callable[[Sequence], bool]) -> list[Sequence]:
        """Take the sequences that are `gone` out of the batch, closing the gaps in the cache."""
        left = []
        for row in reversed(range(len(self._running))):
            if gone(self._running[row]):
                left.append(self._running[row])
                self._forward.cache.leave(row, len(self._running) - 1)
                self._running[row] = self._running[-1]
                self._running.pop()
        return left

    def _guarded(
        self, step: Callable[[], list[Sequence]], affected: list[Sequence]
    ) -> list[Sequence]:
        """Run `step`; what breaks in it ends the `affected` sequences, not the server."""
        try:
            return step()
        except Exception as error:  # out of memory, a broken kernel, a driver: all end here
            log.exception("the model failed")
            failed = list(affected)
            for sequence in failed:
                sequence.fail(_internal(f"the model failed: {type(error).__name__}"))
            self._metrics.errors += len(failed)
            self._leave(lambda entry: entry.finished)
            return failed

    def _fail_non_finite(self, sequence: Sequence) -> None:
        sequence.fail(_internal("non-finite logits"))
        self._metrics.non_finite += 1
        self._metrics.errors += 1

    def _count(self, sequence: Sequence) -> None:
        if sequence.finish_reason is not None:
            self._metrics.finished[sequence.finish_reason] += 1

    def _deliver(self, sequences: list[Sequence]) -> None:
        deltas = [(entry, delta) for entry in sequences if (delta := entry.take_delta())]
        if deltas:
            self._loop.call_soon_threadsafe(_hand_over, deltas)


def _settle(done: "Future[T]", work: Callable[[], T]) -> None:
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(work())
    except Exception as error:
        done.set_exception(error)


def _hand_over(deltas: list[tuple[Sequence, Delta]]) -> None:
    for sequence, delta in deltas:
        sequence.deliver(delta)


def _unavailable(message: str) -> Refusal:
    return Refusal(message, status=503, kind="service_unavailable")


def _internal(message: str) -> Refusal:
    return Refusal(message, status=500, kind="internal_error")
