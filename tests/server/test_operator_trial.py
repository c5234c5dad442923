"""What a server makes of finite logits is judged, also where that is nothing."""

import pytest
import torch

from flagdeploy.server import logprobs
from flagdeploy.server.operator_trial import Scores


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
