"""Patch sets on this machine: check > plan > apply or revert, and what is in place."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flagdeploy.config import patch_set as patch_sets
from flagdeploy.config import workspace as workspaces
from flagdeploy.config.facts import Worktree
from flagdeploy.config.load import Loaded
from flagdeploy.config.patch_set import PatchSet
from flagdeploy.errors import ConfigError, HostError, PatchError, Problem, UsageError
from flagdeploy.launchers.base import Launcher, Result
from flagdeploy.patching import trees, worktree
from flagdeploy.patching.git import Git, Here
from flagdeploy.plans.patch import default_worktree, plan_apply, require_revertible
from flagdeploy.plans.steps import ApplyPatches, Plan, Skip
from flagdeploy.records.lock import deployment_lock

HOST = "localhost"
# Writing a worktree to a slow file system takes a while.
TIMEOUT_S = 600


@dataclass(frozen=True)
class Applied:
    """A worktree with a set in it, or one from which it was taken out; `record` is what is noted
    there."""

    worktree: str
    record: dict[str, Any]

    def text(self) -> str:
        record = self.record
        count = f"{len(record['patches'])} patch(es), {record['files']} file(s)"
        if record["state"] == "reverted":
            head = f"{record['set']} is reverted: {count}"
            return f"{head}\n  worktree {self.worktree}\n  commit   {record['base']}"
        head = f"{record['set']} is applied: {count}"
        return f"{head}\n  worktree {self.worktree}\n  commit   {record['commit']}"

    def to_dict(self) -> dict[str, Any]:
        return {"worktree": self.worktree, **self.record}


@dataclass(frozen=True)
class Checked:
    """A set whose patches are as recorded and safe; `files` that it changes at its base, None
    when there was no repository to look at."""

    name: str
    patches: int
    files: int | None

    def text(self) -> str:
        if self.files is None:
            return f"{self.name}: {self.patches} patch(es) as recorded; --repo tries them"
        return f"{self.name}: {self.patches} patch(es) apply and revert, {self.files} file(s)"


@dataclass(frozen=True)
class Status:
    """What lies at a place for patched source."""

    worktree: str
    found: Worktree

    def text(self) -> str:
        found, record = self.found, self.found.record
        match found.state:
            case "absent":
                line = "nothing is applied: no such folder"
            case "foreign":
                line = "was not made by `patch apply`"
            case "applied":
                line = f"{record['set']} is applied, {self._shape(record['commit'])}"
            case "reverted":
                line = f"{record['set']} is reverted, {self._shape(record['base'])}"
        left = [
            f"  a run was cut off and left {folder}; the next apply or revert clears it"
            for folder in found.unfinished
        ]
        return "\n".join([f"{self.worktree}: {line}", *left])

    def _shape(self, expected: str) -> str:
        if self.found.head != expected:
            return f"but the worktree is at {self.found.head}, not at {expected}"
        if self.found.changes:
            return f"with changes: {', '.join(self.found.changes)}"
        return f"at {expected}"

    def to_dict(self) -> dict[str, Any]:
        return {"worktree": self.worktree, **asdict(self.found)}


def apply(
    name: str, repository: str, into: str | None = None, *, workspace: str | None = None
) -> Applied:
    """Apply patch set `name` in a worktree of the git repository `repository`.

    The worktree is made at `into`, by default below the workspace; the repository's own checkout
    is not touched. Raises PatchError with the reason, also when the set is applied there already,
    and then everything is as it was.
    """
    root = workspaces.find(workspace)
    chosen = patch_sets.find(name, root)
    target = _target(chosen, into, root)
    with _lock(root, target):
        patches = trees.patches_of(chosen)
        found = worktree.look(Here(), target)
        step = plan_apply(chosen, str(Path(repository).resolve()), target, found, HOST)
        if isinstance(step, Skip):
            raise PatchError(f"{chosen} is applied already in {target}")
        assert isinstance(step, ApplyPatches)
        record = worktree.put(Here(), step.repository, target, chosen, patches, found)
    return Applied(target, dict(record))


def plan(
    name: str, repository: str, into: str | None = None, *, workspace: str | None = None
) -> Plan:
    """What `apply` would do, tried on trees that are not kept. Raises as `apply` does."""
    root = workspaces.find(workspace)
    chosen = patch_sets.find(name, root)
    target = _target(chosen, into, root)
    patches = trees.patches_of(chosen)
    source = str(Path(repository).resolve())
    step = plan_apply(chosen, source, target, worktree.look(Here(), target), HOST)
    trees.patched(Git(Here(), source), chosen, patches)
    return Plan(chosen.name, (step,))


def revert(place: str, *, workspace: str | None = None) -> Applied:
    """Make the worktree at `place`, a folder or the name of a set, its base again.

    Raises PatchError with the reason when it is not as `apply` left it; then nothing has changed.
    """
    root = workspaces.find(workspace)
    target = _places([place], root)[0]
    with _lock(root, target):
        found = worktree.look(Here(), target)
        require_revertible(target, found)
        record = worktree.take_back(Here(), target, found)
    return Applied(target, dict(record))


def status(places: Sequence[str] = (), *, workspace: str | None = None) -> list[Status]:
    """What lies at `places` (folders or names of sets); where all known sets go by default."""
    root = workspaces.find(workspace)
    targets = _places(places or list(patch_sets.folders(root)), root)
    return [Status(target, worktree.look(Here(), target)) for target in targets]


def check(
    names: Sequence[str] = (), repository: str | None = None, *, workspace: str | None = None
) -> list[Checked]:
    """Check patch sets (all there are: none named): hashes, headers, names; with a `repository`
    also that they apply at their base and can be taken back. Nothing is kept of the trial.

    Raises PatchError for the first thing that is wrong.
    """
    root = workspaces.find(workspace)
    if repository and len(names) != 1:
        raise UsageError("--repo: name the one patch set that is for it")
    done = []
    for chosen in [patch_sets.find(name, root) for name in names or patch_sets.folders(root)]:
        patches = trees.patches_of(chosen)
        files = None
        if repository:
            files = trees.patched(Git(Here(), repository), chosen, patches).files
        done.append(Checked(chosen.name, len(patches), files))
    return done


def _target(chosen: PatchSet, into: str | None, root: Path) -> str:
    place = Path(into) if into else default_worktree(chosen, workspaces.writable_folder(root))
    return str(place.resolve())


def _places(places: Sequence[str], root: Path) -> list[str]:
    """Folders; a name of a set stands for the place where it goes by default."""
    known = patch_sets.folders(root)
    found = []
    for place in places:
        if not Path(place).exists() and any(name.startswith(place) for name in known):
            found.append(_target(patch_sets.find(place, root), None, root))
        else:
            found.append(str(Path(place).resolve()))
    return found


@contextmanager
def _lock(root: Path, target: str) -> Iterator[None]:
    """One apply or revert at a time for each place."""
    digest = hashlib.sha256(target.encode()).hexdigest()[:12]
    with deployment_lock(workspaces.state_folder(root), f"patch-{digest}"):
        yield


class _OnHost:
    """A host behind a launcher, as patching wants a machine."""

    def __init__(self, launcher: Launcher) -> None:
        self.launcher = launcher

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
        return self.launcher.run(argv, TIMEOUT_S, stdin)


def chosen(name: str, loaded: Loaded, root: Path) -> PatchSet:
    """The patch set `name` of a deployment, its patches checked as far as it goes without git.

    Raises ConfigError when there is none of that name, PatchError when a patch is refused.
    """
    try:
        found = patch_sets.find(name, root)
    except UsageError as error:
        problem = Problem(loaded.where("patch.set"), "patch.set", str(error))
        raise ConfigError([problem], error.hint) from None
    trees.patches_of(found)
    return found


def look_at(launcher: Launcher, place: str) -> Worktree:
    """What lies at `place` on a host. Raises HostError when it cannot be read."""
    try:
        return worktree.look(_OnHost(launcher), place)
    except PatchError as error:
        raise HostError(str(launcher.host), str(error), error.hint) from None


def apply_on_host(step: ApplyPatches, launcher: Launcher) -> None:
    """Carry out a step on the host of `launcher`, which needs git. Raises HostError."""
    wanted = patch_sets.read(Path(step.folder))
    machine = _OnHost(launcher)
    try:
        patches, found = trees.patches_of(wanted), worktree.look(machine, step.worktree)
        worktree.put(machine, step.repository, step.worktree, wanted, patches, found)
    except PatchError as error:
        raise HostError(step.host, str(error), error.hint) from None


@dataclass(frozen=True)
class Imported:
    """A set that was written."""

    name: str
    folder: str
    base: str
    patches: int

    def text(self) -> str:
        return f"{self.name}: {self.patches} patch(es) for {self.base}, in {self.folder}"


def import_sets(
    checkout: str,
    device: str,
    *,
    task: str = "",
    backends: Sequence[str] = (),
    commit: str = "",
    out: str | None = None,
    workspace: str | None = None,
) -> list[Imported]:
    """Write FlagScale's patches for `device` as patch sets, one for each component, below `out`
    (by default the workspace's patches/).

    Raises PatchError for what is encrypted, incomplete or refused, and then nothing is written.
    """
    from flagdeploy.patching import flagscale

    root = workspaces.find(workspace)
    top = Path(out) if out else workspaces.writable_folder(root) / "patches"
    if top.exists() and not top.is_dir():
        raise UsageError(f"{top} is no folder", "name another one with --out")
    found = flagscale.read(Path(checkout), device, task=task, backends=backends, commit=commit)
    done = []
    sets = [(replace(c, folder=(top / c.name).resolve()), contents) for c, contents in found]
    patch_sets.require_room([placed for placed, _ in sets])
    for placed, contents in sets:
        patch_sets.write(placed, contents)
        done.append(Imported(placed.name, str(placed.folder), placed.base, len(contents)))
    return done
