"""A run that is killed, or meets every fault, ends with the bytes of one that did not."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from evals.stub_endpoint import Stub, serving
from flagdeploy.errors import EvalError
from flagdeploy.evals.answers import Answer, AnswerLog, account, ask, read_log, write_answers
from flagdeploy.evals.capabilities import Capabilities
from flagdeploy.evals.client import Client, Endpoint, Patience, run
from flagdeploy.evals.items import Item
from flagdeploy.records.events import silent

AT_ONCE = 4
PATIENCE = Patience(attempts=5, first_pause_s=0.01, longest_pause_s=0.02, total_s=0.5)


def items(count: int) -> list[Item]:
    return [
        Item(f"k{n}", "t", "gsm8k", ({"role": "user", "content": f"<{n}>"},), str(n), f"k{n}", 40)
        for n in range(count)
    ]


def reply(prompt: str) -> str:
    """Right, wrong, without an answer, cut, with Chinese and with half a surrogate pair."""
    number = int(prompt.strip("<>"))
    texts = [f"\\boxed{{{number}}}", "\\boxed{-1}", "who knows", "<think>" + "x" * 99]
    return [*texts, f"\u4e00 \\boxed{{{number}}}", f"\ud800 {number}"][number % 6]


def answers(url: str, log: Path, count: int) -> list[Answer]:
    async def work() -> list[Answer]:
        async with Client(Endpoint(url), AT_ONCE, PATIENCE) as client:
            capabilities = Capabilities("stub", None, True, 0, False, None)
            found = await ask(
                client,
                capabilities,
                items(count),
                log=AnswerLog(log),
                report=silent,
                stage="answer",
                token_ids=True,
            )
        write_answers(log.with_suffix(".graded.jsonl"), found)
        return found

    return run(work())


def test_killed_at_any_moment_it_loses_what_was_in_flight_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    count, kills = 200, 3
    chance = random.Random()
    command = "import sys, pathlib; from evals.test_resume import answers; "
    command += f"answers(sys.argv[1], pathlib.Path(sys.argv[2]), {count})"
    log = tmp_path / "killed" / "answers.jsonl"
    with serving(Stub(reply)) as stub:
        answers(stub.url, tmp_path / "undisturbed" / "answers.jsonl", count)
        stub.seen.clear()
        moments = sorted(chance.sample(range(1, count), kills))
        for moment in moments:
            process = subprocess.Popen(
                [sys.executable, "-c", command, stub.url, str(log)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            delay = chance.uniform(0, 0.01)  # so that it is also killed while it writes

            def kill(number: int, moment: int = moment, process=process, delay=delay) -> None:  # type: ignore[no-untyped-def]
                if number == moment:
                    threading.Timer(delay, process.send_signal, [signal.SIGKILL]).start()

            stub.on_request = kill
            process.wait()  # the last one may be done before the signal comes
        stub.on_request = lambda number: None
        answers(stub.url, log, count)
        again = len(stub.seen) - count
    result = "answers.graded.jsonl"
    undisturbed = (tmp_path / "undisturbed" / result).read_bytes()
    assert (log.parent / result).read_bytes() == undisturbed, moments
    assert len(undisturbed.splitlines()) == count
    assert again <= kills * AT_ONCE, moments


FAULTS = [429, 500, 503, "disconnect", "reset", "hang", "half", "drip", "no json", "wrong types"]


def test_under_every_fault_each_question_ends_once_and_with_the_same_bytes(tmp_path: Path) -> None:
    count = 40

    def faulty(prompt: str, times: int) -> int | str | None:
        """Up to three faults before a reply, and of the slow ones, which end it at two, one."""
        chance = random.Random(prompt)
        faults = chance.sample(FAULTS, chance.randrange(4))
        slow = [fault for fault in faults if fault in ("hang", "drip")]
        faults = [fault for fault in faults if fault not in slow[1:]]
        return faults[times] if times < len(faults) else None

    with serving(Stub(reply)) as stub:
        answers(stub.url, tmp_path / "calm.jsonl", count)
        stub.seen.clear()
        stub.faulty, stub.fault_headers = faulty, {"Retry-After": "0"}
        stormy = answers(stub.url, tmp_path / "storm.jsonl", count)
        assert len(stub.seen) > 1.5 * count
    assert (tmp_path / "storm.graded.jsonl").read_bytes() == (
        tmp_path / "calm.graded.jsonl"
    ).read_bytes()
    ended = Counter(record.item for record in read_log(tmp_path / "storm.jsonl"))
    assert ended == Counter(item.key for item in items(count))
    assert {answer.attempts for answer in stormy} >= {1, 2, 3}


def test_what_never_answers_is_counted_and_asked_again_by_the_next_run(tmp_path: Path) -> None:
    log = tmp_path / "answers.jsonl"
    bad: dict[str, int | str] = {"<3>": 500, "<11>": "hang", "<17>": "half"}
    with serving(Stub(reply)) as stub:
        calm = answers(stub.url, tmp_path / "calm.jsonl", 24)
        stub.faulty = lambda prompt, times: next((bad[n] for n in bad if n in prompt), None)
        stormy = answers(stub.url, log, 24)
        stub.faulty = lambda prompt, times: None
        stub.seen.clear()
        later = answers(stub.url, log, 24)
        assert len(stub.seen) == 3
    assert [account(stormy)[status] for status in ("error", "timeout")] == [2, 1]
    unaffected = [answer.item for answer in stormy if answer.score is not None]
    assert unaffected == [item.key for item in items(24) if item.key not in ("k3", "k11", "k17")]
    assert account(later) == account(calm)
    assert (tmp_path / "answers.graded.jsonl").read_bytes() == (
        tmp_path / "calm.graded.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("http", [401, 404])
def test_a_refusal_of_everything_ends_the_run_instead_of_counting_as_wrong(
    tmp_path: Path, http: int
) -> None:
    with serving(Stub(reply)) as stub:
        stub.faulty = lambda prompt, times: http if len(stub.seen) > 10 else None
        with pytest.raises(EvalError) as error:
            answers(stub.url, tmp_path / "answers.jsonl", 24)
        assert str(error.value) == (
            f'{stub.url} refuses every question: HTTP {http}: {{"error": "fault"}}'
        )
        stub.faulty = lambda prompt, times: None
        stub.seen.clear()
        assert len(answers(stub.url, tmp_path / "answers.jsonl", 24)) == 24
        assert len(stub.seen) < 20
