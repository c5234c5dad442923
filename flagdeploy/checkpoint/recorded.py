"""What is known about the files of a folder: sizes and hashes, written down when they came.

From ``flagdeploy.json``, which pull (sizes, SHA-256) and dequant (sizes) leave; else from
huggingface_hub: in a folder it downloaded to, ``.cache/huggingface/download/NAME.metadata`` holds
commit, hash and time; in its cache, files are links to blobs named by their hash. The hash is
SHA-256 for large files and git's blob id for small ones.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flagdeploy.checkpoint.folder import list_files, read_json
from flagdeploy.checkpoint.ownership import RECORD, UNFINISHED
from flagdeploy.checkpoint.safetensors_file import Header
from flagdeploy.checkpoint.verify import Finding

_DOWNLOADS = Path(".cache/huggingface/download")
_DIGEST = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class Recorded:
    """`by` names the record; `sizes` in bytes and `digests` by file, each where known."""

    by: str
    sizes: Mapping[str, int]
    digests: Mapping[str, str]


def recorded(folder: Path) -> Recorded:
    """Read the records of `folder`; empty when there are none. Raises CheckpointError for a
    record that cannot be read."""
    if (folder / RECORD).is_file():
        sizes, digests = {}, {}
        files = read_json(folder / RECORD).get("files")
        for name, what in files.items() if isinstance(files, dict) else ():
            # Dequant writes the size, pull size and hash.
            size = what.get("size") if isinstance(what, dict) else what
            if type(size) is int:
                sizes[name] = size
            if isinstance(what, dict) and type(what.get("sha256")) is str:
                digests[name] = what["sha256"]
        return Recorded(RECORD, sizes, _digests(digests))
    if folder.resolve().parent.name == "snapshots":
        links = {name: (folder / name).resolve().name for name in list_files(folder)}
        return Recorded("the Hugging Face cache", {}, _digests(links))
    return Recorded("huggingface_hub's download record", {}, _digests(_downloaded(folder)))


def check_recorded(
    folder: Path, known: Recorded, headers: Mapping[str, Header], bad: set[str]
) -> list[Finding]:
    """Compare sizes with what is recorded, of files but those in `bad`; `headers` are those of the
    shards that are whole by their own header."""
    findings = []
    if (folder / UNFINISHED).is_file():
        what = "a pull or dequant into this folder was interrupted; the same command ends it"
        findings.append(Finding(UNFINISHED, "unfinished", what))
    for name in sorted(known.sizes.keys() - bad):
        path, size = folder / name, known.sizes[name]
        if not path.is_file():
            findings.append(Finding(name, "missing", f"{known.by} names it, the folder lacks it"))
        elif (found := path.stat().st_size) != size:
            kind, of = ("foreign", ": of another revision") if name in headers else ("changed", "")
            what = f"has {found} bytes, {known.by} says {size}{of}"
            findings.append(Finding(name, kind, what))
    return findings


def _downloaded(folder: Path) -> dict[str, str]:
    """The second line of every record of a download."""
    etags = {}
    for path in (folder / _DOWNLOADS).rglob("*.metadata"):
        lines = path.read_text().splitlines()
        name = path.relative_to(folder / _DOWNLOADS).as_posix().removesuffix(".metadata")
        if len(lines) > 1 and (folder / name).is_file():
            etags[name] = lines[1].strip('"')
    return etags


def _digests(found: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in sorted(found.items()) if _DIGEST.fullmatch(text)}
