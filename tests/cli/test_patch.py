"""`flagdeploy patch` as a new user types it: refusals say why, and change nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from patching.generated import git, on_disk, write_set
from typer.testing import CliRunner

from flagdeploy.cli.app import app

ERRORS = yaml.safe_load((Path(__file__).parents[1] / "cases/errors/patch.yaml").read_text())
CASES = ERRORS["cases"]
FAST_IMPORT = b"""\
commit refs/heads/main
committer A <a@example.com> 1700000000 +0000
data 4
base
M 100644 inline greeting.txt
data 12
hello
world

M 120000 inline link
data 12
greeting.txt
M 120000 inline folder
data 4
/etc
M 160000 1234567812345678123456781234567812345678 third_party/y
M 100644 inline sub/file
data 2
x

M 100644 inline data.bin
data 2
\0\1
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "demo.git"
    folder.mkdir()
    git(folder, "init", "-q", "--bare", "-b", "main")
    git(folder, "fast-import", "--quiet", stdin=FAST_IMPORT)
    return folder


class Place:
    """A workspace with one patch set, and a clone with changes of the user's own."""

    def __init__(self, folder: Path, original: Path) -> None:
        self.root, self.repo = folder / "workspace", folder / "demo"
        for name in ("env", "examples", "patches"):
            (self.root / name).mkdir(parents=True)
        git(folder, "clone", "-q", str(original), str(self.repo))
        (self.repo / "greeting.txt").write_text("work under way\n")
        self.base = git(self.repo, "rev-parse", "HEAD").decode().strip()
        self.set = self.add(f"demo@{self.base[:12]}", {"1.patch": ERRORS["sound"].encode()})

    def add(self, name: str, files: dict[str, bytes], **changes: object) -> Path:
        return write_set(self.root / "patches" / "acme" / name, files, self.base, **changes)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["patch", *words, "--workspace", str(self.root)])

    def apply(self, *words: str) -> Result:
        return self.run("apply", "acme/demo", "--repo", str(self.repo), *words)

    @property
    def worktree(self) -> Path:
        return self.root / "patched" / "acme" / self.set.name

    def named(self, text: str) -> str:
        """A text of the cases with the real names."""
        names = {"REPO": self.repo, "WORKSPACE": self.root, "BASE": self.base[:12]}
        for word, real in names.items():
            text = text.replace(word, str(real))
        return text

    def contents(self) -> dict[str, Any]:
        """Everything but locks: of the repository also what is git's."""
        paths = [p for top in (self.repo, self.root) for p in top.rglob("*") if p.is_file()]
        return {str(p): p.read_bytes() for p in paths if ".locks" not in p.parts}


