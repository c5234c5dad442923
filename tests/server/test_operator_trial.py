"""What a server makes of finite logits is judged, also where that is nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flagdeploy.server import logprobs
from flagdeploy.server.operator_trial import Scores, _save


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
