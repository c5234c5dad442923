"""Worktrees with patches in them: made beside their place, then put there in one step.

What git knows about a worktree lies in its repository under ``worktrees/NAME/``; our record lies
there too, so it goes wherever the folder goes and is no file of the tree. A folder is ``applied``
or ``reverted`` from the moment it is at its place: there is nothing in between to be found.
"""

import ctypes
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from flagdeploy import __version__
from flagdeploy.config.facts import Worktree
from flagdeploy.config.patch_set import PatchSet
from flagdeploy.errors import PatchError
from flagdeploy.patching.git import Git, Here, Machine, command
from flagdeploy.patching.trees import Patch, patched

RECORD = "flagdeploy-patch.json"
SCHEMA = 1
_UNFINISHED = ".flagdeploy-unfinished-"
_SHOWN = 5


def look(machine: Machine, target: str) -> Worktree:
    """What lies at `target`; nothing is changed. Raises PatchError when it cannot be read."""
    left = tuple(_left(machine, target))
    if machine.run(["test", "-e", target]).exit_code:
        return Worktree("absent", unfinished=left)
    git = Git(machine, target)
    record = _recorded(machine, target, git)
    if record is None:
        return Worktree("foreign", unfinished=left)
    status = git.output(
        "--no-optional-locks", "status", "--porcelain=v1", "-z", "--untracked-files=all"
    )
    changes = [os.fsdecode(entry) for entry in status.split(b"\0") if entry]
    head = git.text("rev-parse", "HEAD")
    return Worktree(record["state"], record, head, tuple(changes[:_SHOWN]), left)


def _recorded(machine: Machine, target: str, git: Git) -> dict[str, Any] | None:
    """Our record of the worktree at `target`, None when it has none."""
    done = git.attempt("rev-parse", "--show-toplevel", "--path-format=absolute", "--git-dir")
    if done.exit_code:
        return None
    top, folder = os.fsdecode(done.stdout).splitlines()
    if top != command(machine, "realpath", "--", target):
        return None  # a folder inside somebody's checkout
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

    All patches are checked first. Raises PatchError, and then `target` is as it was.
    """
    git = Git(machine, repository)
    checked = patched(git, patch_set, patches)
    made = patched(git, patch_set, patches, keep_objects=True)
    assert made == checked
    commit = _commit(git, patch_set, made.tree)
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

    Files that git ignores (what was built there) are kept. Raises PatchError, and then `target` is
    as it was.
    """
    git = Git(machine, target)
    record = {**before.record, "state": "reverted", "time": _now()}
    for name in ("base", "commit"):
        tree = git.text("rev-parse", "--verify", f"{record[name]}^{{tree}}")
        if tree != record["tree" if name == "commit" else "base_tree"]:
            raise PatchError(f"{target}: the tree of {record[name]} is not the recorded one")
    common = Git(machine, git.common_folder())
    _place(common, target, record["base"], record, before)
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
        own = Git(machine, made)
        if own.output("status", "--porcelain=v1", "-z"):
            what = "a fresh checkout differs from its commit: .gitattributes converts it"
            raise PatchError(f"{git.folder}: {what}")
        admin = own.text("rev-parse", "--path-format=absolute", "--git-dir")
        text = json.dumps(record, indent=2, ensure_ascii=True) + "\n"
        command(machine, "tee", "--", f"{admin}/{RECORD}", stdin=text.encode())
        if before.state == "absent":
            command(machine, "mv", "-T", "--", made, target)
        else:
            _exchange(machine, made, target)
    finally:
        settle(machine, target)


def settle(machine: Machine, target: str) -> None:
    """Tell git where things are now, and clear what lies beside `target` unfinished or replaced.

    Files that git ignores are carried over to `target` first, where nothing has their name.
    """
    if not machine.run(["test", "-e", f"{target}/.git"]).exit_code:
        Git(machine, target).attempt("worktree", "repair")
    for folder in _left(machine, target):
        old = f"{folder}/{posixpath.basename(target)}"
        git = Git(machine, old)
        if not machine.run(["test", "-e", f"{old}/.git"]).exit_code:
            git.attempt("worktree", "repair")
            _carry_over(git, old, target)
            common = git.common_folder()
            Git(machine, common).attempt("worktree", "remove", "--force", old)
        command(machine, "rm", "-rf", "--", folder)


def _carry_over(git: Git, old: str, target: str) -> None:
    ignored = ("ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z")
    for name in filter(None, os.fsdecode(git.output(*ignored)).split("\0")):
        source, goal = f"{old}/{name.rstrip('/')}", f"{target}/{name.rstrip('/')}"
        command(git.machine, "mkdir", "-p", "--", posixpath.dirname(goal))
        command(git.machine, "mv", "-nT", "--", source, goal)


def _left(machine: Machine, target: str) -> Iterator[str]:
    """Folders beside `target` that hold what is unfinished or replaced."""
    parent, name = posixpath.split(target)
    found = machine.run(
        ["find", parent, "-mindepth", "1", "-maxdepth", "1", "-name", f"*{_UNFINISHED}*", "-print0"]
    )
    for path in sorted(filter(None, os.fsdecode(found.stdout).split("\0"))):
        if posixpath.basename(path).startswith(f"{name}{_UNFINISHED}"):
            yield path


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
