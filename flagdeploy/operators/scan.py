"""Which Triton kernels a Python environment declares and has compiled. A program of its own.

It is sent as text into an engine's container (``python3 -c TEXT REQUEST``), so it imports nothing
but the standard library, runs on Python 3.9, and imports none of the packages that it looks at:
FlagGems needs a device to be imported.

The request is JSON: `library` and `engine` (names of packages, or folders), and perhaps `caches`
(folders of Triton's cache), `code_caches` (folders of the library's generated code) and `since`
(seconds since the epoch). `scan` describes the answer.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GENERATING = "pointwise_dynamic"
"""FlagGems' decorator of functions f that become kernels ``f_kernel_rank_N`` when called
(flag_gems/utils/pointwise_dynamic.py, `_compute_kernel_names`)."""
MODULES = ("triton", "gluon")
LOCATION = re.compile(rb'^#loc = loc\("([^"\n]+)":\d+:\d+\)', re.MULTILINE)


def main(request: str) -> None:
    json.dump(scan(json.loads(request)), sys.stdout)


def scan(request: dict[str, Any]) -> dict[str, Any]:
    """``library``, ``engine``: packages found, each with `name`, `folder`, `package` (the name by
    which it is imported, if it is one), `version`, the names of the `kernels` that it declares and
    of its `generating` functions; the library's generated code is one more. ``missing``: names
    without a package. ``triton``: the `folders` that were read, and for every compiled kernel the
    files that its source stands in ("" where it is not known). ``compiler``: folders of
    TorchInductor's code. ``compiled``: names compiled after `since`. ``versions``, ``python``.
    """
    library, engine = request.get("library") or [], request.get("engine") or []
    found = {name: declared(name) for name in [*library, *engine]}
    generated = request.get("code_caches")
    if generated is None:
        generated = [os.environ.get("FLAGGEMS_CACHE_DIR") or "~/.flaggems"] if library else []
    generated = [Path(path).expanduser() for path in generated]
    caches = request.get("caches")
    folders = triton_caches() if caches is None else [Path(path).absolute() for path in caches]
    kernels, late = compiled_kernels(folders, request.get("since"))
    versions = {name: version(name) for name in ["torch", "triton", "flagtree", *found]}
    return {
        "python": sys.executable,
        "library": [found[name] for name in library if found[name]["folder"]]
        + [declared(str(path)) for path in generated if path.is_dir()],
        "engine": [found[name] for name in engine if found[name]["folder"]],
        "missing": [name for name, one in found.items() if not one["folder"]],
        "triton": {"folders": [str(one) for one in folders if one.is_dir()], "kernels": kernels},
        "compiler": [str(path) for path in compiler_folders()],
        "compiled": late,
        "versions": {name: known for name, known in versions.items() if known},
    }


# --- what packages declare ----------------------------------------------------------------------


def declared(name: str) -> dict[str, Any]:
    """What a package, which is not imported, or a folder declares."""
    folder = folder_of(name)
    kernels: set[str] = set()
    generating: set[str] = set()
    for path in python_files(folder) if folder else ():
        try:
            source = path.read_bytes()
            if b"jit" in source or GENERATING.encode() in source:
                read_source(ast.parse(source), kernels, generating)
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue  # templates that are no Python yet
    return {
        "name": name,
        "folder": str(folder) if folder else "",
        "package": folder.name if folder and (folder / "__init__.py").is_file() else "",
        "version": version(name),
        "kernels": sorted(kernels),
        "generating": sorted(generating),
    }


def folder_of(name: str) -> Path | None:
    if os.sep in name:
        return Path(name).resolve() if Path(name).is_dir() else None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]).resolve() if places else None


def python_files(folder: Path) -> Iterator[Path]:
    for where, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith((".", "__pycache__"))]
        yield from (Path(where, name) for name in files if name.endswith(".py"))


def read_source(tree: ast.AST, kernels: set[str], generating: set[str]) -> None:
    """Functions with Triton's decorator, alone or among others, and ``triton.jit(function)``."""
    jits = triton_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if any(is_jit(one, jits) for one in node.decorator_list):
                kernels.add(node.name)
            if any(last_name(one) == GENERATING for one in node.decorator_list):
                generating.add(node.name)
        elif isinstance(node, ast.Call) and is_jit(node.func, jits):
            kernels.update(one.id for one in node.args if isinstance(one, ast.Name))


