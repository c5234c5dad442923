"""Runs one generated program against its inputs; nothing here knows the expected outputs.

Copied into a container by code_job.py and started as ``python3 -I run_tests.py JOB_JSON``; needs
the standard library only. Prints one line, MARK and JSON: a list with ``{"output": text}``,
``{"value": json}`` or ``{"failed": why}`` per test; the first failure ends it.

The rules are LiveCodeBench's (lcb_runner/evaluation/testing_util.py): wide star imports, a
recursion limit of 50000, `Solution` made an object, a program with input and output wrapped into
a function, one alarm per test, some functions of the system taken away.
"""

import ast
import builtins
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any
from unittest.mock import mock_open, patch

MARK = "flagdeploy-result "
LARGEST = 32 << 20

STARRED = [
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing",
]  # fmt: skip
PRELUDE = "".join(f"from {name} import *\n" for name in STARRED)
PRELUDE += "".join(f"import {name}\n" for name in STARRED[:-2])
PRELUDE += "sys.setrecursionlimit(50000)\n"

TAKEN_FROM_OS = [
    "kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork",
    "forkpty", "killpg", "rename", "renames", "truncate", "replace", "unlink", "fchmod", "fchown",
    "chmod", "chown", "chroot", "lchflags", "lchmod", "lchown", "getcwd", "chdir",
]  # fmt: skip


class TimeoutException(Exception):
    """Raised in the program by the alarm; the reference knows it by this name."""


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123
        job = json.load(file)
    answer = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what a program prints beside its captured output is lost
        os.dup2(null, descriptor)
    with contextlib.suppress(ImportError):
        import numpy  # noqa: F401  the reference has it loaded before it takes things away
    _guard()
    signal.signal(signal.SIGALRM, _alarm)
    results = _run(job)
    text = json.dumps(results)
    if len(text) > LARGEST:
        text = json.dumps([{"failed": "output limit exceeded"}])
    answer.write(f"\n{MARK}{text}\n")
    answer.flush()


def _run(job: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    seconds = int(job["seconds"])
    try:
        if job["check"] is not None:
            _compiled(f"{job['program']}\n{job['check']}\n", seconds)
            return [{"output": ""}]
        run = _function(job, seconds) if job["function"] else _standard_input(job, seconds)
        for test in job["inputs"]:
            signal.alarm(seconds)
            try:
                results.append(run(test))
            finally:
                signal.alarm(0)
    except Exception as error:  # generated code raises anything
        results.append({"failed": _why(error)})
    return results


def _why(error: Exception) -> str:
    if "timeoutexception" in repr(error).lower():
        return "time limit exceeded"
    return f"runtime error: {type(error).__name__}: {error}"[:300]


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TimeoutException


def _compiled(code: str, seconds: int) -> Any:
    signal.alarm(seconds)
    try:
        module = ModuleType("tmp_sol", "")
        exec(code, module.__dict__)
        return module.Solution() if "class Solution" in code else module
    finally:
        signal.alarm(0)


def _function(job: dict[str, Any], seconds: int) -> Callable[[str], dict[str, Any]]:
    """A call: one JSON argument a line."""
    method = getattr(_compiled(PRELUDE + "\n" + job["program"], seconds), job["function"])

    def call(test: str) -> dict[str, Any]:
        value = method(*[json.loads(line) for line in test.split("\n")])
        value = list(value) if isinstance(value, tuple) else value
        try:
            return {"value": _plain(value)}
        except TypeError:  # no JSON value is equal to it
            return {"failed": f"wrong answer: a {type(value).__name__}"}

    return call


def _plain(value: Any) -> Any:
    """`value` as JSON that is equal to it in Python; TypeError when there is none."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(part) for key, part in value.items()}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy
        return _plain(value.item())
    raise TypeError(type(value).__name__)


def _standard_input(job: dict[str, Any], seconds: int) -> Callable[[str], dict[str, Any]]:
    """A program that reads its standard input and prints."""
    program = _compiled(_wrapped(_without_main(job["program"])), seconds).wrapped_function

    def call(test: str) -> dict[str, Any]:
        output = io.StringIO()
        output.close = lambda: None  # type: ignore[method-assign]
        files = mock_open(read_data=test)
        with patch("builtins.open", files), patch("sys.stdin", _Stdin(test)):
            saved, sys.stdout = sys.stdout, output
            try:
                program()
            except SystemExit:
                pass
            finally:
                sys.stdout = saved
        return {"output": output.getvalue()}

    return call


class _Stdin:
    """The reference's stand-in: the whole input at every read, lines by `readline`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.rest = io.StringIO(text)
        self.buffer = _Bytes(text.encode(errors="replace"))

    def read(self, *_: Any) -> str:
        return self.text

    def readlines(self, *_: Any) -> list[str]:
        return self.text.split("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rest, name)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, *_: Any) -> bytes:
        return self.data

    def readline(self, *_: Any) -> bytes:
        return self.data.split(b"\n")[0] + b"\n"


def _without_main(code: str) -> str:
    """The body of a last ``if __name__ == '__main__'`` in its place."""
    try:
        body = ast.parse(code).body
        last = body[-1]
    except (SyntaxError, ValueError, IndexError):
        return code
    if not isinstance(last, ast.If) or ast.unparse(last.test) != "__name__ == '__main__'":
        return code
    return f"{_source(body[:-1])}\n{_source(last.body)}"


def _wrapped(code: str) -> str:
    """Imports at the top, everything else in ``wrapped_function``."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError):
        return code
    imports = [line for line in body if isinstance(line, ast.Import | ast.ImportFrom)]
    rest = [line for line in body if not isinstance(line, ast.Import | ast.ImportFrom)]
    function = ast.parse("def wrapped_function(): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = rest
    return f"{PRELUDE}\n{_source(imports)}\n{ast.unparse(function)}"


def _source(body: list[Any]) -> str:
    return "\n".join(ast.unparse(line) for line in body)


def _guard() -> None:
    """What the reference takes away, so that a program fails here where it fails there.

    This confines nothing: the container does.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in TAKEN_FROM_OS:
        setattr(os, name, None)
    for name in ("rmtree", "move", "chown"):
        setattr(shutil, name, None)
    for name in ("quit", "help"):
        setattr(builtins, name, None)
    subprocess.Popen = None  # type: ignore[misc, assignment]
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None  # type: ignore[assignment]


if __name__ == "__main__":
    main()
