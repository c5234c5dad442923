"""Feed the readers of safetensors headers and indexes files that lie, for as long as asked.

    python tests/soak/header_fuzz.py [--seconds 3600] [--seed 0]

Each file is either read or refused. What is read must keep every promise of a Header or Index,
judged here from the file's bytes with the plain json module; a refusal is a CheckpointError that
begins with the file's name and fits on a line of any terminal. Nothing else may be raised, nothing
written, no more memory taken than 40 times the header's text (which is limited) and 1 MB, no more
time than 1 s and 2 s per MB. The safetensors library reads the same files; where it and
flagdeploy do not agree is counted by reason.
"""

import argparse
import hashlib
import json
import math
import os
import re
import resource
import sys
import tempfile
import time
import traceback
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import safetensors

sys.path.insert(0, str(Path(__file__).parents[1]))
from soak.hostile_headers import Case, header_case, index_case, large_case

from flagdeploy.checkpoint import strict_json
from flagdeploy.checkpoint.index import INDEX, SINGLE, Index, read_index
from flagdeploy.checkpoint.safetensors_file import MAX_HEADER_BYTES, Header, read_header
from flagdeploy.errors import CheckpointError

LIMIT = 3 << 30
MAPPED = 1 << 30
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "C64": 64, "BF16": 16}


class Broken(AssertionError):
    """A promise that was not kept."""


def check(kept: bool, promise: str) -> None:
    if not kept:
        raise Broken(promise)


@dataclass
class Results:
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    only_here: Counter[str] = field(default_factory=Counter)
    only_safetensors: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    slow: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")

    @property
    def cases(self) -> int:
        return self.read + self.refused.total()


class Members(list[tuple[str, Any]]):
    """A JSON object with all its members, the repeated ones too."""

    def unique(self) -> dict[str, Any]:
        check(len({name for name, _ in self}) == len(self), "no key occurs twice")
        return dict(self)


def plainly(raw: bytes) -> Any:
    """JSON read by the plain parser; every object is Members."""

    def never(name: str) -> Any:
        raise Broken(f"{name} is no number")

    return json.loads(raw.decode(), object_pairs_hook=Members, parse_constant=never)


def judge_header(header: Header, case: Case) -> None:
    length = int.from_bytes(case.content[:8], "little")
    raw = case.content[8 : 8 + length]
    check(len(raw) == length <= MAX_HEADER_BYTES, "the header lies in the file, within the limit")
    check(header.data_start == 8 + length, "data begins after the header")
    check(header.file_bytes == header.data_start + header.data_bytes == case.size, "size")
    check(header.sha256 == hashlib.sha256(raw).hexdigest(), "sha256")
    entries = plainly(raw).unique()
    metadata = entries.pop("__metadata__", Members()).unique()
    check(dict(header.metadata) == metadata, "metadata")
    check(all(type(text) is str for text in metadata.values()), "metadata are strings")
    check(list(header.tensors) == list(entries), "every tensor of the header, in its order")
    end = 0
    for tensor in sorted(header.tensors.values(), key=lambda t: (t.begin, t.end)):
        entry = entries[tensor.name].unique()
        stated = tensor.dtype, [*tensor.shape], [tensor.begin, tensor.end]
        check((entry["dtype"], entry["shape"], entry["data_offsets"]) == stated, "as stated")
        numbers = *tensor.shape, tensor.begin, tensor.end
        check(all(type(n) is int and 0 <= n < 1 << 63 for n in numbers), "natural numbers")
        check(tensor.begin == end, "tensors are disjoint and leave no gap")
        match = re.search(r"\d+", tensor.dtype)
        bits = BITS.get(tensor.dtype) or int(match[0] if match else 0)
        check(tensor.nbytes * 8 == math.prod(tensor.shape) * bits, "shape and dtype give the size")
        check(tensor.name.isprintable() and 0 < len(tensor.name) <= 1024, "name")
        end = tensor.end
    check(end == header.data_bytes, "tensors cover the data")


def judge_index(index: Index, case: Case, folder: Path) -> None:
    content = plainly(case.content).unique()
    stated = content["weight_map"].unique()
    check(dict(index.weight_map) == stated and len(stated) > 0, "weight_map")
    check(index.shards == tuple(sorted(set(stated.values()))), "shards")
    for name in stated:
        check(name.isprintable(), "names of tensors fit on a line")
    for shard in index.shards:
        where = os.path.realpath(folder / shard)
        check(os.path.commonpath([where, folder]) == str(folder), "shards lie in the folder")
        check(".." not in Path(shard).parts and shard.isprintable(), "names of shards are sane")
    check(index.total_size is None or type(index.total_size) is int, "total_size")


def judge_text(raw: bytes) -> None:
    """Texts that strict_json parses are UTF-8 JSON that all parsers read alike."""
    try:
        value = strict_json.parse(raw)
    except ValueError as error:
        check(str(error).isprintable(), "a refusal fits on a line")
        return
    check(json.loads(raw.decode()) == value, "parsed as others do")
    json.dumps(value, ensure_ascii=False).encode()


def refusal(error: CheckpointError, folder: Path) -> str:
    """The reason of a refusal without what differs from file to file."""
    text = str(error)
    check(text.startswith(str(folder)), "a refusal names the file")
    check(text.isprintable() and len(text) < 4000, "a refusal fits on a line")
    return reason(text.removeprefix(str(folder)).removeprefix(f"/{SINGLE}: "))


