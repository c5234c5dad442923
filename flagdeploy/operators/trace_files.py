"""Trace files where an engine wrote them: list them, read pieces of them. A program of its own.

It is sent as text beside a rank (``python3 -c TEXT REQUEST``), so it imports nothing but the
standard library and runs on Python 3.9. The request is JSON with the `folder`, and for a piece the
`file` in it, its `offset` and the `length`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".json.gz")


def main(request: str) -> None:
    asked = json.loads(request)
    folder = Path(asked["folder"])
    if "file" in asked:
        sys.stdout.buffer.write(piece(folder, asked["file"], asked["offset"], asked["length"]))
    else:
        json.dump({"now": time.time(), "files": files(folder)}, sys.stdout)


def files(folder: Path) -> dict[str, Any]:
    """The size in bytes of every trace in or below `folder`; links are not followed."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            if name.endswith(SUFFIXES) and not name.startswith(".") and not path.is_symlink():
                found[str(path.relative_to(folder))] = path.stat().st_size
    return found


def piece(folder: Path, name: str, offset: int, length: int) -> bytes:
    path = (folder / name).resolve()
    if folder.resolve() not in path.parents:
        raise SystemExit(f"{name} leads out of {folder}")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


if __name__ == "__main__":
    main(sys.argv[1])
