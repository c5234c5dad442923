"""Fixtures that several tests of the whole way share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from proving_ground.hosts import Fleet

from .user import User


@pytest.fixture
def user(fleet: Fleet, tmp_path: Path) -> Iterator[User]:
    yield User(fleet, tmp_path)
    for host in fleet:
        host.remove_containers()
