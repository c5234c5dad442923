"""The reader of patches: what git writes is read, anything else is a PatchError with its line."""

import os
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flagdeploy.errors import PatchError
from flagdeploy.patching.names import danger_of
from flagdeploy.patching.patch_file import Change, changes
from patching.generated import Repository, git


@pytest.mark.parametrize(
    ("path", "danger"),
    [
        ("a/b.py", ""),
        (".gitignore", ""),
        (".github/x", ""),
        ("a..b/..c", ""),
        ("-rf", ""),
        ("/etc/passwd", "is an absolute path"),
        ("../x", "leads out of the tree with `..`"),
        ("a/../../x", "leads out of the tree with `..`"),
        ("a/..", "leads out of the tree with `..`"),
        ("a//b", "has an empty component"),
        ("./a", "has an empty component"),
        ("a/", "has an empty component"),
        ("", "has an empty component"),
        (".git/config", "leads into .git/"),
        ("sub/.GIT/config", "leads into .git/"),
        (".git", "leads into .git/"),
        (".git . ./config", "leads into .git/"),
        (".git::$INDEX_ALLOCATION/config", "leads into .git/"),
        ("GIT~1/config", "leads into .git/"),
        (".g\u200cit/config", "leads into .git/"),
        ("sub/\ufeff.gi\u206at/config", "leads into .git/"),
        (".git\\config", "leads into .git/"),
        ("third_party\\.Git\\config", "leads into .git/"),
        ("third_party/y/.git/config", "leads into .git/"),
        ("back\\slash.git", ""),
    ],
)
def test_names_that_must_not_be_written(path: str, danger: str) -> None:
    assert danger_of(path) == danger


PIECES = [
    ".git",
    ".GIT",
    "git~1",
    "g",
    "it",
    ".",
    " ",
    ":",
    "\\",
    "/",
    "\u200c",
    "\ufeff",
    "~1",
    "x",
    "..",
]


EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=4).map("".join))
def test_what_git_refuses_is_refused(repository: Repository, path: str) -> None:
    """Git itself is the judge, with its protections for other file systems on."""
    if danger_of(path):
        return
    index = repository.folder / ".git" / "index-of-names"
    settings = ["-c", "core.protectNTFS=true", "-c", "core.protectHFS=true"]
    done = subprocess.run(
        ["git", *settings, "-C", repository.folder, "update-index", "-z", "--index-info"],
        input=f"100644 {EMPTY} 0\t{path}\0".encode(),
        capture_output=True,
        env={**os.environ, "GIT_INDEX_FILE": str(index)},
    )
    index.unlink(missing_ok=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_kind_of_change_is_read_as_git_means_it(repository: Repository) -> None:
    for seed in range(50):
        for patch in repository.patches(seed).values():
            raw = git(repository.folder, "apply", "--numstat", "-z", "-", stdin=patch)
            told = {entry.split(b"\t", 2)[2] for entry in raw.split(b"\0") if entry}
            found = {change.new or change.old for change in changes(patch, "x")}
            assert {name.encode(errors="surrogateescape") for name in found} == told


def test_a_change_knows_its_blob_and_its_modes() -> None:
    text = b"""\
diff --git a/old name b/new
old mode 100644
new mode 100755
similarity index 90%
rename from old name
rename to new
index 94954ab..b3aee8a
--- a/old name\t
+++ b/new
@@ -1 +1 @@ def f():
-x
\\ No newline at end of file
+y
"""
    assert changes(text, "x") == (
        Change("old name", "new", 1, False, "94954ab", ("100644", "100755")),
    )


SOUND = b"""\
From 1111111111111111111111111111111111111111 Mon Sep 17 00:00:00 2001
From: A <a@example.com>
Subject: [PATCH] two files

---
 a.py | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/a.py b/a.py
index 94954ab..b3aee8a 100644
--- a/a.py
+++ b/a.py
@@ -1,3 +1,3 @@
 x
-y
+z

diff --git "a/\\303\\274.bin" "b/\\303\\274.bin"
new file mode 100644
index 0000000000000000000000000000000000000000..350ed01038bfaa2fda2722ada23a75bdd971bd68
GIT binary patch
literal 3
KcmZQzVg>*J3IGNG

literal 0
HcmV?d00001

-- \n2.39.5

"""


def test_the_sound_patch_is_sound() -> None:
    assert [change.new for change in changes(SOUND, "x")] == ["a.py", "ü.bin"]


@settings(max_examples=300, deadline=None)
@example(0, 0, b"\0")
@given(st.integers(0, len(SOUND)), st.integers(0, 80), st.binary(max_size=12))
def test_damage_is_told_or_harmless(at: int, removed: int, inserted: bytes) -> None:
    damaged = SOUND[:at] + inserted + SOUND[at + removed :]
    try:
        found = changes(damaged, "x")
    except PatchError as error:
        assert str(error).startswith("x:")
    else:
        assert not any(danger_of(name) for change in found for name in change.names)


@settings(max_examples=60, deadline=None)
@given(st.integers(len(SOUND) - 700, len(SOUND)), st.integers(0, 60), st.binary(max_size=8))
def test_git_never_sees_a_file_that_we_do_not(
    tmp_path_factory: pytest.TempPathFactory, at: int, removed: int, inserted: bytes
) -> None:
    damaged = SOUND[:at] + inserted + SOUND[at + removed :]
    try:
        found = changes(damaged, "x")
    except PatchError:
        return
    told = subprocess.run(
        ["git", "apply", "--numstat", "-z", "-"],
        input=damaged,
        capture_output=True,
        cwd=tmp_path_factory.getbasetemp(),
    )
    if told.returncode == 0:
        names = {name for change in found for name in change.names}
        seen = {entry.split(b"\t", 2)[-1] for entry in told.stdout.split(b"\0") if entry}
        assert seen <= {name.encode(errors="surrogateescape") for name in names}
