"""Goes on as the Python of a running engine, with its environment. A program of its own.

It is sent as text (``python3 -c TEXT PROGRAM ARGUMENT``) beside a rank, into its container or, for
a rank on this machine, here, and becomes ``INTERPRETER -c PROGRAM ARGUMENT``. So it imports nothing
but the standard library and runs on Python 3.9. Nothing of the engine's environment is printed.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

PROC = Path("/proc")
OWN_FOLDER = "FLAGDEPLOY_RANK_FOLDER"
"""The local launcher gives it to every process of a rank, and to what runs beside the rank."""


def main(program: str, argument: str) -> None:
    """Where no Python of the rank is found, the one that runs this goes on by itself."""
    for process in engine_processes():
        interpreter, environment = interpreter_of(process), environment_of(process)
        if interpreter and environment:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
            try:
                os.execve(interpreter, [interpreter, "-c", program, argument], environment)
            except OSError:
                continue
    os.execv(sys.executable, [sys.executable, "-c", program, argument])


def engine_processes() -> list[Path]:
    """The Python processes of this rank, the oldest first.

    On this machine the rank's folder is in their environment. In a container they share this
    process's mount namespace, which other containers' processes do not, also under ``pid: host``.
    """
    found = []
    for process in PROC.iterdir():
        if not process.name.isdigit() or int(process.name) in (os.getpid(), os.getppid()):
            continue
        try:
            if is_of_this_rank(process) and is_python(process):
                found.append((started(process), int(process.name), process))
        except (OSError, ValueError, IndexError):
            continue  # it ended, or belongs to another user
    return [process for _, _, process in sorted(found)]


def is_of_this_rank(process: Path) -> bool:
    if folder := os.environ.get(OWN_FOLDER):
        return environment_of(process).get(OWN_FOLDER) == folder
    namespace = Path("ns", "mnt")
    return (process / namespace).readlink() == (PROC / "self" / namespace).readlink()


def is_python(process: Path) -> bool:
    """Programs of ``-c`` are none: this one, and the helpers of multiprocessing."""
    executable = (process / "exe").readlink()
    return executable.name.startswith("python") and "-c" not in words(process / "cmdline")[1:2]


def started(process: Path) -> int:
    """Clock ticks since boot, field 22 of stat (proc(5)); the name in it may hold spaces."""
    return int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])


def interpreter_of(process: Path) -> str:
    """As it was called, for that names the virtual environment; servers rename themselves, and then
    it is the one that torch was loaded from."""
    called = (words(process / "cmdline") or [""])[0]
    if Path(called).name.startswith("python"):
        folders = environment_of(process).get("PATH", "").split(os.pathsep)
        paths = [Path(called)] if os.sep in called else [Path(one, called) for one in folders]
        for path in paths:
            if path.is_absolute() and os.access(path, os.X_OK):
                return str(path)
    try:
        loaded = re.search(
            r"(/\S+)/lib/python3[^/]*/(?:site|dist)-packages/torch/",
            (process / "maps").read_text(errors="replace"),
        )
        beside = Path(loaded.group(1), "bin", "python3") if loaded else Path()
        return str(beside) if beside.is_file() else str((process / "exe").readlink())
    except OSError:
        return ""


def environment_of(process: Path) -> dict[str, str]:
    try:
        return dict(word.split("=", 1) for word in words(process / "environ") if "=" in word)
    except OSError:
        return {}


def words(path: Path) -> list[str]:
    return [os.fsdecode(word) for word in path.read_bytes().split(b"\0") if word]


if __name__ == "__main__":
    main(*sys.argv[1:])
