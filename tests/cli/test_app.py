"""The error boundary: whatever a user provokes is a sentence and an exit code, never a trace."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flagdeploy.cli.app import app

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["stop", "tiny_deepseek_r1"], "/dev/null/.locks: Not a directory"),
        (["serve", "tiny_deepseek_r1"], "/dev/null/.locks: Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_written(
    words: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAGDEPLOY_RUNS", "/dev/null")
    result = CliRunner().invoke(app, [*words, "--workspace", str(ROOT)])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: {error}"


def run(redirection: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m flagdeploy plan deepseek_r1 {redirection}"
    return subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)


def test_a_full_disk_behind_stdout() -> None:
    done = run(">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"


def test_a_reader_that_has_enough() -> None:
    assert run("| true").stderr == ""


INTERRUPTED = """
import signal, sys
sys.meta_path.insert(0, type("Interrupt", (), {"find_spec": staticmethod(
    lambda name, *_: signal.raise_signal(signal.SIGINT) if name == "typer" else None)}))
from flagdeploy.__main__ import main
main()
"""


def test_an_interrupt_while_it_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130
    assert done.stderr == ""


@pytest.mark.parametrize("option", ["--json", "--report", "--record"])
def test_a_place_for_results_is_looked_at_before_the_questions(option: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    words = ["compare", "mlu590", "--baseline", "h100", "--workspace", str(ROOT)]
    place = file if option == "--record" else tmp_path / "none" / "x"
    result = CliRunner().invoke(app, [*words, option, str(place)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {option} {place}: ")
    assert result.stdout == ""
