"""Fifty generated patch sets on real repositories; a kill at every step; what is the user's."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from flagdeploy.config.patch_set import read
from flagdeploy.errors import PatchError
from flagdeploy.patching.git import Here, Result
from flagdeploy.patching.trees import patches_of
from flagdeploy.patching.worktree import RECORD, look, put, take_back
from patching.conftest import SEEDS
from patching.generated import Repository, git, on_disk, write_set
from patching.place import Place, look_at, made


def tree(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD^{tree}").decode().strip()


@pytest.mark.parametrize("seed", SEEDS)
def test_apply_and_revert_lead_to_identical_trees(
    seed: int, repository: Repository, sets: Path, tmp_path: Path
) -> None:
    chosen, target = made(repository, seed, sets), tmp_path / "into"
    series, last = repository.series[seed], len(repository.series[seed].states) - 1
    before, known = repository.snapshot(), admins(repository)
    patches = patches_of(chosen)
    record = put(Here(), f"{repository.folder}", f"{target}", chosen, patches, look_at(target))
    assert record["tree"] == repository.trees[f"set{seed}-{last}"]
    assert on_disk(target) == series.patched
    found = look_at(target)
    assert (found.state, found.changes, found.unfinished) == ("applied", (), ())
    assert found.head == record["commit"]
    take_back(Here(), f"{target}", found)
    assert tree(target) == repository.trees[f"set{seed}-0"]
    assert on_disk(target) == series.base
    assert look_at(target).state == "reverted"
    assert repository.snapshot() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["into", "patches"]
    git(repository.folder, "worktree", "remove", f"{target}")
    assert admins(repository) == known


class Killed(BaseException):
    pass


READS = {"cat", "find", "test", "rev-parse", "ls-files", "diff-tree", "status", "show"}


class Dying(Here):
    """A process that is killed before its command number `last`, those that only read not counted:
    whatever the program would still do after that has no effect."""

    def __init__(self, last: int) -> None:
        self.left = last

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
        self.left -= not READS & set(argv)
        if self.left < 0:
            raise Killed
        return super().run(argv, stdin)


class DyingGit(Here):
    """A process that is killed with its git, `seconds` after that began to write a worktree."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.dead = False

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
        if self.dead:
            raise Killed
        if "worktree" in argv:
            self.dead = True
            argv = ["timeout", "--signal=KILL", str(self.seconds), *argv]
        return super().run(argv, stdin)


def killed_at_every_step(
    work: Callable[[Here], object], after: Callable[[], str], first: int = 0
) -> list[str]:
    """Run `work` with a kill one step later each time; the states found until it came to its
    end."""
    states = []
    for step in range(first, first + 100):
        try:
            work(Dying(step))
        except Killed:
            states.append(after())
        else:
            return states
    raise AssertionError("it never came to its end")


def test_a_kill_while_applying_leaves_nothing_or_all(place: Place) -> None:
    def work(machine: Here) -> None:
        if look_at(place.target).state == "applied":
            place.remove()
        place.apply(machine)

    states = killed_at_every_step(work, place.state)
    assert len(states) > 12
    assert set(states) == {"absent", "applied"}
    place.require_clean()


def test_a_kill_while_reverting_leaves_one_or_the_other(place: Place) -> None:
    def work(machine: Here) -> None:
        place.apply(Here())
        place.revert(machine)

    states = killed_at_every_step(work, place.state)
    assert set(states) == {"applied", "reverted"}
    place.require_clean()


def test_a_kill_while_applying_again_leaves_one_or_the_other(place: Place) -> None:
    place.apply(Here())

    def work(machine: Here) -> None:
        if look_at(place.target).state == "applied":
            place.revert(Here())
        place.apply(machine)

    # Until it makes a folder it does what it does the first time.
    states = killed_at_every_step(work, place.state, first=10)
    assert set(states) == {"applied", "reverted"}
    place.require_clean()


@pytest.mark.parametrize("seconds", [0.001, 0.002, 0.004])
def test_a_kill_while_git_writes_the_files(place: Place, seconds: float) -> None:
    with suppress(Killed, PatchError):
        place.apply(DyingGit(seconds))
    assert place.state() == "absent"
    assert look_at(place.target).unfinished
    place.apply(Here())
    place.require_clean()


@pytest.mark.parametrize("seconds", [0.001, 0.002, 0.003, 0.004])
def test_a_kill_while_git_writes_the_files_of_the_base(place: Place, seconds: float) -> None:
    place.apply(Here())
    with suppress(Killed, PatchError):
        place.revert(DyingGit(seconds))
    assert place.state() == "applied"
    assert look_at(place.target).unfinished
    place.revert(Here())
    place.require_clean()


