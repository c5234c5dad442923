"""FlagScale's patches, in both of its layouts, as patch sets.

Until May 2025 (tools/patch/patch.py): ``hardware/DEVICE/COMMIT/COMMIT.patch``, one mail-format
patch of FlagScale itself at COMMIT, eight digits of it.

Until the end of 2025 (v0.8, v0.9): ``hardware/DEVICE/BACKEND/`` with one ``PATH.patch`` for each
file, or one ``diff.patch``, and ``diff.yaml`` with the commits they are for.
``hardware/patch_history.yaml`` names FlagScale's own commits at which a device's patches for some
backends were complete, the newest last.
"""

import configparser
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flagdeploy.config import yaml_file
from flagdeploy.config.patch_set import PatchFile, PatchSet
from flagdeploy.errors import PatchError, UsageError, did_you_mean
from flagdeploy.patching.git import Git, Here
from flagdeploy.patching.names import danger_of, shown
from flagdeploy.patching.patch_file import changes

FLAGSCALE = "FlagScale"
HISTORY = "hardware/patch_history.yaml"
# Names that FlagScale's own tool takes, and where a component is when .gitmodules does not say.
_BACKENDS = {
    "fs": FLAGSCALE, "flagscale": FLAGSCALE, "megatron": "Megatron-LM",
    "megatron-lm": "Megatron-LM", "energon": "Megatron-Energon",
    "megatron-energon": "Megatron-Energon", "llama_cpp": "llama.cpp",
}  # fmt: skip
_REPOSITORIES = {
    FLAGSCALE: "https://github.com/flagos-ai/FlagScale",
    "vllm": "https://github.com/vllm-project/vllm",
    "sglang": "https://github.com/sgl-project/sglang",
    "llama.cpp": "https://github.com/ggml-org/llama.cpp",
    "Megatron-LM": "https://github.com/NVIDIA/Megatron-LM",
    "verl": "https://github.com/volcengine/verl",
}

_COMMIT = re.compile("[0-9a-f]{8,64}")
_FORMS: dict[str, type] = {
    "backends_commit": dict, "backends_version": dict, "task": list, "models": list, "contact": str,
}  # fmt: skip

Found = tuple[PatchSet, Mapping[str, bytes]]
"""A set that is not written yet, and its patches by name."""


class Checkout:
    """FlagScale's files: as they lie in `folder`, or at a commit of its repository."""

    def __init__(self, folder: Path, commit: str = "") -> None:
        self.folder, self.commit = folder, commit
        self.git = Git(Here(), str(folder))

    def names(self, below: str) -> list[str]:
        """Files below a folder, relative to the checkout, sorted."""
        if self.commit:
            listing = ("ls-tree", "-r", "-z", "--name-only", self.commit, "--", f"{below}/")
            return sorted(filter(None, os.fsdecode(self.git.output(*listing)).split("\0")))
        paths = (self.folder / below).rglob("*")
        return sorted(str(path.relative_to(self.folder)) for path in paths if path.is_file())

    def contents(self, names: Sequence[str]) -> list[bytes]:
        if not self.commit:
            return [(self.folder / name).read_bytes() for name in names]
        wanted = "".join(f"{self.commit}:{name}\n" for name in names)
        found = _batch(self.git.output("cat-file", "--batch", stdin=os.fsencode(wanted)))
        for name, content in zip(names, found, strict=True):
            if content is None:  # named by its tree, but the object is not there
                what = f"{self.folder} lacks {name} of commit {self.commit}"
                raise PatchError(what, "use a clone without --filter, or one that can fetch")
        return [content for content in found if content is not None]

    def yaml(self, name: str) -> dict[str, Any]:
        text = self.contents([name])[0].decode(errors="replace")
        data: dict[str, Any] = yaml_file.parse(text, Path(name)).data
        return data


def _batch(output: bytes) -> list[bytes | None]:
    """``OBJECT blob SIZE``, the content and a newline for each, or ``OBJECT missing``
    (git-cat-file(1))."""
    found: list[bytes | None] = []
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        if output[at:end].endswith(b" missing"):
            found.append(None)
            at = end + 1
            continue
        size = int(output[at:end].split()[-1])
        found.append(output[end + 1 : end + 1 + size])
        at = end + size + 2
    return found


