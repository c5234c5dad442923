"""The pytorch engine with an operator library: a stand-in on the CPU, in real server processes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flagdeploy.server import library
from server.running_server import RunningServer

STAND_IN = Path(__file__).parents[1] / "operators"


def fails(checkpoint: Path, **variables: str) -> str:
    """The last line of a server that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "flagdeploy.server", "--model", str(checkpoint), "--port", "0"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1].split(" ERROR ")[1]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN), prepend=os.pathsep)
    monkeypatch.setenv("USE_FLAGGEMS", "1")


def test_operators_of_the_library_compute_and_are_recorded(
    checkpoint: Path, server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stand_in: None,
) -> None:  # fmt: skip
    monkeypatch.setenv("FLAGGEMS_INCLUDE", "cos, sin")
    monkeypatch.setenv("FLAGDEPLOY_RANK_FOLDER", str(tmp_path))
    swapped = RunningServer(checkpoint)
    try:
        asked = {"max_tokens": 8, "temperature": 0, "logprobs": 1}
        now = swapped.complete("some words", **asked)["choices"][0]["logprobs"]
        native = server.complete("some words", **asked)["choices"][0]["logprobs"]
        assert now["tokens"] == native["tokens"]
        assert now["token_logprobs"] == pytest.approx(native["token_logprobs"], abs=1e-4)
        assert now["token_logprobs"] != native["token_logprobs"]
        (log,) = tmp_path.glob("flaggems_oplist.*.log")
        assert log.name == f"flaggems_oplist.{swapped.process.pid}.log"
        lines = set(log.read_text().splitlines())
        assert lines == {
            f"[DEBUG] flag_gems.ops.{name}.{name}: GEMS {name.upper()}" for name in ("cos", "sin")
        }
        assert any("flag_gems 0.stand-in: 2 operators on" in line for line in swapped.lines)
    finally:
        assert swapped.stop() == 0


def test_without_the_switch_nothing_is_loaded(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: None
) -> None:
    monkeypatch.setenv("USE_FLAGGEMS", "0")
    monkeypatch.setenv("FLAGDEPLOY_RANK_FOLDER", str(tmp_path))
    running = RunningServer(checkpoint)
    assert running.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_not_installed(checkpoint: Path) -> None:
    text = "flag_gems is not installed; pip install --no-deps flag-gems"
    assert fails(checkpoint, USE_FLAGGEMS="1") == text


def test_a_library_that_finds_no_device(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "flag_gems.py").write_text("raise RuntimeError('no device\\nsecond line')\n")
    said = fails(checkpoint, USE_FLAGGEMS="1", PYTHONPATH=str(tmp_path))
    assert said == "flag_gems cannot be used: RuntimeError: no device"


@pytest.mark.parametrize("variable", ["FLAGGEMS_INCLUDE", "FLAGGEMS_EXCLUDE"])
def test_an_operator_that_the_library_does_not_have(
    checkpoint: Path, stand_in: None, variable: str
) -> None:
    said = fails(checkpoint, **{variable: "sofmax,mm"})
    assert said == "flag_gems has no operator `sofmax`; did you mean `softmax`?"


def test_operators_to_use_and_to_leave_out_at_once(checkpoint: Path, stand_in: None) -> None:
    said = fails(checkpoint, FLAGGEMS_INCLUDE="cos", FLAGGEMS_EXCLUDE="sin")
    assert said == "FLAGGEMS_INCLUDE and FLAGGEMS_EXCLUDE are both set: set one of them"


def test_without_a_folder_of_the_rank_the_log_lies_where_serve_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a container that is /tmp, also where its temporary files are elsewhere."""
    given: dict[str, Any] = {}
    stand_in = ModuleType("flag_gems")
    stand_in.enable = lambda **options: given.update(options)  # type: ignore[attr-defined]
    stand_in.all_registered_ops = list  # type: ignore[attr-defined]
    monkeypatch.setattr(library, "load", lambda name: stand_in)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    library.enable_if_asked({"USE_FLAGGEMS": "1", "TMPDIR": str(tmp_path)})
    assert given["path"] == f"/tmp/flaggems_oplist.{os.getpid()}.log"
