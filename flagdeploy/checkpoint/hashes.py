"""Hashes of whole files, SHA-256 or git's blob id, compared with what a source states."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flagdeploy.checkpoint.folder import inside
from flagdeploy.checkpoint.verify import Finding

_CHUNK = 4 << 20


def file_digest(path: Path, algorithm: str, progress: Callable[[int], None]) -> str:
    """SHA-256 of a file, or for ``git`` its blob id: SHA-1 of ``blob SIZE\\0`` and the content.

    `progress` gets the number of bytes just read.
    """
    digest = hashlib.sha256()
    if algorithm == "git":
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            progress(len(chunk))
    return digest.hexdigest()


def check_hashes(
    folder: Path, known: Mapping[str, str], progress: Callable[[int], None], workers: int
) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """Compare files with their known digests (64 hex digits: SHA-256, 40: git's blob id).

    Returns the SHA-256 of every file, and a Finding for each that is missing or differs. `progress`
    gets the number of bytes just read, one call at a time.
    """
    lock = threading.Lock()

    def counted(count: int) -> None:
        with lock:
            progress(count)

    def check(name: str) -> tuple[str, Finding | None]:
        path, expected = inside(folder, name), known[name]
        if not path.is_file():
            return "", Finding(name, "missing", "the source has it, the folder lacks it")
        sha256 = file_digest(path, "sha256", counted)
        found = sha256 if len(expected) == 64 else file_digest(path, "git", lambda count: None)
        if found == expected:
            return sha256, None
        what = f"hash {found[:12]}… is not {expected[:12]}… of the source"
        return sha256, Finding(name, "changed", what)

    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        results = dict(zip(known, pool.map(check, known), strict=True))
    hashes = {name: sha256 for name, (sha256, _) in results.items()}
    return hashes, tuple(finding for _, finding in results.values() if finding)
