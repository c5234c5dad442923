"""One repository with fifty bases and series of patches, made once."""

from pathlib import Path

import pytest

from patching.generated import Repository

SEEDS = range(50)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("patching") / "demo", SEEDS)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    return tmp_path / "patches" / "acme"
