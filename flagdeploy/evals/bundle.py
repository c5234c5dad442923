"""A baseline bundle: everything a later comparison needs of an endpoint that may be gone by then.

One gzip file of JSON lines. The first is the manifest (`BUNDLE_FORMAT`, endpoint facts, what it
makes of the parameters of a request, deployment, checkpoint, repeats and noise floor), then one
line per parity prompt, question with its answer, and scored passage, each with its `kind`. The
same content gives the same bytes.

Format 1 had no parameters, no repeats one by one, no mode D, and wrote log-probabilities as
decimals; it is read still.
"""

import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from flagdeploy.errors import EvalError
from flagdeploy.evals.answers import Answer
from flagdeploy.evals.items import Item
from flagdeploy.evals.packing import pack, pack_beside, unpack, unpack_beside
from flagdeploy.evals.parity import Prompt
from flagdeploy.evals.teacher_forcing import Passage

BUNDLE_FORMAT = "flagdeploy-baseline/2"
READ = (BUNDLE_FORMAT, "flagdeploy-baseline/1")
SUFFIX = ".jsonl.gz"
WHOLE_FILES = 2**30  # bytes of checkpoint up to which every file is hashed from end to end


@dataclass(frozen=True)
class Bundle:
    """`answers[i]` belongs to `items[i]`; `margins_pp` per benchmark, None for the default."""

    name: str
    manifest: Mapping[str, Any]
    prompts: tuple[Prompt, ...]
    items: tuple[Item, ...]
    answers: tuple[Answer, ...]
    passages: tuple[Passage, ...]

    @property
    def margins_pp(self) -> dict[str, float | None]:
        return {row["name"]: row.get("margin_pp") for row in self.manifest["benchmarks"]}

    def with_margin(self, points: float) -> "Bundle":
        """This bundle with `points` as the margin of every benchmark."""
        rows = [{**row, "margin_pp": points} for row in self.manifest["benchmarks"]]
        return replace(self, manifest={**self.manifest, "benchmarks": rows})

    @property
    def noise_floor(self) -> Mapping[str, Any]:
        """Baseline against itself at another concurrency; empty when it was recorded once."""
        return self.manifest.get("noise_floor") or {}

    def floor_of(self, mode: str) -> Mapping[str, Any]:
        """`noise_floor` with the figures of teacher forcing in `mode`."""
        floor = self.noise_floor
        return {**floor, **floor["decoded"]} if mode == "D" and "decoded" in floor else floor


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write atomically: `path` holds the old bundle or the whole new one, never a part."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as out:
        for row in _rows(bundle):
            # default=str: a Secret in the deployment prints as ***, a Path as its text
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)
            out.write(line.encode() + b"\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _rows(bundle: Bundle) -> Iterator[dict[str, Any]]:
    yield {"kind": "manifest", **bundle.manifest, "format": BUNDLE_FORMAT}
    for prompt in bundle.prompts:
        yield {"kind": "prompt", **asdict(prompt)}
    for item, answer in zip(bundle.items, bundle.answers, strict=True):
        brief = {
            key: value
            for key, value in asdict(answer).items()
            if key not in ("item", "task", "gold", "prompt_token_ids", "token_ids")
        }
        yield {"kind": "answer", "item": asdict(item), "answer": brief}
    for passage in bundle.passages:
        yield _passage_row(passage)


def _passage_row(passage: Passage) -> dict[str, Any]:
    row = {
        "kind": "passage",
        "key": passage.key,
        "task": passage.task,
        "prompt": passage.prompt,
        "continuation": passage.continuation,
        "mode": passage.mode,
        "positions": pack(passage.positions),
    }
    if passage.decoded:
        row["decoded"] = pack_beside(passage.decoded, passage.positions)
    return row


def read_bundle(path: Path) -> Bundle:
    """Raise EvalError when `path` is torn, is no bundle, or one of a format we do not know."""
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines()
        rows = [json.loads(line) for line in lines]
    except (OSError, EOFError, ValueError) as error:
        raise EvalError(f"{path}: not a readable baseline bundle: {error}") from None
    if not rows or rows[0].get("format") not in READ:
        found = rows[0].get("format") if rows else "nothing"
        raise EvalError(f"{path}: expected a bundle of format {BUNDLE_FORMAT}, found {found}")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row.pop("kind"), []).append(row)
    items = tuple(_item(row["item"]) for row in kinds.get("answer", []))
    return Bundle(
        name=path.name.removesuffix(SUFFIX),
        manifest=kinds["manifest"][0],
        prompts=tuple(_prompt(row) for row in kinds.get("prompt", [])),
        items=items,
        answers=tuple(
            _answer(item, row["answer"])
            for item, row in zip(items, kinds.get("answer", []), strict=True)
        ),
        passages=tuple(_passage(row) for row in kinds.get("passage", [])),
    )


def _prompt(row: dict[str, Any]) -> Prompt:
    ids = row["token_ids"]
    return Prompt(
        row["name"],
        tuple(row["messages"]),
        row["prompt_tokens"],
        None if ids is None else tuple(ids),
        row["error"],
    )


def _item(row: dict[str, Any]) -> Item:
    return Item(**{**row, "messages": tuple(row["messages"])})


def _answer(item: Item, row: dict[str, Any]) -> Answer:
    known = {field.name for field in fields(Answer)}
    given = {key: row[key] for key in row.keys() & known}
    return Answer(**given, item=item.key, task=item.task, gold=item.gold)


def _passage(row: dict[str, Any]) -> Passage:
    packed, decoded = row["positions"], row.get("decoded")
    return Passage(
        row["key"],
        row["task"],
        tuple(row["prompt"]),
        tuple(row["continuation"]),
        unpack(packed),
        row.get("mode", "S"),
        unpack_beside(decoded, packed) if decoded else (),
    )


def fingerprint(folder: Path) -> dict[str, Any]:
    """A checkpoint's identity: sha256 per file and one over all of them.

    Beyond 1 GiB in total only small files are read; of the others name and size count, and
    `whole` is false.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    whole = sum(path.stat().st_size for path in files) <= WHOLE_FILES
    hashes = {}
    for path in files:
        size = path.stat().st_size
        read = whole or size <= 2**20
        hashes[path.name] = sha256(path) if read else f"{size} bytes"
    joined = "\n".join(f"{name} {value}" for name, value in hashes.items())
    return {
        "sha256": hashlib.sha256(joined.encode()).hexdigest(),
        "whole": whole,
        "files": hashes,
    }


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of plain data, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
