"""A look into a rank: its processes' variables and its operator logs. A program sent as text."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