def read(
    folder: Path, device: str, *, task: str, backends: Sequence[str], commit: str
) -> list[Found]:
    """The patch sets for `device`: of one `commit` in the old layout, else of `backends` (all that
    the device has: empty) for `task`, as of `commit` or of the newest one in the history.

    Raises UsageError for a folder, device, task or backend that is not there, PatchError for what
    is encrypted, incomplete or of another form.
    """
    if commit and not _COMMIT.fullmatch(commit):
        raise UsageError(f"--commit {commit}: give at least eight hexadecimal digits of a commit")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder", "name a clone of FlagScale")
    here = Checkout(folder)
    if not (folder / "hardware").is_dir():
        what = f"{folder} has no hardware/, where FlagScale keeps its patches"
        raise PatchError(what, "v0.9.0 is the last release with patches: git checkout v0.9.0")
    wanted = [_BACKENDS.get(name.lower(), name.lower()) for name in backends]
    if commit and commit[:8] in _old_commits(folder, device):
        return [_old(here, device, commit)]
    there = Checkout(folder, commit or _newest(here, device, task, wanted))
    _require_commit(there)
    _require_device(there, device)
    by_backend = _by_backend(there, device)
    if not wanted and not by_backend:
        known = ", ".join(_old_commits(folder, device))
        raise UsageError(f"{device} has a patch for each commit: {known}", "choose with --commit")
    for name in wanted:
        if name not in by_backend:
            what = f"{device} has no patches for `{name}`"
            raise UsageError(what, did_you_mean(name, sorted(by_backend)))
    if task and not wanted:
        _require_task_of_all(there, device, by_backend, task)
    chosen = {name: by_backend[name] for name in wanted or by_backend}
    return [_new(there, device, name, files, task) for name, files in chosen.items()]


def _require_task_of_all(
    checkout: Checkout, device: str, backends: Iterable[str], task: str
) -> None:
    """Where only some are for `task`, those to name: the history knows them by their names."""
    files = {name: f"hardware/{device}/{name}/diff.yaml" for name in backends}
    fitting = [n for n, file in files.items() if task in (_facts(checkout, file).get("task") or [])]
    if fitting and len(fitting) < len(files):
        what = f"{device} has patches for `{task}` of {', '.join(fitting)} only"
        raise UsageError(what, " ".join(f"--backend {name}" for name in fitting))


def _require_device(checkout: Checkout, device: str) -> None:
    devices = {name.split("/")[1] for name in checkout.names("hardware") if name.count("/") > 1}
    if device not in devices:
        raise UsageError(f"unknown device `{device}`", did_you_mean(device, sorted(devices)))


def _old_commits(folder: Path, device: str) -> list[str]:
    paths = sorted((folder / "hardware" / device).glob("*"))
    return [p.name for p in paths if list(p.glob(f"{p.name}.patch*"))]


def _old(checkout: Checkout, device: str, commit: str) -> Found:
    short = commit[:8]
    base = commit if len(commit) == 40 else _full(checkout, short)
    folder = f"hardware/{device}/{short}"
    return _set(checkout, device, FLAGSCALE, base, folder, checkout.names(folder), {})


def _full(checkout: Checkout, short: str) -> str:
    done = checkout.git.attempt("rev-parse", "--verify", "--quiet", f"{short}^{{commit}}")
    if done.exit_code:
        raise PatchError(
            f"{checkout.folder} has no commit {short}, so its other digits are not known",
            "give all 40 digits with --commit, or use a clone with the whole history",
        )
    return done.stdout.decode().strip()


def _newest(checkout: Checkout, device: str, task: str, backends: Sequence[str]) -> str:
    """The newest commit of the history for these backends, empty when the history has none."""
    if not (checkout.folder / HISTORY).is_file():
        return ""
    history: Any = checkout.yaml(HISTORY)
    path = ""
    for name in (device, task, "+".join(sorted(backends))):
        history = history.get(name) or {}
        path = f"{path}.{name}".lstrip(".")
        last = path.count(".") == 2
        if history and not isinstance(history, list if last else dict):
            raise PatchError(f"{HISTORY}: {path}: expected {'a list' if last else 'a mapping'}")
    return str(history[-1]) if history else ""


