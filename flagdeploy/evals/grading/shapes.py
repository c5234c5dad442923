"""How a question is graded, by the name that it carries: its shape.

A plain shape (gsm8k, mmlu, aime) is a rule of plain.py. ``RULE:BENCHMARK`` is what a public set is
graded by: ``lenient:gsm8k``, ``mlperf:gpqa`` (the reference for DeepSeek-R1) and
``gpt-oss-120b:aime25`` (the other). The name stands in records and bundles, so that answers are
graded the same way wherever they are compared.
"""

import atexit
from functools import cache

from flagdeploy.errors import EvalError
from flagdeploy.evals.grading import plain
from flagdeploy.evals.grading.grade import Grade
from flagdeploy.evals.grading.grader import Grader, Grades, Reply
from flagdeploy.evals.grading.lenient import benchmarks
from flagdeploy.evals.grading.mlperf import references

DEEPSEEK_R1, GPT_OSS = "deepseek-r1", "gpt-oss-120b"


def grade(shape: str, reply: str, gold: str, finish_reason: str | None = None) -> Grade:
    """The grade of `reply` by `shape`. Mathematics takes turns in a pool of this program's;
    raises EvalError when what that needs is not installed, or nobody knows the benchmark."""
    rule, colon, benchmark = shape.partition(":")
    if not colon:
        return plain.grade(shape, reply, gold, finish_reason)
    if rule == "lenient":
        return shared_grader(DEEPSEEK_R1).lenient(Reply(benchmark, reply, gold, finish_reason))
    found = _mlperf(shape, reply, gold, finish_reason)
    if found is None:
        raise EvalError(f"MLPerf's references do not grade `{benchmark}`")
    return found


def both(shape: str, reply: str, gold: str, finish_reason: str | None = None) -> Grades:
    """`grade` by both rules; a plain shape has the one."""
    _, colon, benchmark = shape.partition(":")
    if not colon:
        return Grades(None, plain.grade(shape, reply, gold, finish_reason))
    lenient = shared_grader(DEEPSEEK_R1).lenient(Reply(benchmark, reply, gold, finish_reason))
    return Grades(_mlperf(shape, reply, gold, finish_reason), lenient)


def primary(shape: str, grades: Grades) -> Grade:
    """The one of `grades` that `grade` gives."""
    by_mlperf = shape.partition(":")[0] in ("mlperf", GPT_OSS)
    return grades.mlperf if by_mlperf and grades.mlperf else grades.lenient


def _mlperf(shape: str, reply: str, gold: str, finish_reason: str | None) -> Grade | None:
    rule, _, benchmark = shape.partition(":")
    if rule == GPT_OSS:
        asked = Reply(benchmark, as_harmony(reply), gold, finish_reason)
        return shared_grader(GPT_OSS).mlperf(asked)
    return shared_grader(DEEPSEEK_R1).mlperf(Reply(benchmark, reply, gold, finish_reason))


def as_harmony(reply: str) -> str:
    """A reply with its thoughts as a chat endpoint gives them, in the format that gpt-oss wrote
    them in and its reference reads; what is in that format is left as it is."""
    thoughts, closed, answer = reply.rpartition("</think>")
    if "<|channel|>" in reply or not (closed or reply.startswith("<think>")):
        return reply
    if not closed:
        return f"<|channel|>analysis<|message|>{reply.removeprefix('<think>')}"
    return (
        f"<|channel|>analysis<|message|>{thoughts.removeprefix('<think>')}<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{answer}<|return|>"
    )


def runs_code(shape: str) -> bool:
    """Whether `shape` is graded by running what a reply says."""
    rule, colon, benchmark = shape.partition(":")
    if not colon:
        return False
    if rule == "lenient":
        found = benchmarks.find_rule(benchmark)
    else:
        found = references.find_rule(benchmark, GPT_OSS if rule == GPT_OSS else DEEPSEEK_R1)
    return found is not None and found.equal is None


@cache
def shared_grader(reference: str) -> Grader:
    """One grader for each reference for as long as this program runs."""
    grader = Grader(reference)
    atexit.register(grader.pool.close)
    return grader
