"""Worktrees with patches in them: made beside their place, then put there in one step.

What git knows about a worktree lies in its repository under ``worktrees/NAME/``; our record lies
there too, so it goes wherever the folder goes and is no file of the tree. A folder is ``applied``
or ``reverted`` from the moment it is at its place: there is nothing in between to be found.
"""

import ctypes
import json
import os
import posixpath
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flagdeploy import __version__
from flagdeploy.config.facts import Worktree
from flagdeploy.config.patch_set import PatchSet
from flagdeploy.errors import PatchError
from flagdeploy.patching.git import Git, Here, Machine, command
from flagdeploy.patching.names import shown
from flagdeploy.patching.trees import Patch, keep, patched

RECORD = "flagdeploy-patch.json"
SCHEMA = 1
_UNFINISHED = ".flagdeploy-unfinished-"
# Whatever the user's configuration hides.
_STATUS = ("status", "--porcelain=v1", "-z", "--untracked-files=all", "--ignore-submodules=none")
_SHOWN = 5


def look(machine: Machine, target: str) -> Worktree:
    """What lies at `target`; nothing is changed. Raises PatchError when it cannot be read."""
    target = posixpath.normpath(target)
    there, left = _beside(machine, target)
    if not there:
        return Worktree("absent", unfinished=left)
    git = Git(machine, target)
    done = git.attempt("rev-parse", "--path-format=absolute", "--show-cdup", "--git-dir", "HEAD")
    up, folder, head = (*os.fsdecode(done.stdout).split("\n"), "", "")[:3]
    # Of a folder inside somebody's checkout git tells about the checkout.
    record = None if done.exit_code or up else _recorded(machine, target, folder)
    if record is None:
        return Worktree("foreign", unfinished=left)
    status = git.output("--no-optional-locks", *_STATUS)
    changes = [shown(os.fsdecode(entry).strip()) for entry in status.split(b"\0") if entry]
    return Worktree(record["state"], record, head, tuple(changes[:_SHOWN]), left)


def _recorded(machine: Machine, target: str, folder: str) -> dict[str, Any] | None:
    """Our record of the worktree at `target`, None when it has none."""
    found = machine.run(["cat", "--", f"{folder}/{RECORD}"])
    if found.exit_code:
        return None
    try:
        record = json.loads(found.stdout)
    except ValueError:
        record = {}
    if record.get("schema") != SCHEMA:
        what = f"{target}: its record ({folder}/{RECORD}) is of another version or damaged"
        raise PatchError(what)
    return dict(record)


def put(
    machine: Machine,
    repository: str,
    target: str,
    patch_set: PatchSet,
    patches: list[Patch],
    before: Worktree,
) -> Mapping[str, Any]:
    """Make `target` a worktree of `repository` with the patches; the record of it.

    All patches are checked first. Where they are in place `before`, only what a run that was cut
    off left beside them is cleared. Raises PatchError, and then `target` is as it was.
    """
    git = Git(machine, repository)
    target = posixpath.normpath(target)
    if before.state == "applied":
        settle(machine, target)
        return before.record
    if before.state == "reverted":
        _require_empty_submodules(Git(machine, target))
    made = patched(git, patch_set, patches)
    commit = _commit(git, patch_set, keep(git, patch_set, patches, made.base_tree))
    record = {
        "schema": SCHEMA,
        "tool": f"flagdeploy {__version__}",
        "state": "applied",
        "set": patch_set.name,
        "digest": patch_set.digest,
        "component": patch_set.component,
        "base": patch_set.base,
        "base_tree": made.base_tree,
        "commit": commit,
        "tree": made.tree,
        "files": made.files,
        "patches": [vars(patch) for patch in patch_set.patches],
        "time": _now(),
    }
    _place(git, target, commit, record, before)
    return record


def take_back(machine: Machine, target: str, before: Worktree) -> Mapping[str, Any]:
    """Make `target` the base again, of which its record tells; the new record.

    Files that git ignores (what was built there) are kept. Where it is the base `before`, only what
    a run that was cut off left beside it is cleared. Raises PatchError, and then `target` is as it
    was.
    """
    if before.state == "reverted":
        settle(machine, target)
        return before.record
    git = Git(machine, target)
    _require_empty_submodules(git)
    record = {**before.record, "state": "reverted", "time": _now()}
    names = [f"{record[name]}^{{tree}}" for name in ("base", "commit")]
    trees = git.text("rev-parse", *names).split()
    if trees != [record["base_tree"], record["tree"]]:
        raise PatchError(f"{target}: its trees are not the recorded ones")
    _place(git, target, record["base"], record, before)
    return record


def _commit(git: Git, patch_set: PatchSet, tree: str) -> str:
    """A commit that is the same wherever the set is applied: its time is that of the base."""
    seconds = git.text("show", "--no-patch", "--format=%ct", patch_set.base)
    person = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (
            ("NAME", "flagdeploy"),
            ("EMAIL", "flagdeploy@localhost"),
            ("DATE", f"{seconds} +0000"),
        )
    }
    lines = [f"Apply {patch_set.name}", "", *(patch.name for patch in patch_set.patches)]
    own = Git(git.machine, git.folder, {**git.env, **person})
    message = "\n".join(lines).encode(errors="surrogateescape")
    return own.text("commit-tree", tree, "-p", patch_set.base, stdin=message + b"\n")


