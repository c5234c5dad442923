"""Git in a repository of one machine: argument lists only, none of the user's hooks or habits.

Everything is a command, so that it works alike here and on a host behind a launcher; beside git
only coreutils are used.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from flagdeploy.errors import PatchError

# What a user's configuration must not change: which bytes are written, and what runs meanwhile.
_SETTINGS = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.autocrlf=false",
    "core.eol=lf", "core.attributesFile=/dev/null", "core.sparseCheckout=false",
    "core.quotePath=true", "core.fileMode=true", "apply.whitespace=nowarn",
    "apply.ignoreWhitespace=no", "gc.auto=0", "maintenance.auto=false", "advice.detachedHead=false",
    "worktree.useRelativePaths=false",  # they would be wrong once the worktree is at its place
)  # fmt: skip

# Inside a hook of git these point to another repository.
_ELSEWHERE = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG_PARAMETERS",
)  # fmt: skip


class Done(Protocol):
    """What a command gave."""

    @property
    def exit_code(self) -> int: ...
    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...


class Machine(Protocol):
    """Where commands run."""

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Done:
        """Run to the end; a non-zero exit code is no error."""


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: bytes
    stderr: bytes


class Here:
    """This machine."""

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Result:
        done = subprocess.run(argv, input=stdin, capture_output=True)
        return Result(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Git:
    """Git in `folder`: a checkout, a worktree or a bare repository."""

    machine: Machine
    folder: str
    env: Mapping[str, str] = field(default_factory=dict)

    def attempt(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run ``git ARGUMENTS``; raises PatchError only when there is no git."""
        variables = {"LC_ALL": "C", **self.env}
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        argv = ["env", *(word for name in _ELSEWHERE for word in ("-u", name))]
        argv += [f"{name}={value}" for name, value in variables.items()]
        argv += ["git", "--literal-pathspecs", *settings, "-C", self.folder, *arguments]
        done = self.machine.run(argv, stdin)
        if done.exit_code == 127:
            raise PatchError("there is no git", "install git 2.31 or later")
        return done

    def output(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """The output. Raises PatchError with git's own message when it fails."""
        done = self.attempt(*arguments, stdin=stdin)
        if done.exit_code:
            raise PatchError(f"git {arguments[0]} in {self.folder}: {reason(done)}")
        return done.stdout

    def text(self, *arguments: str, stdin: bytes = b"") -> str:
        return os.fsdecode(self.output(*arguments, stdin=stdin)).removesuffix("\n")


def reason(done: Done) -> str:
    """Git's last complaint, without its ``fatal:``."""
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    words = ("fatal: ", "error: ")
    complaints = [line for line in lines if line.startswith(words)] or lines
    last = complaints[-1] if complaints else f"exit code {done.exit_code}"
    return next((last.removeprefix(word) for word in words if last.startswith(word)), last)


def command(machine: Machine, *argv: str, stdin: bytes = b"") -> str:
    """The output of a program of coreutils. Raises PatchError with its message when it fails."""
    done = machine.run(argv, stdin)
    if done.exit_code:
        raise PatchError(done.stderr.decode(errors="replace").strip())
    return os.fsdecode(done.stdout).removesuffix("\n")


@contextmanager
def scratch(git: Git, objects: str = "") -> Iterator[Git]:
    """Git with an index of its own; with `objects`, the folder of the repository's, new ones are
    kept apart and vanish again."""
    folder = command(git.machine, "mktemp", "-d", "--tmpdir", "flagdeploy-patch.XXXXXXXX")
    env = {**git.env, "GIT_INDEX_FILE": f"{folder}/index"}
    if objects:
        # Quoted as git(1) says, so that a colon in the path does not cut it.
        quoted = objects.replace("\\", "\\\\").replace('"', '\\"')
        env["GIT_OBJECT_DIRECTORY"] = folder
        env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = f'"{quoted}"'
    try:
        yield Git(git.machine, git.folder, env)
    finally:
        git.machine.run(["rm", "-rf", "--", folder])
