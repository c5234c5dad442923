"""One pool of grading processes for all tests here: each takes a second to start."""

from collections.abc import Iterator

import pytest

from flagdeploy.evals.grading.pool import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    running = Pool(workers=2, cpu_seconds=2.0, memory=1 << 30)
    yield running
    running.close()