def reason(text: str) -> str:
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'..'", text)
    text = re.sub(r"tensor \S+ ", "tensor .. ", text)
    text = re.sub(r"\[.*\]|\(.*\)", "[..]", text)
    return re.sub(r"-?\d+", "0", text)[:90]


def theirs(path: Path, here: Header | None) -> str | None:
    """What the safetensors library says against a file; None when it reads it."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            if here:
                check(names == sorted(here.tensors), "both read the same names")
                for name in names[:50]:
                    piece = file.get_slice(name)
                    found = piece.get_dtype(), tuple(piece.get_shape())
                    check(found == here.tensors[name][1:3], "both read the same tensors")
    except (safetensors.SafetensorError, OSError, UnicodeError) as error:
        return reason(str(error))
    return None


def one(case: Case, folder: Path, random: Random, results: Results) -> None:
    index = case.done[:1] == ["index"]
    path = folder / (INDEX if index else SINGLE)
    with path.open("wb") as file:
        file.write(case.content)
        file.truncate(case.size)
    before = sorted(folder.iterdir()), path.stat().st_mtime_ns
    found, header, why = None, None, None
    tracemalloc.start()
    began = time.thread_time()
    try:
        if index or random.random() < 0.05:
            found = read_index(folder)
        else:
            header = read_header(path)
    except CheckpointError as error:
        why = refusal(error, folder)
    finally:
        seconds = time.thread_time() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    title = " + ".join(case.done) or "valid"
    results.slowest = max(results.slowest, (seconds, title))
    results.largest = max(results.largest, (peak, title))
    text = case.content if index else case.content[8:]
    claimed = int.from_bytes(case.content[:8], "little")
    # What is read: all of an index, of a header what it claims within the limit and the file.
    size = len(text) if index else claimed * (claimed <= min(MAX_HEADER_BYTES, case.size - 8))
    check(peak < (1 << 20) + 40 * size, f"memory is bounded: {peak} for {size}")
    if seconds > 1 + 2e-6 * size:
        results.slow[title] += 1
    judge_text(text)
    check((sorted(folder.iterdir()), path.stat().st_mtime_ns) == before, "nothing is written")
    if why:
        results.refused[why] += 1
    else:
        results.read += 1
    if found and index:
        judge_index(found, case, folder)
    elif found:
        header = read_header(path)
        check(found.weight_map == dict.fromkeys(header.tensors, SINGLE), "index of one file")
    if header:
        judge_header(header, case)
    if not index and case.size < MAPPED:
        other = theirs(path, header)
        if why is None and other is not None:
            results.only_here[other] += 1
        elif why is not None and other is None:
            results.only_safetensors[why] += 1
    path.unlink()


def fuzz(
    seed: int, seconds: float = math.inf, cases: float = math.inf, within: Path | None = None
) -> Results:
    """Run cases for a time or a number of them, with files in a folder `within` this one; returns
    what happened."""
    results = Results()
    random = Random(seed)
    stop = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(dir=within) as name:
        folder = Path(name).resolve() / "model"
        (folder / "folder").mkdir(parents=True)
        (folder / "link").symlink_to("/etc/passwd")
        (folder / "loop").symlink_to("loop")
        while time.monotonic() < stop and results.cases + results.broken.total() < cases:
            draw = random.random()
            make = index_case if draw < 0.2 else large_case if draw > 0.999 else header_case
            case = make(random)
            try:
                one(case, folder, random, results)
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                what = f"{type(error).__name__}: {reason(str(error))} ({where})"
                if not results.broken[what]:
                    print(what, case.done, case.content[:300], flush=True)
                results.broken[what] += 1
                (folder / INDEX).unlink(missing_ok=True)
                (folder / SINGLE).unlink(missing_ok=True)
    return results


def show(title: str, reasons: Counter[str]) -> None:
    print(f"\n{reasons.total()} {title}")
    for what, count in reasons.most_common():
        print(f"  {count:8} x {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    print(f"{time.strftime('%Y-%m-%d %H:%M')}: {' '.join(sys.argv)}", flush=True)
    began = time.monotonic()
    # In memory, where there is such a place: no disk that others fill up, or that is slow.
    memory = Path("/dev/shm")
    within = memory if memory.is_dir() else None
    results = fuzz(arguments.seed, arguments.seconds, within=within)
    print(f"{results.cases} files in {time.monotonic() - began:.0f} s: {results.read} read")
    show("refused, each with the file and the reason", results.refused)
    show("read by safetensors and refused here, because", results.only_safetensors)
    show("read here and refused by safetensors, because", results.only_here)
    print(f"\nslowest: {results.slowest[0]:.3f} s of CPU: {results.slowest[1]}")
    print(f"most memory: {results.largest[0] >> 10} KB: {results.largest[1]}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak of the process: {peak >> 10} MB, limited to {LIMIT >> 20} MB of address space")
    show("took more time than 1 s and 2 s per MB", results.slow)
    show("promises broken", results.broken)
    return 1 if results.broken or results.slow else 0


if __name__ == "__main__":
    sys.exit(main())
