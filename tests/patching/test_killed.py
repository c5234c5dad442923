"""A real process that applies or reverts is killed before each of its commands, one by one.

Whatever it leaves is the old state or the new one, `patch status` says which, and the next run
goes on from there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagdeploy.errors import PatchError
from flagdeploy.workflows import patch
from patching.killing import killed, programs
from patching.place import Place, look_at

WORDS = {
    "absent": "nothing is applied",
    "applied": "is applied, at ",
    "reverted": "is reverted, at ",
}


class Site:
    """A workspace of the command line around a place."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.workspace = place, folder
        for name in ("env", "examples"):
            (folder / name).mkdir()
        self.counting = programs(folder / "counting")

    @property
    def apply(self) -> tuple[Any, ...]:
        return str(self.place.chosen.folder), str(self.place.repository.folder), self.target

    @property
    def target(self) -> str:
        return str(self.place.target)

    def state(self) -> str:
        """The state that it is in, byte for byte, and that `patch status` says the same."""
        state = self.place.state()
        (said,) = patch.status([self.target])
        assert said.text().startswith(self.target)
        assert WORDS[state] in said.text()
        return state

    def killed_everywhere(
        self,
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        old: str,
        undo: Callable[[], Any],
    ) -> list[str]:
        """The states that a kill before each command leaves, until one run comes to its end."""
        states, finished = [], 0
        for last in range(1, 200):
            assert self.state() == old
            if not killed(work, arguments, self.counting, last):
                assert finished
                return states
            states.append(self.state())
            if states[-1] != old:
                finished += self.finish(work, arguments)
                undo()
        raise AssertionError("it never came to its end")

    def finish(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
        """The same work again clears what the run that was killed left beside its new state, if
        it left anything."""
        before, (said,) = self.state(), patch.status([self.target])
        left = bool(said.found.unfinished)
        if left:
            assert work(*arguments).record == said.found.record
            assert self.state() == before
        assert look_at(self.place.target).unfinished == ()
        with pytest.raises(PatchError, match="already"):
            work(*arguments)
        return left


@pytest.fixture
def site(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("FLAGDEPLOY_HOME", str(tmp_path))
    return Site(place, tmp_path)


def test_apply(site: Site) -> None:
    def undo() -> None:
        site.place.remove()

    states = site.killed_everywhere(patch.apply, site.apply, "absent", undo)
    assert set(states) == {"absent", "applied"}
    assert states == sorted(states)
    assert site.state() == "applied"


def test_revert(site: Site) -> None:
    def apply() -> None:
        patch.apply(*site.apply)

    apply()
    states = site.killed_everywhere(patch.revert, (site.target,), "applied", apply)
    assert set(states) == {"applied", "reverted"}
    assert states == sorted(states)
    assert site.state() == "reverted"


def test_apply_again(site: Site) -> None:
    def revert() -> None:
        patch.revert(site.target)

    patch.apply(*site.apply)
    revert()
    states = site.killed_everywhere(patch.apply, site.apply, "reverted", revert)
    assert set(states) == {"applied", "reverted"}
    assert states == sorted(states, reverse=True)
    assert site.state() == "applied"
