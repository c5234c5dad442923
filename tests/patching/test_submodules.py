"""A worktree with submodules: git tells nothing of the files in their folders, so they are looked
at before the worktree is replaced."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from flagdeploy.config.patch_set import PatchSet, read
from flagdeploy.errors import PatchError
from flagdeploy.patching.git import Here, Result
from flagdeploy.patching.trees import patches_of
from flagdeploy.patching.worktree import put, take_back
from patching.generated import git, on_disk, write_set
from patching.place import look_at

ALLOW = ("-c", "protocol.file.allow=always")


class Project:
    """A repository with a submodule, a set for it, and the set applied."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.library, self.target = folder / "demo", folder / "library", folder / "in"
        for made in (self.folder, self.library):
            made.mkdir()
            git(made, "init", "-q", "-b", "main")
            (made / "file.txt").write_text("one\n")
            (made / ".gitignore").write_text("*.o\n")
            git(made, "add", "-A")
            git(made, "commit", "-qm", "base")
        git(self.folder, *ALLOW, "submodule", "add", "-q", str(self.library), "third_party/lib")
        git(self.folder, "commit", "-qm", "with a library")
        (self.folder / "file.txt").write_text("two\n")
        base = git(self.folder, "rev-parse", "HEAD").decode().strip()
        patch = {"1.patch": git(self.folder, "diff")}
        self.set: PatchSet = read(write_set(folder / f"sets/demo@{base[:12]}", patch, base))
        self.apply()

    def apply(self) -> None:
        patches, found = patches_of(self.set), look_at(self.target)
        put(Here(), str(self.folder), str(self.target), self.set, patches, found)

    def revert(self) -> None:
        take_back(Here(), str(self.target), look_at(self.target))

    @property
    def submodule(self) -> Path:
        return self.target / "third_party" / "lib"

    def check_out(self) -> None:
        git(self.target, *ALLOW, "submodule", "--quiet", "update", "--init")
        (self.submodule / "built.o").touch()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def refused(project: Project) -> str:
    """What a revert says, and that it has changed nothing."""
    before = on_disk(project.target)
    with pytest.raises(PatchError) as raised:
        project.revert()
    assert on_disk(project.target) == before
    assert (look_at(project.target).state, look_at(project.target).unfinished) == ("applied", ())
    return str(raised.value)


def test_files_of_the_user_in_the_folder_of_a_submodule(project: Project) -> None:
    (project.submodule / "notes.txt").write_text("nowhere else\n")
    assert look_at(project.target).changes == ()
    told = f"{project.target} has files in third_party/lib, a submodule: they would be lost"
    assert refused(project) == told
    (project.submodule / "notes.txt").unlink()
    project.revert()
    project.submodule.joinpath("notes.txt").write_text("nowhere else\n")
    with pytest.raises(PatchError):
        project.apply()
    assert project.submodule.joinpath("notes.txt").read_text() == "nowhere else\n"


def test_a_submodule_that_is_checked_out(project: Project) -> None:
    project.check_out()
    assert "submodule" in refused(project)
    with pytest.raises(PatchError) as raised:
        project.revert()
    assert raised.value.hint == f"move what you need elsewhere, and empty {project.submodule}"
    shutil.rmtree(project.submodule)
    project.submodule.mkdir()
    project.revert()
    # As the user's own checkout had it (`-`: not any more).
    assert git(project.folder, "submodule", "status").startswith(b" ")
    assert look_at(project.target).state == "reverted"
    assert (project.target / "file.txt").read_text() == "one\n"


def test_changes_in_a_submodule_that_the_user_has_hidden(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["git", "config", "--file", str(tmp_path / "config")]
    subprocess.run([*settings, "diff.ignoreSubmodules", "all"], check=True)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    project.check_out()
    (project.submodule / "file.txt").write_text("mine\n")
    assert look_at(project.target).changes == ("M third_party/lib",)
    refused(project)


def test_one_that_is_checked_out_while_its_worktree_is_replaced(project: Project) -> None:
    class Late(Here):
        def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
            if argv[0] == "tee" and argv[-1].endswith("flagdeploy-patch.json"):
                project.check_out()
            return super().run(argv, stdin)

    with pytest.raises(PatchError, match="was replaced and is kept: it holds what is nowhere else"):
        take_back(Late(), str(project.target), look_at(project.target))
    (left,) = look_at(project.target).unfinished
    assert (Path(left) / "in" / "third_party" / "lib" / "built.o").exists()
