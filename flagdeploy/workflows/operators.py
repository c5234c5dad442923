"""Is an operator library on? Asked of the processes of a rank, its operator log and its outputs."""

import http.client
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flagdeploy.config.launch import Running
from flagdeploy.errors import EngineError, FlagdeployError, HostError
from flagdeploy.launchers.base import Launcher
from flagdeploy.plans.steps import CompareNative, ProveSwap, RecordNative, WaitReady
from flagdeploy.records.files import write_private
from flagdeploy.workflows.checkpoint_on_host import fingerprint
from flagdeploy.workflows.endpoint import post

FOLDER = "native"  # of the records, beside the runs
REPEATS = 2  # a model that does not repeat itself cannot show a swap by its outputs
# Shorter than a block of any KV cache, so that no answer comes out of a prefix cache.
PROMPTS = ("1", "2 + 2 =", "Once upon a")
TOKENS = 16
_SHOWN = 8
LOG_BYTES = 64 << 20  # of one log: without `once`, FlagGems writes a line for every call

# Prints a line `P PID NAME` for each process of the rank, `V NAME=VALUE` for those of its variables
# that were asked for, or `U` when it wrote over them: setproctitle, which vLLM uses, puts a title
# in the place of arguments and environment and zeros the rest, from the start on. `L TIME SIZE
# PATH` for each operator log, `O NAME` for each operator in it. A local rank is known by its folder
# in the environment, one in a container, also without a PID namespace, by its cgroup.
LOOK = r"""
names=$1; pattern=$2; bytes=$3
own=$(cat "/proc/$$/cgroup" 2>/dev/null)
for process in /proc/[0-9]*; do
  [ "$process" = "/proc/$$" ] && continue
  variables=$(tr '\0' '\n' <"$process/environ" 2>/dev/null) || continue
  [ -n "$variables" ] || continue
  if [ -n "$FLAGDEPLOY_RANK_FOLDER" ]; then
    mark="FLAGDEPLOY_RANK_FOLDER=$FLAGDEPLOY_RANK_FOLDER"
    printf '%s\n' "$variables" | grep -qxF "$mark" || continue
  else
    [ "$(cat "$process/cgroup" 2>/dev/null)" = "$own" ] || continue
  fi
  printf 'P %s %s\n' "${process#/proc/}" "$(tr '\n' ' ' <"$process/comm" 2>/dev/null)"
  case $(tr '\0' '\n' <"$process/environ" | head -n 1) in
    *=*) printf '%s\n' "$variables" | grep -E "^($names)=" | sed 's/^/V /' ;;
    *) echo U ;;
  esac
done
[ -n "$pattern" ] || exit 0
cd "${FLAGDEPLOY_RANK_FOLDER:-/tmp}" || exit 0
for log in $pattern; do
  [ -f "$log" ] || continue
  printf 'L %s %s\n' "$(stat -c '%Y %s' "$log")" "$log"
  head -c "$bytes" "$log" | sed -n 's/^\[DEBUG\] *\([A-Za-z0-9_.]*\):.*/O \1/p' | sort -u
done
exit 0
"""


@dataclass(frozen=True)
class Process:
    """One process of a rank; `variables` are those that were asked for."""

    pid: int
    name: str
    variables: Mapping[str, str]
    readable: bool


@dataclass(frozen=True)
class Log:
    """One operator log; `time` in seconds since the epoch, by the host's clock."""

    time: float
    path: str
    operators: frozenset[str]


@dataclass(frozen=True)
class Seen:
    """What a look into a rank showed."""

    processes: tuple[Process, ...] = ()
    logs: tuple[Log, ...] = ()

    @property
    def operators(self) -> frozenset[str]:
        return frozenset[str]().union(*(log.operators for log in self.logs))

    def since(self, moment: float) -> "Seen":
        """Without the logs of earlier runs, such as those in a mounted folder."""
        return replace(self, logs=tuple(log for log in self.logs if log.time >= int(moment)))


def look(launcher: Launcher, rank: Running, variables: Iterable[str], log: str) -> Seen:
    """Look into a running rank. Values of other variables stay there."""
    argv = ["sh", "-c", LOOK, "look", "|".join(variables), log, str(LOG_BYTES)]
    result = launcher.inside(rank.id, argv, timeout=60)
    if result.exit_code:
        text = result.stderr.decode(errors="replace").strip() or f"exit code {result.exit_code}"
        raise EngineError(f"{rank.host}: cannot look into {rank.name}: {text}")
    return parse(result.stdout.decode(errors="replace"))


def parse(text: str) -> Seen:
    """The lines that `LOOK` prints."""
    processes: list[tuple[int, str, dict[str, str], list[str]]] = []
    logs: list[tuple[float, str, set[str]]] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "P":
            pid, _, name = rest.partition(" ")
            processes.append((int(pid), name.strip(), {}, []))
        elif kind == "U":
            processes[-1][3].append(kind)
        elif kind == "V":
            name, _, value = rest.partition("=")
            processes[-1][2][name] = value
        elif kind == "L":
            time, _, path = rest.split(" ", 2)
            logs.append((float(time), path, set()))
        elif kind == "O":
            logs[-1][2].add(rest.rpartition(".")[2])
    found = tuple(Process(pid, name, vars_, not hidden) for pid, name, vars_, hidden in processes)
    return Seen(found, tuple(Log(time, path, frozenset(names)) for time, path, names in logs))


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


