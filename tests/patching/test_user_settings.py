"""What a user has set up differently changes neither the files of a worktree nor what is told."""

import subprocess
from pathlib import Path

import pytest

from flagdeploy.patching.git import Here
from flagdeploy.patching.trees import patches_of
from flagdeploy.patching.worktree import put, take_back
from patching.generated import Repository, git, on_disk
from patching.place import look_at, made

SETTINGS = {
    "core.attributesFile": "ATTRIBUTES",
    "core.eol": "crlf",
    "core.autocrlf": "true",
    "core.fileMode": "false",
    "worktree.useRelativePaths": "true",  # since git 2.48
    "status.showUntrackedFiles": "no",
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes, config = tmp_path / "attributes", tmp_path / "config"
    attributes.write_text("* text=auto\n*.txt text eol=crlf\n")
    for name, value in SETTINGS.items():
        given = value.replace("ATTRIBUTES", str(attributes))
        subprocess.run(["git", "config", "--file", str(config), name, given], check=True)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("seed", range(4))
def test_settings_of_the_user(
    seed: int, repository: Repository, sets: Path, tmp_path: Path
) -> None:
    chosen, target = made(repository, seed, sets), tmp_path / "into"
    patches = patches_of(chosen)
    put(Here(), str(repository.folder), str(target), chosen, patches, look_at(target))
    assert on_disk(target) == repository.series[seed].patched
    found = look_at(target)
    assert (found.state, found.changes) == ("applied", ())
    (target / "new").touch()
    assert look_at(target).changes == ("?? new",)
    (target / "new").unlink()
    take_back(Here(), str(target), found)
    assert on_disk(target) == repository.series[seed].base
    git(repository.folder, "worktree", "remove", "--force", str(target))


def test_a_clone_that_shows_a_part_of_its_files(
    repository: Repository, sets: Path, tmp_path: Path
) -> None:
    chosen, target, clone = made(repository, 5, sets), tmp_path / "into", tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-checkout", str(repository.folder), str(clone))
    git(clone, "checkout", "-q", "--detach", chosen.base)
    git(clone, "sparse-checkout", "set", "nothing")
    put(Here(), str(clone), str(target), chosen, patches_of(chosen), look_at(target))
    assert on_disk(target) == repository.series[5].patched
    assert look_at(target).changes == ()
    # Nor does git hide them when the user asks it.
    git(target, "reset", "-q", "--hard")
    assert on_disk(target) == repository.series[5].patched


def test_a_place_behind_a_symbolic_link(repository: Repository, sets: Path, tmp_path: Path) -> None:
    """As on a host, where the place is taken as it is written."""
    chosen = made(repository, 6, sets)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    target = tmp_path / "link" / "into"
    put(Here(), f"{repository.folder}", f"{target}", chosen, patches_of(chosen), look_at(target))
    found = look_at(target)
    assert (found.state, found.changes) == ("applied", ())
    take_back(Here(), str(target), found)
    assert look_at(target).state == "reverted"
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["into"]
    git(repository.folder, "worktree", "remove", str(target))
