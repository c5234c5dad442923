"""What a search for operators has found so far, in a file that survives whatever ends it."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flagdeploy.errors import UsageError
from flagdeploy.records.files import append_private

FILE = "trials.jsonl"
LOCK = ".lock"
ELSEWHERE = "give another --out"


class State:
    """``trials.jsonl`` in `folder`: what the trials are of, then a line for each that ended.

    `known` has the rows by name. Raises UsageError for a folder where another search runs, or one
    that holds trials of something else, or a file that is damaged.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._file = folder / FILE
        self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._lock(folder)
            self.known = {row["name"]: row for row in self._read(about)}
        except BaseException:
            self.close()
            raise

    def write(self, row: Mapping[str, Any]) -> None:
        append_private(self._file, json.dumps(row).encode() + b"\n")
        self.known[row["name"]] = dict(row)

    def close(self) -> None:
        """Let another search in; the kernel does, too, however this one ends."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"{folder}: another search runs there"
            raise UsageError(what, f"wait until it ends, or {ELSEWHERE}") from None

    def _read(self, about: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A torn last line is cut off."""
        content = self._file.read_bytes() if self._file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._file, len(whole))
        first, *rows = [
            self._row(number, line) for number, line in enumerate(whole.splitlines(), 1)
        ] or [{}]
        if first == json.loads(json.dumps(about)):
            return rows
        if any("trial" in row for row in rows):
            raise UsageError(
                f"{self._file}: holds trials of another model, probe, library or version",
                f"continue with what it was started with, or {ELSEWHERE}",
            )
        self._file.unlink(missing_ok=True)  # nothing was found out of any operator
        append_private(self._file, json.dumps(about).encode() + b"\n")
        return []

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
            wanted = {"request"} if number == 1 else {"name", "verdict"}
            if wanted <= row.keys():
                return dict(row)
        except (ValueError, AttributeError):
            pass
        hint = f"delete that line, and its trial is made again; or {ELSEWHERE}"
        raise UsageError(f"{self._file}:{number}: is damaged", ELSEWHERE if number == 1 else hint)