def record_native(step: RecordNative, launcher: Launcher, deployment: str, folder: Path) -> str:
    """Keep in ``folder/KEY.json`` what the endpoint generates; asked twice, to see it repeat.

    An endpoint without log-probabilities leaves nothing on record: `compare_native` knows whether
    anything else shows the swap.
    """
    try:
        answers = [_answers(step.endpoint, launcher) for _ in range(REPEATS)]
    except Refused as error:
        return f"{error}; operators.compare_native=false leaves this start out"
    record = {"of": _runs_now(step, launcher, deployment), "answers": answers}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(_record(folder, step.key), json.dumps(record).encode())
    return f"{len(PROMPTS)} prompts, {TOKENS} tokens each"


def recorded(folder: Path) -> dict[str, str]:
    """Keys of the records in `folder`, and of which image and checkpoint each is."""
    return {path.stem: _read(path)["of"] for path in folder.glob("*.json")}


def _read(path: Path) -> dict[str, Any]:
    """A record; an empty one where there is none that can be read, which is made anew."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        return {"of": str(record["of"]), "answers": list(record["answers"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"of": "", "answers": []}


def _runs_now(step: RecordNative | CompareNative, launcher: Launcher, deployment: str) -> str:
    """Image and checkpoint of what answers, as `Facts.native_of` says it before."""
    images = [r.image for r in launcher.running(deployment) if r.rank == 0 and not r.stage]
    found = fingerprint(launcher, step.checkpoint)
    return f"{images[0] or 'process'} {found.digest}" if images and found else ""


def compare_native(step: CompareNative, launcher: Launcher, deployment: str, folder: Path) -> str:
    """How outputs with the library stand to native ones.

    Equal to the last bit they are no proof of anything else than that: an operator may compute the
    same bits. Only where nothing else shows the swap (`step.required`), it is an EngineError, and
    so is a native run that cannot be compared with.
    """
    record = _read(_record(folder, step.key))
    native, again = record["answers"], f"flagdeploy stop {deployment}, then serve it: records one"
    if not native:
        return _no_comparison(step, "no native run is on record", again)
    if record["of"] != _runs_now(step, launcher, deployment):
        what = "the native run on record had another image or checkpoint"
        return _no_comparison(step, what, again)
    if any(answer != native[0] for answer in native[1:]):
        return _no_comparison(step, "native outputs differ from run to run")
    try:
        now = _answers(step.endpoint, launcher)
    except Refused as error:
        return _no_comparison(step, str(error))
    different = sum(one != other for one, other in zip(now, native[0], strict=True))
    if different:
        return f"outputs differ from native ones on {different} of {len(PROMPTS)} prompts"
    return _no_comparison(
        step, "outputs are native ones to the last bit: the operators called compute the same bits"
    )


def _no_comparison(step: CompareNative, what: str, hint: str | None = None) -> str:
    if step.required:
        shown = "nothing shows that the operator library is on"
        raise EngineError(f"{step.host}: {shown}: {what}", hint)
    return what


class Refused(FlagdeployError):
    """The endpoint gives no log-probabilities."""


def _answers(endpoint: WaitReady, launcher: Launcher) -> list[Any]:
    """Per prompt, the tokens generated greedily and their log-probabilities."""
    return [_answer(endpoint, launcher, prompt) for prompt in PROMPTS]


def _answer(endpoint: WaitReady, launcher: Launcher, prompt: str) -> Any:
    body = {"model": endpoint.model, "prompt": prompt, "max_tokens": TOKENS}
    body |= {"temperature": 0, "logprobs": 1}
    try:
        status, answer = post(
            launcher, endpoint.address, endpoint.port, "/v1/completions", body, endpoint.api_key
        )
    except (OSError, EOFError, http.client.HTTPException, HostError) as error:
        what = f"the endpoint did not answer {prompt!r}: {error or type(error).__name__}"
        raise EngineError(f"{endpoint.host}: {what}") from None
    try:
        found = json.loads(answer)["choices"][0]["logprobs"]
        return [found["tokens"], found["token_logprobs"]]
    except (ValueError, KeyError, IndexError, TypeError):
        text = re.sub(r"\s+", " ", answer.decode(errors="replace"))[:200]
        if status >= 500:  # an operator that fails on this prompt, or an engine that broke
            what = f"the endpoint fails on {prompt!r}: HTTP {status}: {text}"
            raise EngineError(f"{endpoint.host}: {what}") from None
        raise Refused(f"the endpoint gives no log-probabilities: HTTP {status}: {text}") from None


def _record(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"