def _place(git: Git, target: str, commit: str, record: Mapping[str, Any], before: Worktree) -> None:
    """A worktree at `commit` takes the place of `target`, which is absent or a worktree of ours."""
    machine = git.machine
    command(machine, "mkdir", "-p", "--", posixpath.dirname(target))
    settle(machine, target)
    folder = command(machine, "mktemp", "-d", f"{target}{_UNFINISHED}XXXXXXXX")
    made = f"{folder}/{posixpath.basename(target)}"
    try:
        git.text("worktree", "add", "--detach", made, commit)
        text = json.dumps(record, indent=2, ensure_ascii=True) + "\n"
        command(machine, "tee", "--", f"{_admin(machine, made)}/{RECORD}", stdin=text.encode())
        if before.state == "absent":
            command(machine, "mv", "-T", "--", made, target)
        else:
            _exchange(machine, made, target)
    finally:
        settle(machine, target)


def settle(machine: Machine, target: str) -> None:
    """Tell git where worktrees are now, and clear what lies beside `target` unfinished or replaced.

    Files that git ignores are carried over to `target` first, where nothing has their name. Raises
    PatchError when a replaced folder holds more than that: it is kept.
    """
    there, left = _beside(machine, target)
    # Not `git worktree repair`: it believes the old places, and would mix up two that changed.
    if there and (admin := _admin(machine, target)):
        _point_back(machine, admin, target)
    for folder in left:
        old = f"{folder}/{posixpath.basename(target)}"
        admin = _admin(machine, old)
        if admin and there:
            # Of two records that claim `target`, `git worktree prune` would drop one.
            _point_back(machine, admin, old)
            _carry_over(Git(machine, old), old, target)
            _require_nothing_of_value(machine, old, admin)
        # In this order: as long as it has its `.git`, it has all that git knows about it.
        command(machine, "rm", "-rf", "--", folder, *filter(None, [admin]))


def _admin(machine: Machine, folder: str) -> str:
    """What git keeps about the worktree in `folder`, empty when it is none."""
    text = os.fsdecode(machine.run(["cat", "--", f"{folder}/.git"]).stdout)
    path = text.removeprefix("gitdir: ").removesuffix("\n")
    return path if posixpath.basename(posixpath.dirname(path)) == "worktrees" else ""


def _point_back(machine: Machine, admin: str, folder: str) -> None:
    command(machine, "tee", "--", f"{admin}/gitdir", stdin=os.fsencode(f"{folder}/.git\n"))


def _carry_over(git: Git, old: str, target: str) -> None:
    done = git.attempt(
        "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z"
    )
    # Git fails in a worktree that it was still making: nothing was built there.
    for name in filter(None, os.fsdecode(done.stdout).split("\0")):
        source, goal = f"{old}/{name.rstrip('/')}", f"{target}/{name.rstrip('/')}"
        command(git.machine, "mkdir", "-p", "--", posixpath.dirname(goal))
        # Skipping what is there is a failure since coreutils 9.2; what stays behind is told later.
        git.machine.run(["mv", "-nT", "--", source, goal])


def _require_nothing_of_value(machine: Machine, old: str, admin: str) -> None:
    """A finished worktree, which our record tells, may have been written to until it was replaced,
    and a file may have had no place to be carried over to."""
    if machine.run(["test", "-e", f"{admin}/{RECORD}"]).exit_code:
        return
    git = Git(machine, old)
    # A submodule's own repository has lost its way here, so git would only fail.
    status = (*_STATUS[:-1], "--ignore-submodules=all", "--ignored")
    entry = os.fsdecode(git.output(*status)).split("\0")[0].strip()
    if found := shown(entry) or _filled_submodule(git):
        what = f"{old} was replaced and is kept: it holds what is nowhere else ({found})"
        raise PatchError(what, "take what you need, then remove it")


def _require_empty_submodules(git: Git) -> None:
    """Git says nothing of files in the folder of a submodule, and one that is checked out does not
    outlive that its worktree is moved; so git-worktree(1) refuses to move or remove it too."""
    if path := _filled_submodule(git):
        what = f"{git.folder} has files in {path}, a submodule: they would be lost"
        # Not `git submodule deinit`, which takes the submodule from the repository's own checkout.
        raise PatchError(what, f"move what you need elsewhere, and empty {git.folder}/{path}")


def _filled_submodule(git: Git) -> str:
    """A submodule with anything in its folder, empty if there is none."""
    for entry in git.output("ls-files", "--stage", "-z").split(b"\0"):
        facts, _, name = entry.partition(b"\t")
        if facts.startswith(b"160000 "):
            listing = ["find", f"{git.folder}/{os.fsdecode(name)}", "-mindepth", "1", "-print0"]
            if git.machine.run([*listing, "-quit"]).stdout:
                return shown(os.fsdecode(name))
    return ""


def _beside(machine: Machine, target: str) -> tuple[bool, tuple[str, ...]]:
    """Is there a `target`, and folders beside it that hold what is unfinished or replaced."""
    parent, name = posixpath.split(target)
    listing = ["find", "-H", parent, "-mindepth", "1", "-maxdepth", "1", "-print0"]
    paths = os.fsdecode(machine.run(listing).stdout).split("\0")
    names = [posixpath.basename(path) for path in paths]
    left = sorted(other for other in names if other.startswith(f"{name}{_UNFINISHED}"))
    return name in names, tuple(f"{parent}/{other}" for other in left)


def _exchange(machine: Machine, first: str, second: str) -> None:
    """Two folders change places in one step (renameat2(2), RENAME_EXCHANGE)."""
    if not isinstance(machine, Here):
        raise PatchError(f"{second}: has been reverted", "remove it, or name another worktree")
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if libc.renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange):
        why = os.strerror(ctypes.get_errno())
        what = f"{second}: this file system cannot exchange two folders in one step: {why}"
        raise PatchError(what, "apply into a folder that does not exist yet")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