@pytest.fixture
def place(tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("FLAGDEPLOY_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, original)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_refusals(case: dict[str, Any], place: Place) -> None:
    if "patch" in case:
        place.add(place.set.name, {"1.patch": case["patch"].encode()})
    if "raw" in case:
        (place.set / "patch.yaml").write_text(case["raw"])
    if "folder_gets" in case:
        (place.set / case["folder_gets"]).write_text(ERRORS["sound"])
    if "folder" in case:
        place.set = place.set.rename(place.set.with_name(case["folder"]))
    if "set" in case:
        place.add(place.set.name, {"1.patch": ERRORS["sound"].encode()}, **case["set"])
    before = place.contents()
    words = case.get("arguments", ["apply", "acme/demo", "--repo", "REPO"])
    result = place.run(*map(place.named, words))
    assert result.stderr == f"error: {place.named(case['error'])}\n"
    assert result.exit_code == case.get("exit_code", 1)
    assert result.stdout == ""
    assert place.contents() == before


def test_apply_status_revert(place: Place) -> None:
    commit = "a" * 40
    before = place.contents()
    assert place.run("check").stdout == (
        f"acme/{place.set.name}: 1 patch(es) as recorded; --repo tries them\n"
    )
    assert place.run("check", "acme/demo", "--repo", str(place.repo)).stdout == (
        f"acme/{place.set.name}: 1 patch(es) apply and revert, 1 file(s)\n"
    )
    assert place.run("status").stdout == (f"{place.worktree}: nothing is applied: no such folder\n")
    assert place.apply("--dry-run").stdout == (
        f"  1. [localhost] apply acme/{place.set.name}\n"
        f"       git     {place.repo}\n"
        f"       base    {place.base}\n"
        f"       patch   1.patch\n"
        f"       into    {place.worktree}\n"
    )
    assert place.contents() == before
    result = place.apply("--json")
    record = json.loads(result.stdout)
    commit = record["commit"]
    assert (record["state"], record["base"], record["files"]) == ("applied", place.base, 1)
    assert (place.worktree / "greeting.txt").read_text() == "hello\nMLU\n"
    assert (place.repo / "greeting.txt").read_text() == "work under way\n"
    assert git(place.worktree, "log", "--format=%H %P").decode().split()[:2] == [
        commit,
        place.base,
    ]
    assert place.run("status").stdout == (
        f"{place.worktree}: acme/{place.set.name} is applied, at {commit}\n"
    )
    result = place.run("revert", "acme/demo")
    assert result.stdout == (
        f"acme/{place.set.name} is reverted: 1 patch(es), 1 file(s)\n"
        f"  worktree {place.worktree}\n  commit   {place.base}\n"
    )
    assert (place.worktree / "greeting.txt").read_text() == "hello\nworld\n"
    assert place.run("status").stdout == (
        f"{place.worktree}: acme/{place.set.name} is reverted, at {place.base}\n"
    )
    again = json.loads(place.apply("--json").stdout)
    assert again["commit"] == commit


def untracked(place: Place) -> None:
    (place.worktree / "notes.txt").write_text("mine\n")


def changed(place: Place) -> None:
    (place.worktree / "greeting.txt").write_text("mine\n")


def staged(place: Place) -> None:
    (place.worktree / "new.py").write_text("mine\n")
    git(place.worktree, "add", "new.py")


def moved(place: Place) -> None:
    git(place.worktree, "commit", "--allow-empty", "-qm", "mine")


DIRTY: dict[Callable[[Place], None], str] = {
    untracked: "WORKTREE has changes: ?? notes.txt",
    changed: "WORKTREE has changes: M greeting.txt",
    staged: "WORKTREE has changes: A  new.py",
    moved: "WORKTREE is at HEAD, not at COMMIT, where it was left",
}


@pytest.mark.parametrize("spoil", DIRTY, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("reverted", [False, True], ids=["applied", "reverted"])
def test_a_worktree_with_changes_is_left_alone(
    spoil: Callable[[Place], None], reverted: bool, place: Place
) -> None:
    place.apply()
    if reverted:
        place.run("revert", "acme/demo")
    commit = git(place.worktree, "rev-parse", "HEAD").decode().strip()
    spoil(place)
    names = {
        "WORKTREE": str(place.worktree),
        "HEAD": git(place.worktree, "rev-parse", "HEAD").decode().strip(),
        "COMMIT": commit,
    }
    expected = DIRTY[spoil]
    for word, real in names.items():
        expected = expected.replace(word, real)
    before = on_disk(place.worktree)
    result = place.apply() if reverted else place.run("revert", "acme/demo")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == f"error: {expected}"
    assert "hint: " in result.stderr
    assert on_disk(place.worktree) == before


def test_already_applied_and_another_set(place: Place) -> None:
    place.apply()
    before = place.contents()
    result = place.apply()
    assert result.stderr == (
        f"error: acme/{place.set.name} is applied already in {place.worktree}\n"
    )
    other = ERRORS["sound"].replace("MLU", "TPU").replace("index 94954ab..b3aee8a 100644\n", "")
    place.add(place.set.name, {"1.patch": other.encode()})
    result = place.apply()
    assert result.stderr == (
        f"error: {place.worktree} holds acme/{place.set.name}, not acme/{place.set.name} "
        f"as it is now\n\nhint: flagdeploy patch revert {place.worktree}\n"
    )
    assert on_disk(place.worktree)["greeting.txt"] == ("100644", b"hello\nMLU\n")
    assert before.keys() == place.contents().keys()
    place.run("revert", "acme/demo")
    assert place.apply().exit_code == 0
    assert (place.worktree / "greeting.txt").read_text() == "hello\nTPU\n"


def test_a_reverted_worktree_of_another_base(place: Place) -> None:
    place.apply()
    place.run("revert", "acme/demo")
    git(place.repo, "stash")
    git(place.repo, "commit", "--allow-empty", "-qm", "next")
    later = git(place.repo, "rev-parse", "HEAD").decode().strip()
    write_set(
        place.root / "patches" / "acme" / f"later@{later[:12]}",
        {"1.patch": ERRORS["sound"].encode()},
        later,
    )
    words = ["--repo", str(place.repo), "--into", str(place.worktree)]
    result = place.run("apply", "acme/later", *words)
    assert result.stderr.splitlines()[0] == (
        f"error: {place.worktree} is at {place.base}, but acme/later@{later[:12]} is for {later}"
    )


def test_a_bare_repository_and_a_folder_as_a_set(place: Place, original: Path) -> None:
    result = place.run("apply", str(place.set), "--repo", str(original), "--into", "bare")
    assert result.exit_code == 0, result.stderr
    assert (Path("bare") / "greeting.txt").read_text() == "hello\nMLU\n"
    assert place.run("status", "bare").stdout.startswith(f"{Path('bare').resolve()}: ")
    git(original, "worktree", "remove", str(Path("bare").resolve()))


@pytest.mark.parametrize("seconds", [0.3, 0.35, 0.4, 0.45])
def test_a_process_that_is_killed(place: Place, seconds: float) -> None:
    """For real, with all that it started; `patch status` says which state it left."""
    words = ["-m", "flagdeploy", "patch", "apply", "acme/demo", "--repo", str(place.repo)]
    command = [sys.executable, *words, "--workspace", str(place.root)]
    process = subprocess.Popen(command, start_new_session=True, stdout=-1, stderr=-1)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (found,) = json.loads(place.run("status", "--json").stdout)
    text = {"absent": None, "applied": "hello\nMLU\n"}[found["state"]]
    path = place.worktree / "greeting.txt"
    assert (path.read_text() if path.exists() else None) == text
    assert found["changes"] == []
    came_to_its_end = found["state"] == "applied" and not found["unfinished"]
    assert place.apply().exit_code == (1 if came_to_its_end else 0)
    (found,) = json.loads(place.run("status", "--json").stdout)
    assert (found["state"], found["unfinished"]) == ("applied", [])


def test_a_whole_name_is_one_set(place: Place) -> None:
    longer = place.add(f"demo@{place.base[:14]}", {"1.patch": ERRORS["sound"].encode()})
    assert place.run("check", f"acme/{place.set.name}").exit_code == 0
    assert place.run("check", f"acme/{longer.name}").exit_code == 0
    assert "could be" in place.run("check", "acme/demo").stderr


def test_a_run_that_was_cut_off_is_told_and_cleared(place: Place) -> None:
    left = place.worktree.with_name(f"{place.worktree.name}.flagdeploy-unfinished-abcdefgh")
    left.mkdir(parents=True)
    assert place.run("status").stdout == (
        f"{place.worktree}: nothing is applied: no such folder\n"
        f"  a run was cut off and left {left}; the next apply or revert clears it\n"
    )
    assert place.apply().exit_code == 0
    assert not left.exists()


def test_changes_with_names_that_no_terminal_can_show(place: Place) -> None:
    place.apply()
    (place.worktree / os.fsdecode(b"caf\xe9")).touch()
    command = [sys.executable, "-m", "flagdeploy", "patch", "status", "acme/demo"]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for words in ([], ["--json"]):
        whole = [*command, *words, "--workspace", str(place.root)]
        done = subprocess.run(whole, capture_output=True, env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"?? caf\\xe9" in done.stdout.replace(b"\\\\", b"\\")
