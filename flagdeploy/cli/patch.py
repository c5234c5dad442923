"""`flagdeploy patch apply`, `revert`, `status`, `check` and `import`."""

from typing import Annotated

import typer

from flagdeploy.cli import complete, options
from flagdeploy.cli.output import out

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Set = Annotated[
    str,
    typer.Argument(
        metavar="SET",
        help="VENDOR/COMPONENT@COMMIT below patches/ (the commit may be cut short), or a folder.",
        autocompletion=complete.patch_sets,
    ),
]
Repo = Annotated[
    str, typer.Option("--repo", metavar="DIR", help="Git repository of the component: a clone.")
]


@app.callback()
def _patch() -> None:
    """Apply a vendor's patches to a component's source, and take them back."""


@app.command("apply")
def apply_(
    name: Set,
    repo: Repo,
    into: Annotated[
        str | None,
        typer.Option("--into", metavar="DIR", help="New worktree. Default: patched/SET."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try it in memory, print the plan, write nothing.")
    ] = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Apply a patch set in a fresh worktree at the commit it is for: all patches or none.

    Every patch is checked first: its hash, its headers, the content it changes, and that taking it
    back leads to the very same tree. Your own checkout is neither stashed nor reset nor touched.

    \b
      flagdeploy patch apply nvidia/vllm@01425553 --repo ~/vllm
      flagdeploy patch apply nvidia/vllm@01425553 --repo ~/vllm --into /srv/vllm-gems
      flagdeploy patch apply ./my_patches --repo ~/vllm --dry-run
    """
    from flagdeploy.workflows import patch as workflow

    out.json = json
    if dry_run:
        plan = workflow.plan(name, repo, into, workspace=workspace)
        out.result(str(plan), plan.to_dict())
        return
    done = workflow.apply(name, repo, into, workspace=workspace)
    out.result(done.text(), done.to_dict())


@app.command()
def revert(
    place: Annotated[
        str,
        typer.Argument(
            metavar="SET|DIR",
            help="Worktree that `patch apply` made; a set stands for its default place.",
            autocompletion=complete.patch_sets,
        ),
    ],
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Take the patches out of a worktree again: it becomes exactly the commit they are for.

    Refused when it has changes of yours, or files in the folder of a submodule. What was built in
    it and git ignores is kept.

    \b
      flagdeploy patch revert nvidia/vllm@01425553
      flagdeploy patch revert /srv/vllm-gems
    """
    from flagdeploy.workflows import patch as workflow

    out.json = json
    done = workflow.revert(place, workspace=workspace)
    out.result(done.text(), done.to_dict())


@app.command()
def status(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET|DIR ...]",
            help="Default: the places of all patch sets.",
            autocompletion=complete.patch_sets,
        ),
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Say which patch sets are applied where, untouched or with changes, and what was cut off.

    \b
      flagdeploy patch status
      flagdeploy patch status /srv/vllm-gems --json
    """
    from flagdeploy.workflows import patch as workflow

    out.json = json
    found = workflow.status(places or [], workspace=workspace)
    text = "\n".join(one.text() for one in found) or "there are no patch sets"
    out.result(text, [one.to_dict() for one in found])


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET ...]", help="Default: all.", autocompletion=complete.patch_sets
        ),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option("--repo", metavar="DIR", help="Try the one set on this clone, in memory."),
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Check patch sets: hashes and headers; with --repo that they apply and can be taken back.

    \b
      flagdeploy patch check
      flagdeploy patch check nvidia/vllm@01425553 --repo ~/vllm
    """
    from flagdeploy.workflows import patch as workflow

    out.json = json
    done = workflow.check(names or [], repo, workspace=workspace)
    text = "\n".join(one.text() for one in done) or "there are no patch sets"
    out.result(text, [vars(one) for one in done])


@app.command("import")
def import_(
    checkout: Annotated[
        str, typer.Argument(metavar="CHECKOUT", help="Clone of FlagScale, v0.9.0 or older.")
    ],
    device: Annotated[
        str, typer.Option("--device", metavar="D", help="Folder under hardware/ of FlagScale.")
    ],
    task: Annotated[
        str, typer.Option("--task", metavar="T", help="train, inference or post_train.")
    ] = "",
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="B", help="Component; repeatable. Default: all."),
    ] = None,
    commit: Annotated[
        str,
        typer.Option(
            "--commit",
            metavar="C",
            help="Of FlagScale: one that the device has a patch for, or in patch_history.yaml.",
        ),
    ] = "",
    to: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Default: patches/.")
    ] = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
) -> None:
    """Write FlagScale's patches for a device as readable patch sets, one for each component.

    Both layouts are read: a mail-format patch for each commit, and a patch for each file with
    diff.yaml and patch_history.yaml. What is encrypted cannot be read, and is named.

    \b
      flagdeploy patch import ~/FlagScale --device Cambricon_MLU --task inference --backend vllm
      flagdeploy patch import ~/FlagScale --device cambricon_MLU --commit 57637057
    """
    from flagdeploy.workflows import patch as workflow

    out.json = json
    done = workflow.import_sets(
        checkout,
        device,
        task=task,
        backends=backend or [],
        commit=commit,
        out=to,
        workspace=workspace,
    )
    out.result("\n".join(one.text() for one in done), [vars(one) for one in done])
