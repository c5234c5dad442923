"""One repository with fifty bases and series of patches, made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from patching.generated import Repository, git
from patching.place import Place

SEEDS = range(50)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("patching") / "demo", SEEDS)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    return tmp_path / "patches" / "acme"


@pytest.fixture
def place(repository: Repository, sets: Path, tmp_path: Path) -> Iterator[Place]:
    exclude = repository.folder / ".git" / "info" / "exclude"
    exclude.write_text("*.o\n")
    place = Place(repository, sets, tmp_path / "into")
    yield place
    place.remove()
    exclude.unlink()
    git(repository.folder, "worktree", "prune")
