"""Patch sets: what a vendor changes in a component, as a folder of readable patches.

``patches/VENDOR/COMPONENT@COMMIT/`` holds them with a ``patch.yaml``::

    component: vllm
    repository: https://github.com/vllm-project/vllm
    base: b8b302cde434df8c9289a2b465406b47ebab1c2d   # the commit they were made for
    version: "0.9.1"                                 # the rest is for the reader
    device: Cambricon_MLU
    tasks: [inference]
    models: [deepseek_r1]
    patches:                                         # applied in this order
      - {file: 0001-name.patch, sha256: 9f86...}
"""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagdeploy.config import workspace, yaml_file
from flagdeploy.config.yaml_file import YamlFile
from flagdeploy.errors import ConfigError, PatchError, Problem, UsageError, did_you_mean

FILE = "patch.yaml"
_TEXTS = ("component", "repository", "base", "version", "device", "contact", "origin")
_LISTS = ("tasks", "models")
_REQUIRED = ("component", "repository", "base", "patches")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PatchFile:
    """One patch of a set; `name` is relative to the set's folder."""

    name: str
    sha256: str


@dataclass(frozen=True)
class PatchSet:
    """One ``patch.yaml``. `name` is ``VENDOR/COMPONENT@COMMIT``."""

    name: str
    folder: Path
    component: str
    repository: str
    base: str
    patches: tuple[PatchFile, ...]
    version: str = ""
    device: str = ""
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    contact: str = ""
    origin: str = ""
    """Where an imported set comes from."""

    def __str__(self) -> str:
        return self.name

    @property
    def digest(self) -> str:
        """SHA-256 of what applying it depends on: the base and the patches in their order."""
        lines = [self.base, *(patch.sha256 for patch in self.patches)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def contents(self) -> list[bytes]:
        """The patches. Raises PatchError when one is missing, a link, or not what was recorded."""
        return [self._content(patch) for patch in self.patches]

    def _content(self, patch: PatchFile) -> bytes:
        path = self.folder / patch.name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise PatchError(f"{self.name}: {patch.name} leads out of the set's folder")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PatchError(f"{self.name}: {patch.name}: {error.strerror}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != patch.sha256:
            raise PatchError(
                f"{self.name}: {patch.name} has changed: its SHA-256 is {found[:12]}..., "
                f"{FILE} says {patch.sha256[:12]}...",
                f"restore it; if the change is wanted, look at it and correct {FILE}",
            )
        return content


def folders(root: Path) -> dict[str, Path]:
    """Every patch set of the workspace by name, and those imported into its writable folder."""
    found: dict[str, Path] = {}
    for top in dict.fromkeys([root, workspace.writable_folder(root)]):
        for path in sorted((top / "patches").glob(f"*/*@*/{FILE}")):
            found.setdefault(f"{path.parent.parent.name}/{path.parent.name}", path.parent)
    return found


def find(name: str, root: Path) -> PatchSet:
    """The set called `name`, whose commit may be cut short, or the one in the folder `name`.

    Raises UsageError with a suggestion when there is none, ConfigError when its file is wrong.
    """
    known = folders(root)
    start = name if "@" in name else f"{name}@"
    matches = [name] if name in known else [full for full in known if full.startswith(start)]
    if len(matches) == 1:
        return read(known[matches[0]])
    if matches:
        raise UsageError(f"`{name}` could be {' or '.join(matches)}")
    if (Path(name) / FILE).is_file():
        return read(Path(name))
    near = known if "@" in name else dict.fromkeys(full.partition("@")[0] for full in known)
    raise UsageError(f"there is no patch set `{name}`", did_you_mean(name, list(near)))


def read(folder: Path) -> PatchSet:
    """Read ``patch.yaml``; raises ConfigError with every problem as ``file:line: key: what``."""
    folder = folder.resolve()
    name = f"{folder.parent.name}/{folder.name}"
    file = yaml_file.read(folder / FILE, f"patches/{name}/{FILE}")
    found = list(_problems(file, folder))
    if found:
        raise ConfigError(found)
    data = file.data
    return PatchSet(
        name=name,
        folder=folder,
        component=data["component"],
        repository=data["repository"],
        base=data["base"],
        patches=tuple(PatchFile(entry["file"], entry["sha256"]) for entry in data["patches"]),
        version=data.get("version", ""),
        device=data.get("device", ""),
        tasks=tuple(data.get("tasks", ())),
        models=tuple(data.get("models", ())),
        contact=data.get("contact", ""),
        origin=data.get("origin", ""),
    )


def require_room(patch_sets: Iterable[PatchSet]) -> None:
    """Raises PatchError when the folder of one is there already."""
    for patch_set in patch_sets:
        if patch_set.folder.exists():
            raise PatchError(f"{patch_set.folder} is there already", "remove it to import it again")


def write(patch_set: PatchSet, contents: Mapping[str, bytes]) -> None:
    """Make the folder of a set with its patches, by name: complete or not at all."""
    part = patch_set.folder.with_name(f".{patch_set.folder.name}.{secrets.token_hex(4)}")
    try:
        for name, content in contents.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
        (part / FILE).write_text(_text(patch_set), encoding="utf-8")
        part.rename(patch_set.folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _text(patch_set: PatchSet) -> str:
    """As YAML; JSON's strings are YAML's, and no reader takes a commit in them for a number."""

    def quoted(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    given = [(key, getattr(patch_set, key)) for key in (*_TEXTS, *_LISTS)]
    lines = [f"{key}: {quoted(value)}" for key, value in given if value]
    lines.append("patches:")
    for patch in patch_set.patches:
        lines.append(f"  - {{file: {quoted(patch.name)}, sha256: {quoted(patch.sha256)}}}")
    return "\n".join(lines) + "\n"


def _problems(file: YamlFile, folder: Path) -> Iterator[Problem]:
    def problem(key: str, what: str) -> Problem:
        line = file.lines.get(tuple(key.split(".")))
        return Problem(f"{file.path}:{line}" if line else str(file.path), key, what)

    data = file.data
    for key in _REQUIRED:
        if key not in data:
            yield problem(key, "is missing")
    for key, value in data.items():
        if key in _TEXTS and not isinstance(value, str):
            yield problem(key, f"expected text, got `{value}`: quote it")
        elif key in _LISTS and not _texts(value):
            yield problem(key, "expected a list of words, such as [a, b]")
        elif key not in (*_TEXTS, *_LISTS, "patches"):
            hint = did_you_mean(key, [*_TEXTS, *_LISTS, "patches"])
            yield problem(key, f"unknown key; {hint}")
    base = data.get("base")
    if isinstance(base, str):
        _, _, short = folder.name.partition("@")
        if not _COMMIT.fullmatch(base):
            yield problem("base", f"`{base}` is no commit: all its hexadecimal digits are wanted")
        elif not base.startswith(short):
            yield problem("base", f"{base} is not the commit of the folder's name ({short})")
    listed = data.get("patches", [])
    yield from (problem(key, what) for key, what in _patch_problems(listed))
    if "patches" in data and isinstance(listed, list):
        known = {entry.get("file") for entry in listed if isinstance(entry, dict)}
        there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.patch"))
        for name in there:
            if name not in known:
                yield problem("patches", f"{name} lies in the folder, but is not listed")


def _patch_problems(patches: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(patches, list):
        yield "patches", "expected a list of {file: NAME, sha256: DIGEST}"
        return
    if not patches:
        yield "patches", "names no patch"
    seen: set[str] = set()
    for number, entry in enumerate(patches):
        key = f"patches.{number}"
        if not isinstance(entry, dict) or set(entry) != {"file", "sha256"}:
            yield key, "expected {file: NAME, sha256: DIGEST}"
            continue
        name, digest = entry["file"], entry["sha256"]
        if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
            yield f"{key}.file", f"`{name}` is no path below the folder of {FILE}"
        elif name in seen:
            yield f"{key}.file", f"{name} is named twice"
        seen.add(str(name))
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            yield f"{key}.sha256", f"`{digest}` is no SHA-256: 64 hexadecimal digits (sha256sum)"


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
