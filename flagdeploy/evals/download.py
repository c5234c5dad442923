"""One file of the web: in a part beside it that goes on where it was, checked, then renamed."""

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagdeploy import __version__
from flagdeploy.errors import EvalError

ATTEMPTS = 6
FIRST_PAUSE_S = 1.0
TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_LOST = (OSError, http.client.HTTPException)

Progress = Callable[[int, int | None], None]


def get_text(url: str) -> str:
    """A small text at `url`; raises EvalError as `fetch` does."""
    for attempt in range(ATTEMPTS):
        with _retried(url, attempt), _open(url, 0) as answer:
            text: str = answer.read(_CHUNK).decode()
            return text
    raise AssertionError("the last attempt raises")


def fetch(url: str, path: Path, known: str, progress: Progress) -> str:
    """Fetch `url` into `path`, whose hash must be `known`, SHA-256 or MD5; returns its SHA-256.

    A file that is there and has that hash is kept. `progress` gets the bytes there and in all, None
    while nobody knows. Raises EvalError when the server does not give it, or gives another file.
    """
    if path.is_file() and _hash(path, known) == known:
        return _hash(path, "0" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        with _retried(url, attempt):
            _continue(url, part, progress)
            break
    found = _hash(part, known)
    if found != known:
        part.unlink()
        raise EvalError(
            f"{url}: is not the file that was published: its hash is {found[:12]}..., "
            f"not {known[:12]}...",
            "it was removed; try again, or get the file elsewhere and name it with --data",
        )
    part.replace(path)
    return _hash(path, "0" * 64)


def _continue(url: str, part: Path, progress: Progress) -> None:
    start = part.stat().st_size if part.exists() else 0
    try:
        answer = _open(url, start)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to send
            return
        raise
    with answer:
        if start and answer.status != 206:
            start = 0  # the server sends it from its beginning
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if start else "wb") as file:
            done = start
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
        if total is not None and done < total:
            raise http.client.IncompleteRead(b"", total - done)


def _open(url: str, start: int) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": f"flagdeploy/{__version__}"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


@contextlib.contextmanager
def _retried(url: str, attempt: int) -> Any:
    """Swallow what may pass, after a pause; raise EvalError for what will not, or at the end."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500 and error.code not in (408, 429):
            raise EvalError(
                f"{url}: the server answers HTTP {error.code}", _hint(error.code)
            ) from None
        _pause(url, attempt, f"HTTP {error.code}")
    except _LOST as error:
        _pause(url, attempt, f"{type(error).__name__}: {error}")


def _hint(code: int) -> str:
    if code in (401, 403):
        return "it asks for a login: get the file with a browser and name it with --data"
    return "it may have moved: get the file elsewhere and name it with --data"


def _pause(url: str, attempt: int, what: str) -> None:
    if attempt + 1 == ATTEMPTS:
        raise EvalError(
            f"{url}: cannot be fetched: {what}",
            "check the network and proxy; what was fetched is kept and the next try goes on",
        ) from None
    time.sleep(FIRST_PAUSE_S * 2**attempt)


def _hash(path: Path, like: str) -> str:
    """MD5 where `like` has its 32 digits, else SHA-256."""
    algorithm = "md5" if len(like) == 32 else "sha256"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return digest.hexdigest()
