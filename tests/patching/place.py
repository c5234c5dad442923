"""One patch set, one place for it, and what has to hold there whatever happens."""

from pathlib import Path

from flagdeploy.config.facts import Worktree
from flagdeploy.config.patch_set import PatchSet, read
from flagdeploy.patching.git import Here
from flagdeploy.patching.trees import patches_of
from flagdeploy.patching.worktree import look, put, settle, take_back
from patching.generated import Repository, git, on_disk, write_set


def made(repository: Repository, seed: int, sets: Path) -> PatchSet:
    base = repository.base(seed)
    return read(write_set(sets / f"demo@{base[:12]}", repository.patches(seed), base))


def look_at(target: Path) -> Worktree:
    return look(Here(), str(target))


class Place:
    """One set, one place for it, and what has to hold whatever happens."""

    def __init__(self, repository: Repository, sets: Path, target: Path) -> None:
        self.repository, self.target = repository, target
        self.chosen = made(repository, 3, sets)
        series = repository.series[3]
        built = {"built.o": ("100644", b"")}
        self.contents = {
            "absent": {},
            "applied": {**series.patched, **built},
            "reverted": {**series.base, **built},
        }
        self.before = repository.snapshot()

    def apply(self, machine: Here) -> None:
        found = look(machine, str(self.target))
        if found.state != "applied":
            patches, folder = patches_of(self.chosen), str(self.repository.folder)
            put(machine, folder, str(self.target), self.chosen, patches, found)
            (self.target / "built.o").touch()

    def revert(self, machine: Here) -> None:
        take_back(machine, str(self.target), look(machine, str(self.target)))

    def state(self) -> str:
        """Which state it is in, and that it is in that one and no other."""
        found = look_at(self.target)
        files = {name: file for name, file in on_disk(self.target).items() if name != "built.o"}
        wanted = {n: f for n, f in self.contents[found.state].items() if n != "built.o"}
        assert files == wanted
        assert found.changes == ()
        assert found.state != "applied" or found.head == found.record["commit"]
        return found.state

    def remove(self) -> None:
        settle(Here(), str(self.target))
        if self.target.exists():
            git(self.repository.folder, "worktree", "remove", "--force", str(self.target))

    def require_clean(self) -> None:
        """Nothing is left beside it, what was built is kept, and the user's own is untouched."""
        assert on_disk(self.target) == self.contents[self.state()]
        assert look_at(self.target).unfinished == ()
        assert self.repository.snapshot() == self.before
