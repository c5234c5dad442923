"""Which tokens can be drawn, how often, and from whose random numbers."""

from collections import Counter

import pytest
import torch

from flagdeploy.server.logprobs import finite_rows, token_logprobs
from flagdeploy.server.protocol import Sampling
from flagdeploy.server.sampling import Choice, next_tokens

LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()


def choice(seed: int = 0, banned: tuple[int, ...] = (), **fields: float) -> Choice:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return Choice(Sampling(**fields), generator, banned)  # type: ignore[arg-type]


def frequencies(**fields: float) -> list[float]:
    one, draws = choice(**fields), 4000
    counts = Counter(next_tokens(LOGITS[None], [one])[0] for _ in range(draws))
    return [counts[token] / draws for token in range(4)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0.5, 0.25, 0.125, 0.125]),
        ({"temperature": 0.5}, [16 / 22, 4 / 22, 1 / 22, 1 / 22]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.4}, [1, 0, 0, 0]),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
    ],
)
def test_frequencies(fields: dict[str, float], expected: list[float]) -> None:
    # 4000 draws: a standard error is at most 0.008.
    observed = frequencies(**fields)
    assert observed == pytest.approx(expected, abs=0.03)
    assert [value == 0 for value in observed] == [value == 0 for value in expected]


def test_a_row_draws_from_its_own_generator() -> None:
    alone = [next_tokens(LOGITS[None], [one])[0] for one in [choice(7)] for _ in range(50)]
    mine, other = choice(7), choice(8)
    batch = LOGITS.expand(2, 4)
    assert [next_tokens(batch, [other, mine])[1] for _ in range(50)] == alone


def test_banned_tokens_do_not_come_and_the_logits_stay() -> None:
    logits = LOGITS[None].clone()
    assert next_tokens(logits, [choice(temperature=0.0, banned=(0,))]) == [1]
    assert torch.equal(logits, LOGITS[None])


def test_logprobs_and_ranks() -> None:
    first, second = token_logprobs(LOGITS.expand(2, 4) + 3, [1, 3], 2)
    assert (first.rank, second.rank) == (2, 3)
    assert first.logprob == pytest.approx(-1.3862944)
    assert [token for token, _ in first.top] == [0, 1]
    assert [value for _, value in second.top] == pytest.approx([-0.6931472, -1.3862944])
    assert token_logprobs(LOGITS[None][:0], [], 2) == []


def test_finite_rows() -> None:
    bad = [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]]
    assert finite_rows(torch.tensor([*bad, [-torch.inf, 0.0]])) == [False, False, False, True]
