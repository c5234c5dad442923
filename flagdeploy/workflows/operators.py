"""Is an operator library on? Asked of the processes of a rank and its operator log."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from flagdeploy.config.launch import Running
from flagdeploy.errors import EngineError
from flagdeploy.launchers.base import Launcher
from flagdeploy.operators.look import LOOK, Seen, parse
from flagdeploy.plans.steps import ProveSwap

LOG_BYTES = 64 << 20  # of one log: without `once`, FlagGems writes a line for every call
_SHOWN = 8


def look(launcher: Launcher, rank: Running, variables: Iterable[str], log: str) -> Seen:
    """Look into a running rank. Values of other variables stay there."""
    argv = ["sh", "-c", LOOK, "look", "|".join(variables), log, str(LOG_BYTES)]
    result = launcher.inside(rank.id, argv, timeout=60)
    if result.exit_code:
        text = result.stderr.decode(errors="replace").strip() or f"exit code {result.exit_code}"
        raise EngineError(f"{rank.host}: cannot look into {rank.name}: {text}")
    return parse(result.stdout.decode(errors="replace"))


def prove(step: ProveSwap, launcher: Launcher, deployment: str) -> str:
    """What shows that the library is on in a rank.

    Raises EngineError with everything that speaks against it: a process without the switch, no
    operator log, an empty one, or one that is older than the rank; and for a rank that ended.
    """
    ranks = [r for r in launcher.running(deployment) if not r.stage and r.state == "running"]
    rank = next((r for r in ranks if r.rank == step.rank), None)
    if rank is None:
        raise EngineError(f"{step.host}: rank {step.rank} ended before it could be looked into")
    found = look(launcher, rank, step.variables, step.log)
    seen = found.since(datetime.fromisoformat(rank.started_at).timestamp())
    against = [*_in_processes(step, seen), *(_in_log(step, seen, found, rank) if step.log else ())]
    if against:
        lines = "\n".join(f"  {line}" for line in against)
        raise EngineError(
            f"{rank.host}: operators.library={step.library} was asked for, and is not on in rank "
            f"{rank.rank}:\n{lines}",
            "does the image hold the library and the build that operators.build names? its log "
            "says why it was not switched on",
        )
    return _evidence(step, seen)


def _in_processes(step: ProveSwap, seen: Seen) -> Iterator[str]:
    for process in seen.processes:
        for name, wanted in step.variables.items():
            value = process.variables.get(name)
            if process.readable and value != wanted:
                what = "not set" if value is None else f"`{value}`"
                yield f"process {process.pid} ({process.name}): {name} is {what}, not `{wanted}`"


def _in_log(step: ProveSwap, seen: Seen, found: Seen, rank: Running) -> Iterator[str]:
    """`found` has the logs of earlier runs too."""
    if not found.logs:
        yield f"operator log: there is no {step.log}"
    elif not seen.logs:
        paths = ", ".join(log.path for log in found.logs)
        yield f"operator log: {paths} is older than the rank, which started {rank.started_at}"
    elif not seen.operators:
        paths = ", ".join(log.path for log in seen.logs)
        yield f"operator log: {paths} names no operator: none of the library was called"


def _evidence(step: ProveSwap, seen: Seen) -> str:
    readable = [process for process in seen.processes if process.readable]
    name = next(iter(step.variables))
    parts = [f"{name}={step.variables[name]} in {len(readable)} process(es)"]
    if not seen.processes:
        parts = ["no process's environment may be read"]
    if hidden := len(seen.processes) - len(readable):
        parts[0] += f", {hidden} wrote over their environment"
    if step.log:
        parts.append(f"{len(seen.operators)} operators called: {_short(seen.operators)}")
        if idle := set(step.include) - seen.operators:
            parts.append(f"included, not called so far: {_short(idle)}")
        if called := set(step.exclude) & seen.operators:
            parts.append(f"excluded, called by other operators: {_short(called)}")
    else:
        parts.append(f"no operator log ({step.no_log})")
    return f"rank {step.rank}: {'; '.join(parts)}"


def _short(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
