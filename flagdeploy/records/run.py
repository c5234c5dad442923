"""One run on disk: ``runs/<id>/`` with config.yaml, plan.json, events.jsonl, result.json, logs/.

The folder is the user's alone (0700, files 0600), every file appears whole or not at all, and no
secret gets in: text passes through the run's mask first.
"""

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flagdeploy.config.secret import Secret
from flagdeploy.records.events import Event
from flagdeploy.records.files import append_private, write_private
from flagdeploy.records.mask import Mask

_ID = re.compile(r"\d{8}T\d{6}Z-(?P<name>.+)-[0-9a-f]{4}")


class Run:
    """The record of one workflow on one deployment; safe for threads."""

    def __init__(self, folder: Path, secrets: Iterable[Secret] = ()) -> None:
        self.folder = folder
        self.mask = Mask(secrets)

    @classmethod
    def create(cls, root: Path, name: str, secret_values: Iterable[Secret] = ()) -> "Run":
        """A new folder under `root`: UTC time, deployment, four hexadecimal digits."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        folder = root / f"{moment}-{name}-{secrets.token_hex(2)}"
        folder.mkdir(parents=True, mode=0o700)
        return cls(folder, secret_values)

    @property
    def id(self) -> str:
        return self.folder.name

    def write(self, name: str, text: str) -> None:
        """Write a file of the run, e.g. config.yaml; replaces it as a whole."""
        path = self.folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(path, self.mask(text).encode())

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def event(self, event: Event) -> None:
        """Append to events.jsonl: the event's fields that are set, and the time in UTC."""
        fields = {key: value for key, value in asdict(event).items() if value not in (None, "")}
        line = json.dumps({"time": datetime.now(UTC).isoformat(), **fields}, ensure_ascii=False)
        append_private(self.folder / "events.jsonl", (self.mask(line) + "\n").encode())

    def log(self, rank: int, text: str) -> None:
        """Keep the log of a rank whose container is about to go."""
        self.write(f"logs/rank{rank}.log", text)

    def logs(self) -> dict[int, Path]:
        """Logs kept by `log`, by rank."""
        found = (self.folder / "logs").glob("rank*.log")
        return dict(sorted((int(p.stem.removeprefix("rank")), p) for p in found))


def runs(root: Path, name: str | None = None) -> list[Path]:
    """Folders of the runs of deployment `name` (of all: None), oldest first."""
    if not root.is_dir():
        return []
    matches = ((path, _ID.fullmatch(path.name)) for path in root.iterdir())
    return sorted(path for path, match in matches if match and name in (None, match["name"]))


def latest(root: Path, name: str | None = None) -> Run | None:
    """The newest run of deployment `name`, None before the first."""
    found = runs(root, name)
    return Run(found[-1]) if found else None
