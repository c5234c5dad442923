"""Whose kernel is it? Evidence that `scan` found, and the rules that turn it into one of four.

``library``   a Triton kernel of the operator library (FlagGems)
``engine``    any other Triton kernel: the engine's own, such as vLLM's fused experts
``compiler``  made by torch.compile (TorchInductor)
``vendor``    everything else: cuBLAS, ATen, NCCL, CUTLASS, ...

Where Triton's cache names the file that a compiled kernel's source stands in, that file decides.
Else declarations do, and the library's come first. A kernel that nothing names is the vendor's, so
what was not looked at has to be said (`gaps`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

SOURCES = ("library", "engine", "compiler", "vendor")
TRITON = ("library", "engine", "compiler")
# torch/_inductor/codegen/triton.py, `define_kernel`: triton, the category's first three letters,
# what was fused, a number; without unique_kernel_names all are called triton_.
_INDUCTOR = re.compile(r"triton_(?:for|per|poi|red|spl|tem|unk)_\w*\d|triton_$")
# `define_user_defined_triton_kernel` with unique_user_kernel_names: the name and a number.
_NUMBERED = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Declared:
    """Kernels that a package declares: by name, and functions f that become f_kernel_rank_N."""

    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """Names of the folders that are packages: where the cache of another machine is read, its files
    lie elsewhere, in a folder of the same name."""
    kernels: frozenset[str] = frozenset()
    generating: frozenset[str] = frozenset()

    def __contains__(self, kernel: object) -> bool:
        name = str(kernel)
        stem, rank, number = name.rpartition("_kernel_rank_")
        return name in self.kernels or bool(rank and number.isdecimal() and stem in self.generating)

    def __or__(self, other: "Declared") -> "Declared":
        return Declared(
            _joined(self.names, other.names),
            _joined(self.folders, other.folders),
            _joined(self.packages, other.packages),
            self.kernels | other.kernels,
            self.generating | other.generating,
        )

    def holds(self, file: str) -> bool:
        return any(Path(file).is_relative_to(folder) for folder in self.folders)

    def depth(self, file: str) -> int:
        """Where in the path the last folder of a package's name stands; 0 where none does."""
        parts = Path(file).parts
        return max((n for n, part in enumerate(parts) if part in self.packages), default=0)


def _joined(some: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*some, *others]))


@dataclass(frozen=True)
class Evidence:
    """What scans of all ranks' environments found; None is what was not looked at."""

    library: Declared | None = None
    engine: Declared | None = None
    compiled: Mapping[str, frozenset[str]] | None = None
    """For each kernel in Triton's cache the files of its source, "" for one without a name."""
    caches: tuple[str, ...] = ()
    compiler_folders: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    """Kernels that were compiled while the profile ran."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def source(self, kernel: str) -> str:
        """One of `SOURCES`."""
        files = (self.compiled or {}).get(kernel)
        if files is None:
            return self._by_name(kernel)
        origins = {self._by_file(file) or self._by_name(kernel) for file in files}
        if "compiler" in origins:
            # torch.compile copies the source of a kernel that it calls into a file of its own.
            copied = self._by_name(_NUMBERED.sub("", kernel))
            origins |= {copied}
        # It is in Triton's cache, so it is Triton's, declared or not.
        return next((one for one in TRITON if one in origins), "engine")

    def ambiguous(self, kernel: str) -> bool:
        """Would it be the engine's as well as the library's, by the same evidence?"""
        if self.library is None or self.engine is None:
            return False
        origins = {self._by_file(file) for file in (self.compiled or {}).get(kernel, [""])}
        if "" in origins and kernel in self.library and kernel in self.engine:
            return True
        return origins >= {"library", "engine"}

    def _by_file(self, file: str) -> str:
        """Empty for a file that belongs to nothing known; the innermost of several packages' names
        says more than that of a folder around them, such as an environment's."""
        if self.library and self.library.holds(file):
            return "library"
        if any(Path(file).is_relative_to(folder) for folder in self.compiler_folders):
            return "compiler"
        if self.engine and self.engine.holds(file):
            return "engine"
        library = self.library.depth(file) if self.library else 0
        engine = self.engine.depth(file) if self.engine else 0
        return "library" if library > engine else "engine" if engine else ""

    def _by_name(self, kernel: str) -> str:
        if self.library and kernel in self.library:
            return "library"
        if _INDUCTOR.match(kernel):
            return "compiler"
        return "engine" if self.engine and kernel in self.engine else "vendor"

    def looked_at(self, source: str) -> bool:
        """Could a kernel of `source` be told from the others? Its numbers mean nothing if not."""
        if source == "library":
            return self.library is not None or bool(self.missing)
        return source != "engine" or self.compiled is not None or self.engine is not None

    def gaps(self) -> list[str]:
        """What was not looked at, and what that does to the numbers."""
        said = [f"{name} is not installed beside the engine" for name in sorted(self.missing)]
        if not self.looked_at("library"):
            said.append("the library's package was not read: its kernels count for others")
        if self.compiled is None:
            said.append(
                "Triton's cache was not read: a Triton kernel that no package declares counts as "
                "the vendor's, and one that two packages declare as the library's"
            )
            if not self.looked_at("engine"):
                said.append("the engine's package was not read: its kernels count as the vendor's")
        return said

    def __str__(self) -> str:
        parts = []
        for declared in (self.library, self.engine):
            if declared:
                names = ", ".join(declared.names)
                parts.append(f"{len(declared.kernels)} kernels declared by {names}")
        if self.compiled is not None:
            parts.append(f"{len(self.compiled)} compiled in {', '.join(self.caches)}")
        return "; ".join(parts) or "names alone"


def evidence(scans: Sequence[Mapping[str, Any]]) -> Evidence:
    """The answers of `scan` from all ranks, put together."""
    return reduce(_merged, map(_of_scan, scans), Evidence())


def _of_scan(answer: Mapping[str, Any]) -> Evidence:
    folders = tuple(answer["triton"]["folders"])
    kernels = answer["triton"]["kernels"]
    return Evidence(
        library=_declared(answer["library"]),
        engine=_declared(answer["engine"]),
        compiled={n: frozenset(files) for n, files in kernels.items()} if folders else None,
        caches=folders,
        compiler_folders=tuple(answer["compiler"]),
        missing=frozenset(answer["missing"]),
        late=frozenset(answer["compiled"]),
        versions=answer["versions"],
    )


def _declared(packages: Sequence[Mapping[str, Any]]) -> Declared | None:
    if not packages:
        return None
    return Declared(
        tuple(package["name"] for package in packages),
        tuple(package["folder"] for package in packages),
        tuple(package["package"] for package in packages if package["package"]),
        frozenset[str]().union(*(package["kernels"] for package in packages)),
        frozenset[str]().union(*(package["generating"] for package in packages)),
    )


def _merged(one: Evidence, two: Evidence) -> Evidence:
    compiled = None
    if one.compiled is not None or two.compiled is not None:
        first, second = one.compiled or {}, two.compiled or {}
        names = first.keys() | second.keys()
        compiled = {n: first.get(n, frozenset()) | second.get(n, frozenset()) for n in names}
    return Evidence(
        library=_either(one.library, two.library),
        engine=_either(one.engine, two.engine),
        compiled=compiled,
        caches=_joined(one.caches, two.caches),
        compiler_folders=_joined(one.compiler_folders, two.compiler_folders),
        missing=one.missing | two.missing,
        late=one.late | two.late,
        versions={**one.versions, **two.versions},
    )


def _either(one: Declared | None, two: Declared | None) -> Declared | None:
    return one | two if one and two else one or two
