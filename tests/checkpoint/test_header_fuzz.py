"""A short, repeatable part of what tests/soak/header_fuzz.py does for an hour."""

from soak.header_fuzz import fuzz


def test_no_promise_is_broken() -> None:
    results = fuzz(seed=1, cases=1500)
    assert not results.broken
    assert results.cases == 1500
    assert results.read > 100
    assert len(results.refused) > 40
    assert not results.only_here
