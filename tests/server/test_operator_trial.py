"""What a server makes of finite logits is judged, also where that is nothing."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from flagdeploy.server import logprobs, operator_trial, triton_cache
from flagdeploy.server.operator_trial import Beat, Scores, _save


def not_a_number(logits: torch.Tensor, dim: int, keepdim: bool = False) -> torch.Tensor:
    return torch.full_like(logits[:, :1] if keepdim else logits[:, 0], torch.nan)


def off_by(logits: torch.Tensor) -> dict[str, object]:
    scores = Scores()
    scores.take(logits)
    return scores.off_by(logits.numpy())


def test_native_scores_are_right() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    found = off_by(logits)
    assert found["wrong_tokens"] == 0 and found["logprob_error"] < 1e-6


def test_nan_in_the_logits_is_left_to_them() -> None:
    assert off_by(torch.tensor([[0.0, torch.nan], [0.0, 1.0]])) == {}


def test_a_sum_that_is_nan_leaves_every_row_unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes such rows for NaN, and refuses every request."""
    monkeypatch.setattr(torch.Tensor, "logsumexp", not_a_number)
    assert off_by(torch.tensor([[0.0, 3.0], [2.0, 0.0]])) == {"unscored": 2}


def test_log_probabilities_that_are_nan_are_not_small_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logprobs, "finite_rows", lambda logits: [True] * len(logits))
    monkeypatch.setattr(torch.Tensor, "logsumexp", not_a_number)
    assert off_by(torch.tensor([[0.0, 3.0], [2.0, 0.0]])) == {"unscored": 2}


def test_logits_to_compare_with_are_there_as_a_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "native.npy"
    _save(path, np.zeros((1, 2), np.float32))

    def cut_short(file: object, logits: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        _save(path, np.ones((1, 2), np.float32))
    assert np.load(path).tolist() == [[0, 0]]


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
    monkeypatch.setattr(operator_trial, "triton_cache", counting)
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
from flagdeploy.server.operator_trial import Beat
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
