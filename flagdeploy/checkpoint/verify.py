"""Is a checkpoint folder whole? Every shard against the index, its own header and known hashes."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagdeploy.checkpoint.folder import inside, list_files, read_json
from flagdeploy.checkpoint.index import SINGLE, Index, read_index
from flagdeploy.checkpoint.safetensors_file import Header, read_header
from flagdeploy.errors import CheckpointError

TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("spiece.model", "vocab.json"),
)


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a file, or with one `tensor` of it. `kind` says which:

    missing, torn, header, unreadable, unfinished, side file; swapped (what belongs elsewhere),
    foreign (of another revision), duplicate, changed (other bytes than recorded); scale (does not
    fit its weight), not finite (NaN, infinities); against a source: shape, differs, extra.
    """

    file: str
    kind: str
    what: str
    tensor: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.kind, self.tensor, self.what)))


@dataclass(frozen=True)
class Verification:
    """What reading every header of a checkpoint told; `findings` is empty when it is whole.

    `headers` holds those that could be read, by shard; `notes` are oddities no engine minds.
    """

    index: Index
    headers: Mapping[str, Header]
    config: Mapping[str, Any]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def data_bytes(self) -> int:
        return sum(header.data_bytes for header in self.headers.values())

    @property
    def tensors(self) -> int:
        return sum(len(header.tensors) for header in self.headers.values())

    def require(self) -> "Verification":
        """This verification if the checkpoint is whole; else CheckpointError with all findings."""
        hint = "flagdeploy pull fetches the missing and replaces the bad files"
        raise_findings(self.index.folder, self.findings, hint)
        return self

    def __str__(self) -> str:
        state = "whole" if self.ok else f"{len(self.findings)} problem(s)"
        return (
            f"{self.index.folder}: {len(self.index.shards)} shard(s), {self.tensors} tensors, "
            f"{self.data_bytes} bytes: {state}"
        )


def verify(folder: Path) -> Verification:
    """Verify a checkpoint folder, reading only its index, headers and config.

    Raises CheckpointError when there is no index to verify against; everything else that is wrong
    with a shard or a side file becomes a Finding that names it.
    """
    index = read_index(folder)
    headers: dict[str, Header] = {}
    findings: list[Finding] = []
    for shard in index.shards:
        path = inside(folder, shard)
        if not path.is_file():
            findings.append(Finding(shard, "missing", "the index names it, the folder lacks it"))
            continue
        try:
            headers[shard] = read_header(path)
        except CheckpointError as error:
            what = str(error).removeprefix(f"{path}: ")
            kind = "torn" if what.startswith("torn: ") else "header"
            findings.append(Finding(shard, kind, what.removeprefix("torn: ")))
    findings += compare_names(index, headers)
    config, side_findings = _side_files(folder)
    findings += side_findings
    findings += _strangers(folder, index)
    return Verification(index, headers, config, tuple(findings), _notes(index, headers))


def raise_findings(
    folder: Path, findings: Sequence[Finding], hint: str, of: str = "checkpoint"
) -> None:
    """Raise CheckpointError with all findings `of` something, if there are any."""
    if findings:
        lines = "\n  ".join(str(finding) for finding in findings)
        what = f"{len(findings)} problem(s) in the {of}"
        raise CheckpointError(f"{folder}: {what}:\n  {lines}", hint)


def compare_names(index: Index, headers: Mapping[str, Header]) -> list[Finding]:
    """Compare the tensor names each header holds with those the index assigns to its shard."""
    counts = Counter(index.weight_map.values())
    homes = index.weight_map.get
    if all(
        len(header.tensors) == counts[shard] and {*map(homes, header.tensors)} == {shard}
        for shard, header in headers.items()
    ):
        return []
    expected: dict[str, set[str]] = {shard: set() for shard in index.shards}
    for name, shard in index.weight_map.items():
        expected[shard].add(name)
    findings = []
    for shard, header in headers.items():
        held = header.tensors.keys()
        if held == expected[shard]:
            continue
        twin = next((other for other, names in expected.items() if names == held), None)
        if twin:
            findings.append(Finding(shard, "swapped", f"holds the tensors of {twin}"))
            continue
        if lacking := expected[shard] - held:
            findings.append(Finding(shard, "foreign", f"lacks {_few(lacking)}"))
        for name in sorted(held - expected[shard]):
            home = index.weight_map.get(name)
            kind, what = ("duplicate", f"which belongs to {home}") if home else ("foreign", "")
            findings.append(Finding(shard, kind, f"holds {name} {what or 'unknown to the index'}"))
            if not home:
                break
    return findings


def _side_files(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    findings = []
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        try:
            config = read_json(inside(folder, "config.json"))
        except CheckpointError as error:
            findings.append(Finding("config.json", "side file", str(error)))
    else:
        findings.append(Finding("config.json", "missing", "no engine loads without it"))
    return config, findings


def _strangers(folder: Path, index: Index) -> list[Finding]:
    """Shards the index does not know, which an engine that loads ``*.safetensors`` would read."""
    if index.shards == (SINGLE,):
        return []
    return [
        Finding(name, "foreign", "a shard of another revision: the index does not name it")
        for name in list_files(folder)
        if name.startswith("model-") and name.endswith(".safetensors") and name not in index.shards
    ]


def _notes(index: Index, headers: Mapping[str, Header]) -> tuple[str, ...]:
    notes = []
    found = sum(header.data_bytes for header in headers.values())
    if index.total_size not in (None, found):
        stated = f"the index states total_size {index.total_size}"
        notes.append(f"{stated}, the shards hold {found} bytes")
    if not any((index.folder / name).is_file() for name in TOKENIZERS):
        notes.append(f"there is no tokenizer: none of {', '.join(TOKENIZERS)}")
    return tuple(notes)


def _few(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    return f"{first} and {len(rest)} more" if rest else first
