"""Repositories on the Hugging Face Hub or a mirror: resolve a revision, download its files.

huggingface_hub does the transfers (resume, retries, Xet); this module adds what a user is told.
Its import costs a third of a second, so it happens on first use.
"""

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from flagdeploy.checkpoint.folder import explained
from flagdeploy.config.secret import Secret
from flagdeploy.errors import CheckpointError, FlagdeployError, UsageError

Kind = Literal["model", "dataset"]
_METADATA_TIMEOUT = 30.0
_WORDS: dict[Kind, str] = {"model": "model", "dataset": "data set"}
_INCOMPLETE = ".cache/huggingface/download"


@dataclass(frozen=True)
class HubFile:
    """`size` in bytes; `digest` is SHA-256 (64 hex digits) or git's blob id (40)."""

    size: int
    digest: str


@dataclass(frozen=True)
class Snapshot:
    """The files of `repository` at `commit`, to which the asked-for revision was resolved."""

    repository: str
    commit: str
    files: Mapping[str, HubFile]
    kind: Kind = "model"


def resolve(
    repository: str,
    revision: str | None,
    endpoint: str | None,
    token: Secret | None,
    kind: Kind = "model",
) -> Snapshot:
    """Ask the hub what `revision` (a branch, tag or commit; default: the main branch) is now.

    `endpoint` defaults to $HF_ENDPOINT, `token` to $HF_TOKEN. Raises UsageError for a name that
    cannot be one, CheckpointError when the hub does not answer or does not give the repository.
    """
    from huggingface_hub import HfApi

    with _hub_explained(repository, revision, endpoint, kind):
        api = HfApi(endpoint=endpoint, token=token.reveal() if token else None)
        ask = api.dataset_info if kind == "dataset" else api.model_info
        info = ask(repository, revision=revision, files_metadata=True, timeout=_METADATA_TIMEOUT)
    files = {
        file.rfilename: HubFile(file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in info.siblings or ()
    }
    return Snapshot(repository, str(info.sha), files, kind)


def download(
    snapshot: Snapshot,
    names: Sequence[str],
    folder: Path,
    endpoint: str | None,
    token: Secret | None,
) -> None:
    """Fetch the named files of a snapshot into `folder`; what is there already is kept, a file
    that was begun is continued. Raises CheckpointError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class Quiet(tqdm):
        """Progress is read from the disk instead, see `bytes_present`."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

    with (
        explained(f"cannot write {folder}"),
        _hub_explained(snapshot.repository, snapshot.commit, endpoint, snapshot.kind),
    ):
        snapshot_download(
            snapshot.repository,
            repo_type=snapshot.kind,
            revision=snapshot.commit,
            local_dir=folder,
            allow_patterns=[glob.escape(name) for name in names],
            endpoint=endpoint,
            token=token.reveal() if token else None,
            tqdm_class=Quiet,
        )


def bytes_present(folder: Path, sizes: Mapping[str, int]) -> int:
    """Bytes of the named files on disk, finished or begun."""
    present = 0
    for name, size in sizes.items():
        path = folder / name
        if path.is_file():
            present += min(size, path.stat().st_size)
    for path in (folder / _INCOMPLETE).rglob("*.incomplete"):
        try:
            # Allocated, not apparent: parts may be written out of order into a sparse file.
            present += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return min(present, sum(sizes.values()))


@contextmanager
def _hub_explained(
    repository: str, revision: str | None, endpoint: str | None, kind: Kind
) -> Iterator[None]:
    """Turn huggingface_hub's exceptions into ours; their texts may quote signed addresses."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The HTTP library differs between versions of huggingface_hub; its base error does not.
    network_errors = cast(type[Exception], HfHubHTTPError.__bases__[0])
    try:
        yield
    except HFValidationError:
        raise UsageError(
            f"`{repository}` is no repository name (OWNER/NAME) and no folder here",
            "name a model of the hub, or a folder that exists",
        ) from None
    except FlagdeployError:
        raise
    except (OSError, network_errors) as error:
        raise _explain(error, repository, revision, _address(endpoint), kind) from error


def _explain(
    error: BaseException, repository: str, revision: str | None, address: str, kind: Kind
) -> Exception:
    from huggingface_hub import errors

    folder = "datasets/" if kind == "dataset" else ""
    # A lost connection can arrive wrapped in "not found locally".
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return _explain(error.__cause__, repository, revision, address, kind)
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{repository}: is gated: {address} gives it only to those who accepted its terms",
            f"accept them at https://huggingface.co/{folder}{repository}, then set HF_TOKEN",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{repository}: has no revision {revision} on {address}",
            "give a branch, a tag or a full commit id with --revision",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"{repository}: no such {_WORDS[kind]} on {address}, or not for you",
            f"check the name; for a private {_WORDS[kind]} set HF_TOKEN",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return CheckpointError(
            f"{repository}: cannot be asked for: HF_HUB_OFFLINE is set",
            "unset it, or pull a folder",
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        hint = "check HF_TOKEN" if status in (401, 403) else "try again later; what is here is kept"
        return CheckpointError(f"{repository}: {address} answered HTTP {status}", hint)
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return error  # the disk's, not the network's
    if isinstance(error, OSError) and "Consistency check" in str(error):
        return CheckpointError(
            f"{repository}: {address} sent a file of another size than it announced",
            "try again; if it stays so, use another mirror",
        )
    return CheckpointError(
        f"{repository}: {address} cannot be reached: {type(error).__name__}",
        "check the network and proxy, or name a mirror with --endpoint or HF_ENDPOINT; "
        "what was fetched is kept",
    )


def _address(endpoint: str | None) -> str:
    """The hub's address for messages, without credentials."""
    from huggingface_hub import constants

    parts = urlsplit(endpoint or constants.ENDPOINT)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
