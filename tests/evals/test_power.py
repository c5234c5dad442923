"""Check values: figures worked out independently, from the papers named in the module."""

import pytest

from flagdeploy.evals import power as s
from flagdeploy.evals.proportions import tango


@pytest.mark.parametrize(
    ("discordance", "delta", "needed"),
    [
        (0.02, 0.005, 4947),
        (0.02, 0.01, 1237),
        (0.02, 0.02, 310),
        (0.05, 0.005, 12366),
        (0.05, 0.01, 3092),
        (0.05, 0.02, 773),
        (0.05, 0.03, 344),
        (0.05, 0.05, 124),
        (0.10, 0.005, 24731),
        (0.10, 0.01, 6183),
        (0.10, 0.02, 1546),
        (0.10, 0.03, 687),
        (0.10, 0.05, 248),
        (0.20, 0.005, 49461),
        (0.20, 0.01, 12366),
        (0.20, 0.02, 3092),
        (0.20, 0.03, 1374),
        (0.20, 0.05, 495),
    ],
)
def test_sample_sizes(discordance: float, delta: float, needed: int) -> None:
    assert s.needed_for_non_inferiority(discordance, delta) == needed


def test_non_inferiority_without_discordance_needs_what_tango_needs() -> None:
    n = s.needed_for_non_inferiority(0.0, 0.01)
    assert tango(0, 0, n, level=0.9).low > -0.01 > tango(0, 0, n - 2, level=0.9).low
