"""Build hook: compile the native kernels beside their sources, where there is a C compiler.

Without one, or when it fails, the installation goes on: the NumPy kernels do the same, slower.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCES = ("flagdeploy/checkpoint/_fp8.c",)
# FP32 arithmetic as written: no fused multiply-add, nothing of -ffast-math.
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=off", "-fno-trapping-math")


def compiler() -> list[str] | None:
    """The command of the C compiler: $CC, or the first of cc, gcc and clang there is."""
    if named := shlex.split(os.environ.get("CC", "")):
        return named
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build(source: Path, library: Path) -> str | None:
    """Compile one source; returns what went wrong, if anything did."""
    command = compiler()
    if not command:
        return "there is no C compiler"
    # A running process may have the old library mapped: it is replaced, never overwritten.
    part = library.with_name(library.name + ".part")
    try:
        done = subprocess.run(
            [*command, *FLAGS, "-o", str(part), str(source)], capture_output=True, text=True
        )
    except OSError as error:
        return f"{shlex.join(command)}: {error.strerror}"
    if done.returncode:
        return f"{shlex.join(command)} failed:\n{done.stderr}"
    part.replace(library)
    return None


class NativeKernels(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        for name in SOURCES:
            source = ROOT / name
            library = source.with_suffix(".so")
            # What is there is of another time or machine.
            library.unlink(missing_ok=True)
            if problem := build(source, library):
                self.app.display_warning(f"{name} is not compiled, NumPy does its work: {problem}")
                continue
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"][str(library)] = library.relative_to(ROOT).as_posix()
