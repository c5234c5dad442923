"""Every error a user can meet, and the exit code it becomes.

::

    FlagdeployError            1   something failed
    ├── ConfigError            2   the configuration is wrong (one or several Problems)
    ├── UsageError             2   the command line is wrong
    ├── HostError              1   a host could not be reached, or a command on it failed
    │   └── HostsFailed        1   several hosts failed; carries the whole map
    ├── CheckpointError        1   a checkpoint is missing, torn or of a format we refuse
    ├── PatchError             1   a patch set is refused, or does not fit the source it is for
    ├── EngineError            1   the engine died, stalled or never answered
    └── EvalError              1   answers could not be collected or graded
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class FlagdeployError(Exception):
    """Base of all errors for users: `message` says what and where, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One thing wrong in the configuration: `where` is ``file:line`` or ``command line``."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class ConfigError(FlagdeployError):
    exit_code = 2

    def __init__(self, problems: Sequence[Problem], hint: str | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint)
        self.problems = tuple(problems)


class UsageError(FlagdeployError):
    exit_code = 2


class HostError(FlagdeployError):
    def __init__(self, host: str, message: str, hint: str | None = None) -> None:
        super().__init__(f"{host}: {message}", hint)
        self.host = host


class HostsFailed(HostError):
    """Several hosts failed; `failures` keeps every host's own error."""

    def __init__(self, failures: Mapping[str, Exception], hint: str | None = None) -> None:
        lines = [str(error) for error in failures.values()]
        FlagdeployError.__init__(self, "\n".join(lines), hint)
        self.host = ", ".join(failures)
        self.failures = dict(failures)


class CheckpointError(FlagdeployError):
    pass


class PatchError(FlagdeployError):
    pass


class EngineError(FlagdeployError):
    pass


class EvalError(FlagdeployError):
    pass


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A hint for an unknown name: the nearest known one, or all of them."""
    import difflib  # wanted by errors only

    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(known)}" if known else "there are none"
