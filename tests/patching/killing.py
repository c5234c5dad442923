"""A process that is killed for real, with SIGKILL, right before its command number `last`."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

# All that patching starts; git is started by `env`.
PROGRAMS = ("env", "cat", "find", "mkdir", "mktemp", "mv", "rm", "tee", "test")
# Kills its whole process group, so also the program that started it, and itself.
COUNTING = """\
#!/bin/sh
read -r count < {folder}/count
count=$((count + 1))
echo $count > {folder}/count
[ $count -lt $(cat {folder}/last) ] || kill -KILL 0
exec {program} "$@"
"""


def programs(folder: Path) -> Path:
    """A folder for PATH, whose programs count how often they were started."""
    folder.mkdir()
    for name in PROGRAMS:
        script = folder / name
        text = COUNTING.format(folder=folder, program=shutil.which(name))
        script.write_text(text.replace("$(cat", f"$({shutil.which('cat')}"))
        script.chmod(0o755)
    return folder


def killed(work: Callable[..., Any], arguments: tuple[Any, ...], folder: Path, last: int) -> bool:
    """Run `work` in a process of its own; False when it came to its end before the kill."""
    (folder / "count").write_text("0\n")
    (folder / "last").write_text(f"{last}\n")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, work.__module__])
    process = context.Process(target=_alone, args=(str(folder), work, arguments))
    process.start()
    process.join()
    if process.exitcode not in (0, -9):
        raise AssertionError(f"neither killed nor done: exit code {process.exitcode}")
    return process.exitcode == -9


def _alone(folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setsid()
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    work(*arguments)
