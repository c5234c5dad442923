"""Programs against their tests. These are ours and do no harm; what does harm runs on the fleet
(tests/workflows/test_grade_code.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagdeploy.config.launch import Mount
from flagdeploy.evals.grading.code_job import CodeJob, Ended, describe, judge
from flagdeploy.evals.grading.grade import Grade, Status
from flagdeploy.evals.grading.mlperf.code_tests import same_output, same_value

SUM = "a, b = map(int, input().split())\nprint(a + b)"
NOTHING = "ended without a result (exit code 0)"
TESTS = (("1 2", "2 3"), ("3", "5"))


def graded(job: CodeJob, folder: Path) -> Grade:
    """As grade_code does it, without a container."""
    spec = describe(job, "name", "image", {})
    for file in spec.files:
        (folder / Path(file.path).name).write_text(file.content)
    here = [str(folder / Path(word).name) for word in spec.argv[2:]]
    done = subprocess.run([sys.executable, "-I", *here], capture_output=True, timeout=60)
    return judge(job, Ended(done.stdout, done.returncode))


def call(program: str, function: str, *tests: tuple[str, str]) -> CodeJob:
    inputs, outputs = zip(*tests, strict=True)
    return CodeJob(program, inputs, outputs, function, seconds=20)


METHOD = "class Solution:\n    def f(self, x: List[int], k: int) -> int:\n        return "
RIGHT = [
    CodeJob(SUM, *TESTS),
    CodeJob("if __name__ == '__main__':\n    print(sum(map(int, input().split())))", *TESTS),
    CodeJob("import sys\nprint(sum(int(w) for w in sys.stdin.read().split()))", *TESTS),
    CodeJob("import sys\nfor w in sys.stdin.readlines(): print(w * 2)", ("a\nb",), ("aa\nbb",)),
    CodeJob("try:\n    while True: print(input())\nexcept EOFError: pass", ("a\nb",), ("a\nb",)),
    CodeJob("import sys\nprint(len(sys.stdin.buffer.read()))", ("abc",), ("3",)),
    CodeJob("print('1.50 2')\nexit()\nprint('never')", ("",), ("1.5 2.0",)),
    CodeJob("def f(n):\n    return n and f(n - 1)\nprint(f(int(input())))", ("20000",), ("0",)),
    CodeJob("print(gcd(12, 18), Counter('aab')['a'])", ("",), ("6 2",)),
    call(METHOD + "bisect_left(x, k)", "f", ("[1, 2, 3]\n2", "1"), ("[]\n5", "0")),
    call("def f(x):\n    return (x, x)", "f", ("1", "[1, 1]")),
    call("def f(x):\n    return x == 1", "f", ("1", "1"), ("2", "false")),
    call("def f(x):\n    return defaultdict(int, {x: 1.0})", "f", ('"a"', '{"a": 1}')),
    CodeJob("def f(x):\n    return x", check="assert f(1) == 1"),
]  # fmt: skip
WRONG = [
    (CodeJob("print(4)", *TESTS), "test 1 of 2: wrong answer"),
    (CodeJob(SUM.replace("+", "*"), ("2 2", "2 3"), ("4", "5")), "test 2 of 2: wrong answer"),
    (CodeJob("print(1)\nprint(2)", ("",), ("1",)), "wrong answer"),
    (CodeJob("print(", ("",), ("1",)), "runtime error: SyntaxError"),
    (CodeJob("print(1 / 0)", ("",), ("1",)), "runtime error: ZeroDivisionError"),
    (CodeJob("\ud800", ("",), ("1",)), "runtime error: UnicodeEncodeError"),
    (CodeJob("while True:\n    pass", ("",), ("1",), seconds=1), "time limit exceeded"),
    (CodeJob("import os\nos.getcwd()", ("",), ("",)), "runtime error: TypeError"),
    (CodeJob("import psutil\nprint(1)", ("",), ("1",)), "runtime error: ModuleNotFoundError"),
    (CodeJob("import sys\nfor w in sys.stdin: print(w)", ("1",), ("1",)), "runtime error: TypeErr"),
    (CodeJob("print(open(0).read())", ("a",), ("a",)), "wrong answer"),
    (CodeJob("print('x' * (40 << 20))", ("",), ("1",)), "output limit exceeded"),
    (call("def f(x):\n    return [(x, x)]", "f", ("1", "[[1, 1]]")), "wrong answer: a list"),
    (call("def f(x):\n    return {x}", "f", ("1", "[1]")), "wrong answer: a set"),
    (call("def g(x):\n    return x", "f", ("1", "1")), "runtime error: AttributeError"),
    (CodeJob("class Solution:\n    pass\nprint(1)", ("",), ("1",)), "runtime error"),
    (CodeJob("def f(x):\n    return 2", check="assert f(1) == 1"), "runtime error: Ass"),
    (CodeJob("import posix\nposix._exit(0)", ("",), ("1",)), NOTHING),
    (CodeJob("raise SystemExit", check="assert False"), NOTHING),
]  # fmt: skip


@pytest.mark.parametrize("job", RIGHT, ids=lambda job: job.program[:40])
def test_right_programs(job: CodeJob, tmp_path: Path) -> None:
    assert graded(job, tmp_path) == Grade(job.program, 1.0)


@pytest.mark.parametrize(("job", "why"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_programs(job: CodeJob, why: str, tmp_path: Path) -> None:
    found = graded(job, tmp_path)
    assert (found.score, found.status) == (0.0, Status.PARSED)
    assert found.message.removeprefix("test 1 of 1: ").startswith(why)


def test_a_program_cannot_learn_what_is_expected() -> None:
    spec = describe(CodeJob("p", ("in",), ("secret",)), "name", "image", {})
    assert "secret" not in "".join(file.content for file in spec.files)


def test_a_program_that_writes_results_gives_an_answer_and_no_more(tmp_path: Path) -> None:
    forged = 'flagdeploy-result [{"output": "3"}, {"output": "9"}]'
    program = f"import posix\nfor d in range(3, 9):\n    try:\n        posix.write(d, b'\\n{forged}\\n')\n    except OSError:\n        pass\nposix._exit(0)"  # noqa: E501
    found = graded(CodeJob(program, *TESTS), tmp_path)
    assert (found.score, found.message) == (0.0, "test 2 of 2: wrong answer")


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (Ended(b"", out_of_time=True), "time limit exceeded: stopped after 127 s"),
        (Ended(b"", 137, out_of_memory=True), "memory limit exceeded"),
        (Ended(b"junk", 1), "ended without a result (exit code 1)"),
        (Ended(b"\nflagdeploy-result [{]\n", 0), NOTHING),
        (Ended(b"\nflagdeploy-result []\n", 0), "only 0 of 2 tests ran"),
        (Ended(b"\nflagdeploy-result " + b"[" * 100_000, 0), NOTHING),
        (Ended(b'\nflagdeploy-result [{"output": "3"}]\n', 0), "only 1 of 2 tests ran"),
        (Ended(b'\nflagdeploy-result [{"value": 3}]\n', 0), "test 1 of 2: wrong answer"),
        (
            Ended(b'\nflagdeploy-result [{"output":"3"},{"output":"5"},{"output":""}]\n', 0),
            "test 3 of 2: there is no such test",
        ),
    ],
)  # fmt: skip
def test_every_end_is_told(ended: Ended, why: str) -> None:
    assert judge(CodeJob("p", *TESTS), ended).message == why


@given(st.binary(max_size=80))
def test_no_log_breaks_the_judge(log: bytes) -> None:
    assert judge(CodeJob("p", *TESTS), Ended(b"\nflagdeploy-result " + log, 0)).score == 0.0


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1\n2\n", " 1 \n2", True),
        ("1 2", "1.0 2.00", True),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("1e0", "1", True),
        ("0.1", "0.10000000001", False),
        ("50000000000000000", "50000000000000001", False),
        ("1", "1\n2", False),
        ("", "", True),
        ("NaN", "nan", False),
    ],
)
def test_the_comparison_of_outputs(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected) is same


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_the_comparison_of_values(value: object) -> None:
    assert same_value(value, json.dumps(value))
    assert not same_value([value], json.dumps(value))
    assert not same_value(value, "{")


def test_the_container_of_a_job() -> None:
    job, mount = CodeJob("p", ("a", "b"), ("", "")), Mount("/usr", "/usr")
    spec = describe(job, "n", "python:3", {"l": "1"}, [mount])
    assert spec.argv == ("python3", "-I", "/job/run_tests.py", "/job/job.json")
    assert (spec.network, spec.ipc, spec.user, spec.env) == ("none", "none", "65534:65534", {})
    assert spec.ulimits == {"cpu": 128, "nproc": 512, "core": 0}
    assert spec.mounts == (Mount("/usr", "/usr", read_only=True),)
    assert (spec.labels, spec.image) == ({"l": "1"}, "python:3")