def triton_names(tree: ast.AST) -> set[str]:
    """What triton, gluon and their `jit` are called in this file, as ``triton`` and ``.jit``.

    Engines hand triton on through modules of their own, so its usual name always counts.
    """
    found = set(MODULES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname for one in node.names if one.asname and one.name == "triton"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "triton":
            for one in node.names:
                called = one.asname or one.name
                found |= {f".{called}"} if one.name == "jit" else set()
                found |= {called} if one.name == "gluon" else set()
    return found


def is_jit(node: ast.expr, jits: set[str]) -> bool:
    """Is it ``triton.jit``, with arguments or without?"""
    node = node.func if isinstance(node, ast.Call) else node
    if isinstance(node, ast.Attribute):
        return node.attr == "jit" and isinstance(node.value, ast.Name) and node.value.id in jits
    return isinstance(node, ast.Name) and f".{node.id}" in jits


def last_name(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def version(name: str) -> str:
    for spelling in (name, name.replace("_", "-")):
        try:
            return metadata.version(spelling)
        except (metadata.PackageNotFoundError, ValueError):
            continue
    return ""


# --- what Triton compiled -----------------------------------------------------------------------


def triton_caches() -> list[Path]:
    """Triton's own cache (triton/knobs.py), and those that TorchInductor and vLLM give it."""
    home = os.environ.get("TRITON_HOME") or "~"
    own = os.environ.get("TRITON_CACHE_DIR") or f"{home}/.triton/cache"
    return [Path(own).expanduser(), *compiler_folders()]


def compiler_folders() -> list[Path]:
    """Where TorchInductor keeps its code and what Triton makes of it (torch/_inductor/runtime/
    cache_dir_utils.py), also under vLLM."""
    user = re.sub(r'[\\/:*?"<>|]', "_", os.environ.get("USER") or "root")
    temporary = os.environ.get("TMPDIR") or "/tmp"
    own = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or f"{temporary}/torchinductor_{user}"
    vllm = os.environ.get("VLLM_CACHE_ROOT") or "~/.cache/vllm"
    return [Path(own).expanduser(), Path(vllm).expanduser() / "torch_compile_cache"]


def compiled_kernels(
    folders: Iterable[Path], since: float | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Name to the files of its source, of every ``KEY/NAME.json`` (triton/compiler/compiler.py),
    and the names of which one was compiled after `since`."""
    names: dict[str, set[str]] = {}
    late = set()
    for folder in folders:
        for where, _, files in os.walk(folder):
            for file in files:
                path = Path(where, file)
                if path.suffix == ".json" and (name := kernel_name(path)):
                    names.setdefault(name, set()).add(source_file(path))
                    if since is not None and path.stat().st_mtime >= since:
                        late.add(name)
    return {name: sorted(paths) for name, paths in sorted(names.items())}, sorted(late)


def kernel_name(path: Path) -> str:
    """The name in a kernel's metadata; empty for other JSON files, such as a group's."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    is_kernel = isinstance(data, dict) and "num_warps" in data
    return str(data.get("name") or "") if is_kernel else ""


def source_file(metadata_file: Path) -> str:
    """The file that the kernel's function stands in: its intermediate code names it as ``#loc``,
    unless TRITON_DISABLE_LINE_INFO was set."""
    for suffix in (".ttir", ".source", ".ttgir"):
        try:
            with metadata_file.with_suffix(suffix).open("rb") as file:
                found = LOCATION.search(file.read(1 << 20))
        except OSError:
            continue
        if found:
            return str(Path(os.fsdecode(found.group(1))).resolve())
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