def test_what_is_written_while_it_is_replaced_is_kept(place: Place) -> None:
    place.apply(Here())
    name = next(name for name in place.contents["applied"] if name != "built.o")

    class Editing(Here):
        """The user saves a file after it was found clean."""

        def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
            if argv[0] == "tee" and argv[-1].endswith(RECORD):
                (place.target / name).write_text("saved just now\n")
            return super().run(argv, stdin)

    with pytest.raises(PatchError) as raised:
        place.revert(Editing())
    assert place.state() == "reverted"
    (left,) = look_at(place.target).unfinished
    kept = Path(left) / place.target.name
    assert str(raised.value).startswith(f"{kept} was replaced and is kept: it holds what is ")
    assert (kept / name).read_text() == "saved just now\n"
    git(place.repository.folder, "worktree", "prune")
    listed = git(place.repository.folder, "worktree", "list", "--porcelain").decode().splitlines()
    assert listed.count(f"worktree {place.target}") == listed.count(f"worktree {kept}") == 1
    assert place.state() == "reverted"
    with pytest.raises(PatchError):
        place.apply(Here())
    assert (kept / name).read_text() == "saved just now\n"
    shutil.rmtree(left)
    place.apply(Here())
    assert place.state() == "applied"


def test_what_was_built_under_the_name_of_a_file_of_the_base_is_kept(
    sets: Path, tmp_path: Path
) -> None:
    class Newer(Here):
        """Coreutils since 9.2, whose `mv -n` fails in silence when it skips."""

        def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
            if "-nT" in argv and Path(argv[-1]).exists():
                return Result(1, b"", b"")
            return super().run(argv, stdin)

    (tmp_path / "demo").mkdir()
    git(tmp_path / "demo", "init", "-q")
    for name, content in ((".gitignore", "*.o\n"), ("old.o", "the base's\n")):
        (tmp_path / "demo" / name).write_text(content)
    git(tmp_path / "demo", "add", "--force", ".")
    git(tmp_path / "demo", "commit", "-qm", "base")
    base = git(tmp_path / "demo", "rev-parse", "HEAD").decode().strip()
    (tmp_path / "demo" / "old.o").unlink()
    patch = {"1.patch": git(tmp_path / "demo", "diff")}
    chosen, target = read(write_set(sets / f"demo@{base[:12]}", patch, base)), tmp_path / "into"
    patches, folder = patches_of(chosen), str(tmp_path / "demo")
    put(Here(), folder, str(target), chosen, patches, look_at(target))
    (target / "old.o").write_text("built\n")
    with pytest.raises(PatchError, match=r"holds what is nowhere else \(!! old.o\)$"):
        take_back(Newer(), str(target), look_at(target))
    assert (target / "old.o").read_text() == "the base's\n"
    (left,) = look_at(target).unfinished
    assert (Path(left) / "into" / "old.o").read_text() == "built\n"


def admins(repository: Repository) -> set[Path]:
    """What git keeps of worktrees; one that was killed at its first step leaves a folder there."""
    return set((repository.folder / ".git" / "worktrees").glob("*"))


def test_no_half_made_folder_is_left_when_it_fails(
    repository: Repository, sets: Path, tmp_path: Path
) -> None:
    chosen, target = made(repository, 4, sets), tmp_path / "into"

    class Full(Here):
        def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
            if argv[0] == "tee":
                return Result(1, b"", b"tee: No space left on device\n")
            return super().run(argv, stdin)

    before, known = repository.snapshot(), admins(repository)
    with pytest.raises(PatchError, match="^tee: No space left on device$"):
        put(
            Full(), f"{repository.folder}", f"{target}", chosen, patches_of(chosen), look_at(target)
        )
    assert look_at(target).state == "absent"
    assert [path.name for path in tmp_path.iterdir()] == ["patches"]
    assert repository.snapshot() == before
    assert admins(repository) == known


def test_a_record_that_is_damaged(repository: Repository, sets: Path, tmp_path: Path) -> None:
    chosen, target = made(repository, 6, sets), tmp_path / "into"
    known = admins(repository)
    put(Here(), f"{repository.folder}", f"{target}", chosen, patches_of(chosen), look_at(target))
    (admin,) = admins(repository) - known
    (admin / RECORD).write_text("{")
    with pytest.raises(PatchError) as raised:
        look_at(target)
    assert str(raised.value) == (
        f"{target}: its record ({admin / RECORD}) is of another version or damaged"
    )
    git(repository.folder, "worktree", "remove", f"{target}")


def test_a_host_without_git(tmp_path: Path) -> None:
    class Bare(Here):
        def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
            return Result(127, b"", b"") if "git" in argv else super().run(argv, stdin)

    with pytest.raises(PatchError, match="^there is no git$"):
        look(Bare(), str(tmp_path))


def test_inside_a_hook_of_another_repository(
    repository: Repository, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, target = made(repository, 8, sets), tmp_path / "into"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    put(Here(), f"{repository.folder}", f"{target}", chosen, patches_of(chosen), look_at(target))
    assert on_disk(target) == repository.series[8].patched
    monkeypatch.undo()
    git(repository.folder, "worktree", "remove", f"{target}")


def test_hooks_of_the_repository_do_not_run(
    repository: Repository, sets: Path, tmp_path: Path
) -> None:
    chosen = made(repository, 5, sets)
    clone, target = tmp_path / "clone", tmp_path / "into"
    shutil.copytree(repository.folder, clone, symlinks=True)
    hook = clone / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    put(Here(), str(clone), str(target), chosen, patches_of(chosen), look_at(target))
    assert on_disk(target) == repository.series[5].patched
    assert not (tmp_path / "ran").exists()
