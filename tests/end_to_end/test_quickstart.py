"""The first command of the README, as it stands, in both of its endings."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "exit_code", "verdict"),
    [([], 0, "PASS: tiny_deepseek_r1 against h200"), (["--corrupt"], 1, "FAIL: ")],
    ids=["as it is", "one expert damaged"],
)
def test_quickstart(arguments: list[str], exit_code: int, verdict: str, tmp_path: Path) -> None:
    for name in ("env", "examples", "hostfiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    port = free_port()
    done = subprocess.run(
        ["bash", "examples/quickstart.sh", *arguments, f"endpoint.port={port}"],
        cwd=tmp_path,
        env={**os.environ, "FLAGDEPLOY_VENV": sys.prefix, "FLAGDEPLOY_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert verdict in done.stdout
    assert not list((tmp_path / "runs" / "local").glob("*"))
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
