"""What a trial says of itself, and what it makes of the loss of its search."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flagdeploy.server import triton_cache
from flagdeploy.server.heartbeat import Beat


def test_kernels_that_other_trials_compile_are_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the part of Triton that is used."""

    class FileCacheManager:
        def put(self, data: bytes, filename: str, binary: bool = True) -> str:
            return filename

    cache = ModuleType("triton.runtime.cache")
    cache.FileCacheManager = FileCacheManager  # type: ignore[attr-defined]
    for name, module in {"triton": ModuleType("triton"), "triton.runtime.cache": cache}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv(triton_cache.VARIABLE, "")  # so that it is put back
    monkeypatch.delenv(triton_cache.VARIABLE)
    counting = importlib.reload(triton_cache)
    beat = Beat(tmp_path / "0000.beat")
    (tmp_path / "triton" / "OF_ANOTHER").mkdir(parents=True)
    beat.at("pass 1 of 3")
    assert json.loads((tmp_path / "0000.beat").read_bytes())["compiled"] == 0
    assert counting.Counted().put(b"", "kernel.cubin", binary=True) == "kernel.cubin"
    beat.at("pass 2 of 3")
    assert json.loads((tmp_path / "0000.beat").read_bytes())["compiled"] == 1
    monkeypatch.undo()
    importlib.reload(triton_cache)


def test_a_trial_ends_when_its_search_is_gone(tmp_path: Path) -> None:
    """It would go on with the device of a search that was killed and runs again."""
    trial = f"""
import time
from pathlib import Path
from flagdeploy.server.heartbeat import Beat
Beat(Path({str(tmp_path / "0000.beat")!r}))
time.sleep(600)
"""
    search = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {trial!r}])
while not os.path.exists({str(tmp_path / "0000.beat")!r}):
    time.sleep(0.02)
os._exit(9)
"""
    done = subprocess.run(  # which waits for whoever holds its output
        [sys.executable, "-c", search], capture_output=True, timeout=300
    )
    assert done.returncode == 9
