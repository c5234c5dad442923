"""A patch set as a function of trees: nothing but git's object store and a throw-away index.

The whole patched tree is computed, taken back and compared before a file is written anywhere.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from flagdeploy.config.patch_set import PatchSet
from flagdeploy.errors import PatchError
from flagdeploy.patching.git import Git, reason, scratch
from flagdeploy.patching.names import danger_of, shown
from flagdeploy.patching.patch_file import REGULAR, Change, changes

MODES = (*REGULAR, "000000")
_KINDS = {"160000": "submodule", "120000": "symbolic link", **dict.fromkeys(REGULAR, "file")}
# Git's complaint when something else than a folder has the name of a file's folder.
_NO_ROOM = "unable to add cache entry for "


@dataclass(frozen=True)
class Patch:
    """One patch of a set, read."""

    name: str
    content: bytes
    changes: tuple[Change, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(chain.from_iterable(change.names for change in self.changes))


@dataclass(frozen=True)
class Patched:
    """Trees before and after, and how many files differ."""

    base_tree: str
    tree: str
    files: int


def patches_of(patch_set: PatchSet) -> list[Patch]:
    """Read and check every patch. Raises PatchError for a wrong hash and for what is refused."""
    return [
        Patch(file.name, content, changes(content, f"{patch_set.name}: {file.name}"))
        for file, content in zip(patch_set.patches, patch_set.contents(), strict=True)
    ]


def _base(git: Git, patch_set: PatchSet) -> tuple[str, str]:
    """The folder of the objects, and the tree of the base commit."""
    wanted = f"{patch_set.base}^{{tree}}"
    asked = ("--show-prefix", "--path-format=absolute", "--git-path", "objects", wanted)
    done = git.attempt("rev-parse", *asked)
    inside, *found = os.fsdecode(done.stdout).split("\n")
    if inside:  # names would be relative to it
        what = f"{git.folder} is {inside} of a git repository, not the whole"
        raise PatchError(what, f"name {git.text('rev-parse', '--show-toplevel')}")
    if not done.exit_code:
        return found[0], found[1]
    if not found:
        raise PatchError(f"{git.folder} is no git repository", "name a clone of the component")
    raise PatchError(
        f"{patch_set.name}: {git.folder} has no commit {patch_set.base}",
        f"git -C {git.folder} fetch {patch_set.repository} {patch_set.base}",
    )


def patched(git: Git, patch_set: PatchSet, patches: Sequence[Patch]) -> Patched:
    """The tree that the patches make of the base, tried without keeping anything.

    Raises PatchError when the base is missing, a patch is for other content, does not apply, does
    something else than its text says, or cannot be taken back to the very same tree.
    """
    objects, before = _base(git, patch_set)
    with scratch(git, objects) as own:
        own.text("read-tree", before)
        groups = list(_groups(patches))
        for group in groups:
            _require_content(own, patch_set, group)
            _apply(own, patch_set, group)
        after = own.text("write-tree")
        files = _require_as_told(own, patch_set, patches, before, after)
        for group in reversed(groups):
            _apply(own, patch_set, group, "--reverse")
        if own.text("write-tree") != before:
            raise PatchError(f"{patch_set.name}: taking it back does not lead to its base")
    return Patched(before, after, files)


def keep(git: Git, patch_set: PatchSet, patches: Sequence[Patch], base_tree: str) -> str:
    """Make the patched tree, which `patched` has tried, in the repository; its name."""
    with scratch(git) as own:
        own.text("read-tree", base_tree)
        for group in _groups(patches):
            _apply(own, patch_set, group)
        return own.text("write-tree")


def _groups(patches: Iterable[Patch]) -> Iterator[list[Patch]]:
    """Patches in a row that share no file: one for git to apply, and there may be thousands."""
    group: list[Patch] = []
    names: set[str] = set()
    for patch in patches:
        if group and names & patch.names:
            yield group
            group, names = [], set()
        group.append(patch)
        names |= patch.names
    if group:
        yield group


def _require_content(git: Git, patch_set: PatchSet, group: Sequence[Patch]) -> None:
    """Every file is what its patch was made for: there or not, and the very blob."""
    entries = _entries(git)
    for patch in group:
        made: set[str] = set()
        for change in patch.changes:
            if what := _misfit(change, entries, made):
                raise PatchError(
                    f"{patch_set.name}: {patch.name}:{change.line}: {what}",
                    f"it was made for another commit than {patch_set.base[:12]}, or edited by hand",
                )
            made |= change.names


def _entries(git: Git) -> dict[str, tuple[str, str]]:
    """Mode and blob of every file of the index."""
    entries = {}
    for entry in filter(None, git.output("ls-files", "--stage", "-z").split(b"\0")):
        facts, _, path = entry.partition(b"\t")
        mode, blob, _ = facts.decode().split()
        entries[os.fsdecode(path)] = (mode, blob)
    return entries


def _misfit(change: Change, entries: dict[str, tuple[str, str]], made: set[str]) -> str:
    """What speaks against the change, given what the patch did before; empty if nothing."""
    if change.old is None:
        there = change.new in entries and change.new not in made
        return f"{shown(change.new)} is there already" if there else ""
    if change.old in made:
        return ""
    if change.old not in entries:
        return f"{shown(change.old)} does not exist"
    mode, blob = entries[change.old]
    if mode not in REGULAR:
        return f"{shown(change.old)} is a {_KINDS[mode]}"
    if not blob.startswith(change.before):
        return f"{shown(change.old)} is the blob {blob[:12]}, not {change.before[:12]}"
    return ""


def _apply(git: Git, patch_set: PatchSet, group: Sequence[Patch], *options: str) -> None:
    text = b"".join(patch.content + b"\n\n" for patch in group)
    done = git.attempt("apply", "--cached", *options, "-", stdin=text)
    if not done.exit_code:
        return
    why = reason(done)
    if (taken := why.removeprefix(_NO_ROOM)) != why:
        why = f"{taken}: {_in_the_way(git, taken)}"
    path = why.partition(":")[0]
    name = next((patch.name for patch in group if path in patch.names), group[0].name)
    verb = "cannot be taken back" if options else "does not apply"
    raise PatchError(f"{patch_set.name}: {name} {verb}: {why}")


def _in_the_way(git: Git, path: str) -> str:
    """Why nothing can be below one of the folders of `path`."""
    entries = _entries(git)
    above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
    found = next((folder for folder in above if folder in entries), None)
    return f"{shown(found)} is a {_KINDS[entries[found][0]]}" if found else "something is there"


def _require_as_told(
    git: Git, patch_set: PatchSet, patches: Sequence[Patch], before: str, after: str
) -> int:
    """Git must have done what we read: the files we know of, regular ones only. How many differ."""
    told = frozenset(chain.from_iterable(patch.names for patch in patches))
    words = git.output("diff-tree", "-r", "-z", "--raw", "--no-renames", before, after).split(b"\0")
    pairs = list(zip(words[::2], words[1::2], strict=False))
    for facts, raw in pairs:
        path, modes = os.fsdecode(raw), facts.decode().lstrip(":").split()[:2]
        if danger := danger_of(path):
            raise PatchError(f"{patch_set.name}: {shown(path)} {danger}")
        if path not in told or not set(modes) <= set(MODES):
            what = f"{shown(path)} becomes mode {modes[1]}, which no patch says"
            raise PatchError(f"{patch_set.name}: {what}")
    if not pairs:
        raise PatchError(f"{patch_set.name}: changes nothing")
    return len(pairs)