def _require_commit(checkout: Checkout) -> None:
    wanted = checkout.commit
    if wanted and checkout.git.attempt("cat-file", "-e", f"{wanted}^{{commit}}").exit_code:
        raise PatchError(
            f"{checkout.folder} has no commit {wanted}, where these patches are",
            f"git -C {checkout.folder} fetch origin {wanted}",
        )


def _by_backend(checkout: Checkout, device: str) -> dict[str, list[str]]:
    """The files of each folder with a diff.yaml."""
    names = checkout.names(f"hardware/{device}")
    found = {}
    for marker in (n for n in names if n.endswith("/diff.yaml") and n.count("/") == 3):
        folder = marker.removesuffix("diff.yaml")
        found[folder.split("/")[2]] = [n for n in names if n.startswith(folder)]
    return found


def _new(checkout: Checkout, device: str, backend: str, files: Sequence[str], task: str) -> Found:
    folder = f"hardware/{device}/{backend}"
    facts = _facts(checkout, f"{folder}/diff.yaml")
    tasks = list(facts.get("task") or [])
    if task and task not in tasks:
        what = f"the patches of {device} for {backend} are not for `{task}`"
        raise UsageError(what, did_you_mean(task, tasks))
    commits = facts.get("backends_commit") or {}
    base = facts.get("commit") if backend == FLAGSCALE else commits.get(backend)
    if not isinstance(base, str) or not re.fullmatch("[0-9a-f]{40}", base):
        key = "commit" if backend == FLAGSCALE else f"backends_commit.{backend}"
        raise PatchError(f"{folder}/diff.yaml: {key}: no full commit, but `{base}`")
    names = [name for name in files if not name.endswith("/diff.yaml")]
    return _set(checkout, device, backend, base, folder, names, facts)


def _facts(checkout: Checkout, name: str) -> dict[str, Any]:
    """What a diff.yaml says. Raises PatchError where it has not the form that FlagScale writes."""
    facts = checkout.yaml(name)
    for key, kind in _FORMS.items():
        if facts.get(key) is not None and not isinstance(facts[key], kind):
            what = "a list" if kind is list else "a mapping" if kind is dict else "text"
            raise PatchError(f"{name}: {key}: expected {what}, but it is `{facts[key]}`")
    return facts


def _set(
    checkout: Checkout,
    device: str,
    component: str,
    base: str,
    folder: str,
    names: Sequence[str],
    facts: Mapping[str, Any],
) -> Found:
    locked = [name for name in names if name.endswith(".encrypted")]
    if locked:
        raise PatchError(
            f"{locked[0]} is encrypted{_more(locked)}: only its vendor's private key opens it",
            f"ask the vendor of {device} for readable patches",
        )
    patches = [name for name in names if name.endswith(".patch")]
    if not patches:
        raise PatchError(f"{folder} holds no patch")
    contents = {}
    for name, content in zip(patches, checkout.contents(patches), strict=True):
        own = name.removeprefix(f"{folder}/")
        if not own.isprintable() or danger_of(own):
            raise PatchError(f"{shown(name)} is no name for a patch")
        changes(content, name)
        contents[own] = content
    files = [PatchFile(name, hashlib.sha256(text).hexdigest()) for name, text in contents.items()]
    name = f"{device.partition('_')[0].lower()}/{component}@{base[:12]}"
    found = PatchSet(
        name=name,
        folder=Path(name),
        component=component,
        repository=_repository(checkout, component),
        base=base,
        patches=tuple(files),
        version=str((facts.get("backends_version") or {}).get(component, "")),
        device=device,
        tasks=tuple(map(str, facts.get("task") or ())),
        models=tuple(map(str, facts.get("models") or ())),
        contact=str(facts.get("contact") or "").strip("'"),
        origin=f"FlagScale {checkout.commit or 'checkout'}, {folder}",
    )
    return found, contents


def _more(names: Sequence[str]) -> str:
    return f", as {len(names) - 1} more are" if len(names) > 1 else ""


def _repository(checkout: Checkout, component: str) -> str:
    modules = configparser.ConfigParser(strict=False, interpolation=None)
    modules.read(checkout.folder / ".gitmodules")
    section = f'submodule "third_party/{component}"'
    url = modules.get(section, "url", fallback="") or _REPOSITORIES.get(component, "")
    if not url:
        raise PatchError(f"{component}: its repository is not known, and .gitmodules names none")
    return url
