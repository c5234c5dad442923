"""Read whole files once: their hashes against what a source states, their values for NaN."""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagdeploy.checkpoint.folder import inside
from flagdeploy.checkpoint.safetensors_file import Header, Tensor
from flagdeploy.checkpoint.verify import Finding

if TYPE_CHECKING:
    from flagdeploy.checkpoint.nonfinite import NotFinite

# A multiple of every element's size; one per thread is in memory.
_CHUNK = 2 << 20

Progress = Callable[[int], None]


def file_digest(path: Path, algorithm: str, progress: Progress) -> str:
    """SHA-256 of a file, or for ``git`` its blob id: SHA-1 of ``blob SIZE\\0`` and the content.

    `progress` gets the number of bytes just read.
    """
    digest = hashlib.sha256()
    if algorithm == "git":
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    _read(path, digest, None, progress)
    return digest.hexdigest()


def check_hashes(
    folder: Path, known: Mapping[str, str], progress: Progress, workers: int
) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """Compare files with their known digests (64 hex digits: SHA-256, 40: git's blob id).

    Returns the SHA-256 of every file, and a Finding for each that is missing or differs. `progress`
    gets the number of bytes just read, one call at a time.
    """
    return read_data(folder, known, {}, progress, workers)


def read_data(
    folder: Path,
    known: Mapping[str, str],
    headers: Mapping[str, Header],
    progress: Progress,
    workers: int,
) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """As `check_hashes`; in the same reading, the tensors of the shards in `headers` are searched
    for NaN and infinities, and each that has one is a Finding.

    A file that cannot be read is a Finding too. Memory: a chunk of 2 MiB per thread.
    """
    names = list(dict.fromkeys([*known, *headers]))
    lock, stop = threading.Lock(), threading.Event()

    def counted(count: int) -> None:
        if stop.is_set():
            raise _Stopped
        with lock:
            progress(count)

    def check(name: str) -> tuple[str, list[Finding]]:
        return _check(folder, name, known, headers.get(name), counted)

    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        try:
            results = dict(zip(names, pool.map(check, names), strict=True))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    hashes = {name: results[name][0] for name in known}
    return hashes, tuple(finding for _, found in results.values() for finding in found)


class _Stopped(Exception):
    """Another thread failed, or the user interrupted."""


def _check(
    folder: Path, name: str, known: Mapping[str, str], header: Header | None, progress: Progress
) -> tuple[str, list[Finding]]:
    path, expected = inside(folder, name), known.get(name)
    if not path.is_file():
        return "", [Finding(name, "missing", "the source has it, the folder lacks it")]
    digest = hashlib.sha256() if expected else None
    findings = []
    try:
        for tensor, bad in _read(path, digest, header, progress).items():
            findings.append(Finding(name, "not finite", bad.describe(tensor), tensor.name))
        sha256 = found = digest.hexdigest() if digest else ""
        if expected and len(expected) == 40:
            found = file_digest(path, "git", lambda count: None)
    except OSError as error:
        return "", [Finding(name, "unreadable", error.strerror or str(error))]
    if expected and found != expected:
        findings.insert(0, _mismatch(name, found, known))
    return sha256, findings


def _mismatch(name: str, found: str, known: Mapping[str, str]) -> Finding:
    twin = next((other for other, digest in known.items() if digest == found), None)
    if twin:
        return Finding(name, "swapped", f"holds what the source has as {twin}")
    what = f"hash {found[:12]}… is not {known[name][:12]}… of the source"
    return Finding(name, "changed", what)


def _read(
    path: Path, digest: Any, header: Header | None, progress: Progress
) -> "dict[Tensor, NotFinite]":
    """Read a file from start to end; returns its tensors with NaN or infinities."""
    if header is not None:
        from flagdeploy.checkpoint.nonfinite import not_finite, value_dtype  # loads NumPy
    bad: dict[Tensor, NotFinite] = {}
    for tensor, start, chunk in _chunks(path, header):
        if digest:
            digest.update(chunk)
        progress(len(chunk))
        if tensor and (found := not_finite(chunk, start, value_dtype(tensor))):
            bad[tensor] = bad[tensor] + found if tensor in bad else found
    return bad


def _chunks(path: Path, header: Header | None) -> Iterator[tuple[Tensor | None, int, memoryview]]:
    """The bytes of a file in order, with the tensor they belong to, if any, and the byte of it that
    they start at."""
    spans: list[tuple[Tensor | None, float]] = []
    if header:
        tensors = sorted(header.tensors.values(), key=lambda tensor: tensor.begin)
        spans = [(None, header.data_start), *((tensor, tensor.nbytes) for tensor in tensors)]
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        for tensor, nbytes in (*spans, (None, math.inf)):
            start = 0
            while start < nbytes:
                count = _fill(file, buffer[: int(min(_CHUNK, nbytes - start))])
                if not count:
                    break
                yield tensor, start, buffer[:count]
                start += count


def _fill(file: Any, buffer: memoryview) -> int:
    """Read until `buffer` is full or the file ends; whole elements need whole chunks."""
    done = 0
    while done < len(buffer) and (count := file.readinto(buffer[done:])):
        done += count
    return done
