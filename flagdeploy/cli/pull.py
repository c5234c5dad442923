"""`flagdeploy pull`."""

from pathlib import Path
from typing import Annotated

import typer

from flagdeploy.cli import complete, options
from flagdeploy.cli.output import out
from flagdeploy.errors import UsageError


def pull(
    name: options.Name = None,
    ckpt: Annotated[
        str | None,
        typer.Option(
            "--ckpt",
            metavar="REPO_OR_PATH",
            help="Repository of the hub (OWNER/NAME) or a local folder. "
            "Default: the repository of the deployment.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="R", help="Branch, tag or commit; pinned to a commit."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DIR",
            help="Target folder. Default: the deployment's, else models/NAME of the workspace; "
            "a local folder is only verified in place.",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="Mirror of the hub. Default: $HF_ENDPOINT."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="REF",
            help="Pull this container image on every host of the inventory, or of NAME.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME|list",
            help="Fetch this public test set instead, into --to or data/NAME of the workspace.",
            autocompletion=complete.datasets,
        ),
    ] = None,
    hosts: options.Hosts = None,
    dry_run: options.DryRun = False,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a checkpoint, or a test set, and verify every file of it.

    The revision is pinned to a commit, an interrupted pull goes on where it was, and every shard is
    checked against the index, its own header and the hub's hash. A token is taken from $HF_TOKEN.

    \b
      flagdeploy pull --ckpt deepseek-ai/DeepSeek-R1
      flagdeploy pull --ckpt deepseek-ai/DeepSeek-R1 --endpoint https://hf-mirror.com
      flagdeploy pull --ckpt /data/DeepSeek-R1                  verify it where it is
      flagdeploy pull --ckpt /data/DeepSeek-R1 --to /nvme/R1    copy it, then verify
      flagdeploy pull --dataset list                            public test sets
      flagdeploy pull --dataset gpqa_diamond                    gated: HF_TOKEN has accepted it
      flagdeploy pull --image vllm/vllm-openai:v0.20.2 --hosts hosts.txt
    """
    from flagdeploy.config.workspace import default_deployment, find
    from flagdeploy.workflows.pull import pull as workflow

    out.json, out.quiet = json, quiet
    if image:
        _image(image, name, hosts, workspace)
        return
    if dataset:
        _datasets(dataset, to, endpoint, workspace, dry_run)
        return
    root = find(workspace)
    if ckpt is None:
        name = name or default_deployment(root)
        ckpt, pinned = _repository(name, root)
        revision = revision or pinned
    to = to or _folder(name, ckpt, root)
    with out.progress() as report:
        done = workflow(ckpt, revision, to, endpoint=endpoint, dry_run=dry_run, report=report)
    for note in done.verification.notes if done.verification else ():
        out.note(f"note: {note}")
    out.result(str(done), done.to_dict())


def _datasets(
    names: str, to: str | None, endpoint: str | None, workspace: str | None, dry_run: bool
) -> None:
    from flagdeploy.workflows import pull_dataset as workflow

    if names == "list":
        rows = workflow.listing()
        lines = [f"{r['name']:<20} {r['rows']:>6}  {r['title']} ({r['licence']})" for r in rows]
        out.result("\n".join(lines), rows)
        return
    wanted = options.split(names)
    if to and len(wanted) > 1:
        raise UsageError(f"--to {to}: each data set has a folder of its own", "pull one at a time")
    for name in wanted:
        with out.progress() as report:
            pulled = workflow.pull_dataset(
                name,
                Path(to) if to else None,
                endpoint=endpoint,
                workspace=workspace,
                dry_run=dry_run,
                report=report,
            )
        out.result(str(pulled), pulled.to_dict())


def _image(image: str, name: str | None, hosts: str | None, workspace: str | None) -> None:
    from flagdeploy.workflows.images import pull_image

    with out.progress() as report:
        pulled = pull_image(image, name, hosts=hosts, workspace=workspace, report=report)
    out.result(pulled.text(), pulled.to_dict())


def _repository(name: str | None, root: Path) -> tuple[str, str | None]:
    from flagdeploy.workflows import resolve

    return resolve.repository_of(name, root)


def _folder(name: str | None, source: str, root: Path) -> str | None:
    """Where the checkpoint goes when `--to` does not say; None leaves a folder where it is."""
    from flagdeploy.config.workspace import writable_folder
    from flagdeploy.workflows.pull import is_local

    if name:
        from flagdeploy.workflows import resolve

        return str(resolve.checkpoint_of(name, root))
    if is_local(source):
        return None
    return str(writable_folder(root) / "models" / source.rpartition("/")[2])
