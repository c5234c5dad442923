"""What applying or reverting a patch set would do, given what lies where the worktree shall be."""

from collections.abc import Sequence
from pathlib import Path

from flagdeploy.config.facts import Facts, Worktree
from flagdeploy.config.launch import Host
from flagdeploy.config.patch_set import PatchSet
from flagdeploy.config.schema import Deployment
from flagdeploy.errors import HostError, PatchError
from flagdeploy.plans.steps import ApplyPatches, Skip, Step

STAGE = "patch"


def plan_apply(
    patch_set: PatchSet, repository: str, worktree: str, found: Worktree, host: str
) -> Step:
    """One step that makes `worktree`, or a Skip where it holds this set already, untouched.

    Where a run was cut off after its work was in place, the step only clears what it left. Raises
    PatchError with the reason when something else lies there: nothing is overwritten.
    """
    if found.state == "applied":
        if found.record["digest"] != patch_set.digest:
            raise PatchError(
                f"{worktree} holds {found.record['set']}, not {patch_set} as it is now",
                f"flagdeploy patch revert {worktree}",
            )
        _require_untouched(worktree, found)
        if not found.unfinished:
            return Skip(host, STAGE, f"{patch_set} is in place in {worktree}")
    if found.state == "foreign":
        raise PatchError(
            f"{worktree} is there, and `patch apply` did not make it: nothing of yours is touched",
            "name a folder that does not exist yet",
        )
    if found.state == "reverted":
        _require_untouched(worktree, found)
        if found.head != patch_set.base:
            what = f"{worktree} is at {found.head}, but {patch_set} is for {patch_set.base}"
            raise PatchError(what, "name a folder that does not exist yet")
    return ApplyPatches(
        host=host,
        stage=STAGE,
        why=f"{'finish applying' if found.state == 'applied' else 'apply'} {patch_set}",
        set=patch_set.name,
        folder=str(patch_set.folder),
        component=patch_set.component,
        base=patch_set.base,
        patches=tuple(patch.name for patch in patch_set.patches),
        repository=repository,
        worktree=worktree,
    )


def require_revertible(worktree: str, found: Worktree) -> None:
    """Raises PatchError with the reason when `worktree` cannot be made its base again."""
    if found.state == "absent":
        raise PatchError(f"{worktree}: there is no such folder, so nothing is applied")
    if found.state == "foreign":
        raise PatchError(f"{worktree}: `patch apply` did not make it: nothing to revert")
    if found.state == "reverted" and not found.unfinished:
        raise PatchError(f"{worktree}: {found.record['set']} is reverted already")
    _require_untouched(worktree, found)


def patch_steps(
    deployment: Deployment, hosts: Sequence[Host], facts: Facts, patch_set: PatchSet
) -> list[Step]:
    """A step or a Skip for each host of a deployment that names a patch set.

    Raises HostError when something else lies where the worktree shall be.
    """
    wanted, steps = deployment.patch, list[Step]()
    for number, host in enumerate(hosts):
        if number and wanted.shared:
            why = f"{wanted.worktree} comes from {hosts[0]}, on a shared file system"
            steps.append(Skip(host.address, STAGE, why))
            continue
        found = facts.of(host.address).patched
        try:
            step = plan_apply(patch_set, wanted.repository, wanted.worktree, found, host.address)
        except PatchError as error:
            raise HostError(host.address, str(error), error.hint) from None
        steps.append(step)
    return steps


def _require_untouched(worktree: str, found: Worktree) -> None:
    expected = found.record["commit" if found.state == "applied" else "base"]
    if found.head != expected:
        raise PatchError(
            f"{worktree} is at {found.head}, not at {expected}, where it was left",
            f"git -C {worktree} checkout --detach {expected}",
        )
    if found.changes:
        raise PatchError(
            f"{worktree} has changes: {', '.join(found.changes)}",
            "keep them elsewhere, or commit them on a branch and check out the commit again",
        )


def default_worktree(patch_set: PatchSet, folder: Path) -> Path:
    """Where a set is applied when no place is named, below a workspace's writable `folder`."""
    return folder / "patched" / patch_set.name
