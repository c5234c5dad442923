"""The processes that compare mathematics: what they survive, and what they are kept from."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flagdeploy.errors import EvalError
from flagdeploy.evals.grading.grade import Grade, Status
from flagdeploy.evals.grading.grader import Grader, Reply
from flagdeploy.evals.grading.pool import Comparison, Pool


@pytest.mark.parametrize("power", ["9**9**9**9", "99999999999!"])
def test_an_explosion_ends_by_the_clock_and_the_next_answer_is_graded(
    pool: Pool, power: str
) -> None:
    grader = Grader(pool=pool)
    found = grader.mlperf(Reply("math500", f"\\boxed{{{power}}}", "x"))
    assert found is not None
    assert (found.prediction, found.score, found.status) == (power, 0.0, Status.ERROR)
    assert found.message in (
        "timed out after 2 s of processor time",
        "ran out of memory",
    )
    good = grader.mlperf(Reply("math500", r"\boxed{\frac{1}{2}}", "1/2"))
    assert good == Grade(r"\frac{1}{2}", 1.0)


def test_a_chain_of_powers_is_not_even_tried(pool: Pool) -> None:
    assert pool.compare("prm800k", "9^9^9^9", "5") == Comparison(False)


def test_an_enormous_answer(pool: Pool) -> None:
    found = Grader(pool=pool).mlperf(Reply("math500", "\\boxed{" + "(1+" * 300_000 + "}", "5"))
    assert found is not None and found.score == 0.0


def test_memory_is_limited() -> None:
    pool = Pool(workers=1, cpu_seconds=30.0, memory=1 << 29)
    try:
        found = pool.compare("prm800k", '"e"*10**10', "e")
    finally:
        pool.close()
    assert found == Comparison(False, "ran out of memory")


def test_a_process_that_dies_is_named_and_replaced() -> None:
    pool = Pool(workers=1)
    try:
        assert pool.compare("prm800k", "1", "1").equal
        worker = pool._idle.get()
        assert worker is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
        pool._idle.put(worker)
        assert pool.compare("prm800k", "1", "1") == Comparison(
            False, "the grading process ended (SIGKILL)"
        )
        assert pool.compare("prm800k", "1", "1").equal
        assert pool.started == 2
    finally:
        pool.close()


def test_a_process_that_only_waits_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagdeploy.evals.grading.pool.PATIENCE", 1.0)
    pool = Pool(workers=1, cpu_seconds=1.0)
    try:
        pool.compare("prm800k", "1", "1")
        worker = pool._idle.get()
        assert worker is not None
        os.kill(worker._process.pid, signal.SIGSTOP)
        pool._idle.put(worker)
        assert pool.compare("prm800k", "1", "1").error == "timed out after 1 s"
    finally:
        pool.close()


def test_what_is_not_installed_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pylatexenc.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(tmp_path)
    pool = Pool(workers=1)
    with pytest.raises(EvalError) as raised:
        pool.compare("prm800k", "1", "1")
    assert str(raised.value) == "grading mathematics needs pylatexenc, which cannot be imported"
    assert raised.value.hint == "pip install 'flagdeploy[eval]'"
    pool.close()


def test_letters_and_numbers_start_no_process_and_need_no_extra() -> None:
    program = (
        "import sys\n"
        "from flagdeploy.evals.grading.grader import Grader, Reply\n"
        "with Grader() as grader:\n"
        "    for name in ('gsm8k', 'mmlu', 'aime', 'gpqa', 'mmlu_pro', 'ceval', 'mgsm_zh'):\n"
        "        grader.both(Reply(name, 'Answer: 5', '5'))\n"
        "    assert grader.pool.started == 0\n"
        "assert not {'sympy', 'math_verify', 'pylatexenc'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_hostile_text_meets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary_0123456789")
    pool = Pool(workers=1)
    try:
        pool.compare("prm800k", "1", "1")
        worker = pool._idle.get()
        assert worker is not None
        environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes()
        pool._idle.put(worker)
    finally:
        pool.close()
    assert b"PYTHONHASHSEED=0" in environment
    assert b"hf_canary" not in environment
