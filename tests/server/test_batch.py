"""The batch around a model that is only a script: queueing, failures, shutting down."""

import asyncio
import threading
from typing import Any

import pytest

from flagdeploy.server.batch import Batch
from flagdeploy.server.metrics import Metrics
from flagdeploy.server.protocol import Sampling
from flagdeploy.server.refusal import Refusal
from flagdeploy.server.sequence import Delta, Sequence
from server.scripted_forward import EOS, Letters, ScriptedForward, crash, say_eos, spoil


def sequence(first: int, deltas: "asyncio.Queue[Delta]", **fields: Any) -> Sequence:
    options = {"max_tokens": 6, "stream": False, **fields}
    stream, most = options.pop("stream"), options["max_tokens"]
    return Sequence(
        first,
        (first, first),
        Sampling(temperature=0, **options),
        max_tokens=most,
        eos=frozenset([EOS]),
        decoder=Letters(),
        stream=stream,
        deliver=deltas.put_nowait,
    )


def run(
    forward: ScriptedForward, count: int, **fields: Any
) -> tuple[dict[int, list[Delta]], Metrics]:
    """Deltas by sequence, which begin with the tokens 0, 1, 2, ... and share 3 rows."""

    async def main() -> tuple[dict[int, list[Delta]], Metrics]:
        metrics = Metrics()
        batch = Batch(forward, max_num_seqs=3, max_waiting=8, metrics=metrics)  # type: ignore[arg-type]
        queue: asyncio.Queue[Delta] = asyncio.Queue()
        batch.submit([sequence(first, queue, **fields) for first in range(count)])
        deltas: dict[int, list[Delta]] = {first: [] for first in range(count)}
        while not all(parts and parts[-1].last for parts in deltas.values()):
            delta = await queue.get()
            deltas[delta.index].append(delta)
        await batch.drain(0)
        assert not batch.alive
        return deltas, metrics

    return asyncio.run(main())


def test_rows_are_shared_and_never_more_than_allowed() -> None:
    forward = ScriptedForward()
    deltas, metrics = run(forward, 8)
    assert forward.largest == 3 and forward.rows == []
    assert all([part.tokens for part in parts] == [[3] * 6] for parts in deltas.values())
    assert +metrics.finished == {"length": 8}
    assert (metrics.prompt_tokens, metrics.generation_tokens) == (16, 48)
    assert (metrics.running, metrics.waiting) == (0, 0)


def test_a_stream_gets_its_tokens_as_they_come() -> None:
    deltas, _ = run(ScriptedForward(), 1, stream=True)
    assert len(deltas[0]) >= 5 and sum((part.tokens for part in deltas[0]), []) == [3] * 6
    assert "".join(part.text for part in deltas[0]) == "d" * 6


def test_non_finite_logits_end_one_sequence() -> None:
    deltas, metrics = run(ScriptedForward(1, spoil), 4)
    error = deltas[1][-1].error
    assert error is not None and (error.status, error.message) == (500, "non-finite logits")
    assert all(deltas[i][-1].tokens == [3] * 6 for i in (0, 2, 3))
    assert (metrics.non_finite, metrics.errors, +metrics.finished) == (1, 1, {"length": 3})


def test_eos_ends_a_sequence_and_is_not_text() -> None:
    deltas, metrics = run(ScriptedForward(1, say_eos), 3)
    end = deltas[1][-1]
    assert (end.text, end.tokens) == ("dd", [3, 3, EOS])
    assert (end.finish_reason, end.stop_reason) == ("stop", None)
    assert +metrics.finished == {"stop": 1, "length": 2}


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"min_tokens": 4}])
def test_eos_may_be_ignored_or_held_back(fields: dict[str, Any]) -> None:
    deltas, _ = run(ScriptedForward(1, say_eos), 3, **fields)
    assert len(deltas[1][-1].tokens) == 6
    assert (EOS in deltas[1][-1].tokens) == ("ignore_eos" in fields)


def test_a_crash_of_the_model_ends_what_ran_but_not_the_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deltas, metrics = run(ScriptedForward(1, crash), 6)
    failed = {i for i, parts in deltas.items() if parts[-1].error is not None}
    assert 1 in failed and len(failed) <= 3
    message = "the model failed: RuntimeError"
    assert {str(deltas[i][-1].error) for i in failed} == {message}
    assert metrics.errors == len(failed) and metrics.finished["length"] == 6 - len(failed)
    assert "out of memory" in caplog.text


def test_a_full_queue_refuses_all_of_a_request() -> None:
    with pytest.raises(Refusal) as caught:
        run(ScriptedForward(), 9)
    assert caught.value.status == 503
    assert caught.value.message == "the queue is full (8 sequences); try again"


def test_after_draining_nothing_is_taken() -> None:
    async def main() -> None:
        batch = Batch(
            ScriptedForward(),  # type: ignore[arg-type]
            max_num_seqs=1,
            max_waiting=1,
            metrics=Metrics(),
        )
        await batch.drain(1)
        batch.submit([sequence(0, asyncio.Queue())])

    with pytest.raises(Refusal, match="the server is shutting down"):
        asyncio.run(main())


def test_work_between_steps_is_done_in_the_thread_of_the_model() -> None:
    async def main() -> None:
        batch = Batch(ScriptedForward(), max_num_seqs=3, max_waiting=8, metrics=Metrics())  # type: ignore[arg-type]
        queue: asyncio.Queue[Delta] = asyncio.Queue()
        assert await batch.between_steps(lambda: threading.current_thread().name) == "batch"
        batch.submit([sequence(1, queue)])
        with pytest.raises(ZeroDivisionError):
            await batch.between_steps(lambda: 1 // 0)
        assert (await queue.get()).tokens == [3] * 6  # neither ended nor held up by it
        # What takes long holds up the model and not the event loop, which goes on accepting.
        release = threading.Event()
        slow = asyncio.ensure_future(batch.between_steps(lambda: release.wait(60)))
        await asyncio.sleep(0.05)
        batch.submit([sequence(2, queue)])
        release.set()
        assert await slow
        assert (await queue.get()).tokens == [3] * 6
        await batch.drain(0)
        with pytest.raises(Refusal, match="shutting down"):
            await batch.between_steps(int)

    asyncio.run(main())
