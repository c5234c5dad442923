"""dequant --on hosts: every host of an inventory converts its share, in a folder they share.

The hosts need flagdeploy of this version in a Python of theirs; the machine that starts them needs
neither the checkpoint nor the folder. A rank lives no longer than the connection that started it.
"""

import json
import os
import shlex
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from flagdeploy import __version__
from flagdeploy.config.launch import Host
from flagdeploy.errors import FlagdeployError, HostError
from flagdeploy.launchers.attended import attend
from flagdeploy.launchers.base import Result
from flagdeploy.launchers.connection import Connection
from flagdeploy.records.events import Event, Report, silent
from flagdeploy.workflows.conversion import Conversion
from flagdeploy.workflows.fanout import each, raise_failures

# Prints the folder in which the probe lies: the output's parent, or itself where that is closed.
_LEAVE_PROBE = 'd=$(dirname "$1"); [ -w "$d" ] || d=$1; : > "$d/$2" && echo "$d"'


@dataclass(frozen=True)
class OnHostsResult:
    """What each host did: `ranks` are the results of `flagdeploy dequant --json` by host; before
    anything is done there are only the `commands`."""

    folder: Path
    commands: Mapping[str, str]
    ranks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.ranks:
            return "\n".join(f"{host}: {command}" for host, command in self.commands.items())
        lines = [
            f"{host}: {done['shards_written']} shard(s) written: {done['outcome']}"
            for host, done in self.ranks.items()
        ]
        return "\n".join([*lines, f"{self.folder}: complete, verified"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "commands": dict(self.commands),
            "ranks": {host: dict(done) for host, done in self.ranks.items()},
        }


def dequant_on_hosts(
    checkpoint: str | Path,
    conversion: Conversion,
    hosts: Sequence[Host],
    *,
    known_hosts: Path | None = None,
    out: str | Path | None = None,
    python: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    report: Report = silent,
) -> OnHostsResult:
    """Convert with one rank on each host; both folders have the same path on all of them.

    `python` is the Python of the hosts that has flagdeploy, by default the path of this one. On
    Ctrl-C all ranks are stopped; the same call goes on, with any number of hosts.

    Raises HostError when a host lacks flagdeploy or does not share the folder, or naming the first
    rank that failed; the others have gone on with their shares.
    """
    source = Path(os.path.abspath(checkpoint))  # noqa: PTH100 - links are the hosts' to follow
    target = Path(os.path.abspath(conversion.target(source, out)))  # noqa: PTH100
    base = [python or sys.executable, "-m", "flagdeploy", "dequant", "--ckpt", str(source)]
    base += ["--out", str(target), *conversion.arguments()]
    base += ["--workers", str(workers)] if workers else []
    size = str(len(hosts))
    ranks = {
        str(host): [*base, "--rank", str(number), "--world-size", size, "--json"]
        for number, host in enumerate(hosts)
    }
    commands = {host: shlex.join(argv) for host, argv in ranks.items()}
    if dry_run:
        return OnHostsResult(target, commands)
    with ExitStack() as stack:
        connections = {str(host): Connection(host, known_hosts) for host in hosts}
        for connection in connections.values():
            stack.callback(connection.close)
        each(connections, lambda connection: _require_flagdeploy(connection, base[0]))
        _require_shared(connections, target)
        done = _run_all(connections, ranks, report)
        if not any(result["outcome"] in ("converted", "already done") for result in done.values()):
            # Each ended before its file system showed it the last shards of the others.
            first = str(hosts[0])
            done |= _run_all({first: connections[first]}, {first: [*base, "--json"]}, report)
    return OnHostsResult(target, commands, done)


def _require_flagdeploy(connection: Connection, python: str) -> None:
    result = connection.run([python, "-m", "flagdeploy", "--version"], timeout=60)
    if result.text != f"flagdeploy {__version__}":
        text = result.stderr.decode(errors="replace").strip().splitlines()
        found = result.text or (text[-1] if text else f"exit code {result.exit_code}")
        raise HostError(
            connection.name,
            f"{python} has no flagdeploy {__version__}: {found}",
            f"install it there (pip install flagdeploy=={__version__}), or name a Python that has "
            "it, at the same path on every host, with --python",
        )


def _require_shared(connections: Mapping[str, Connection], target: Path) -> None:
    """Every host must see a file that the first one makes."""
    first = next(iter(connections.values()))
    name = f".flagdeploy-probe-{token_hex(8)}"
    made = first.run(["sh", "-c", _LEAVE_PROBE, "sh", str(target), name])
    if made.exit_code:
        text = made.stderr.decode(errors="replace").strip()
        raise HostError(first.name, f"cannot write {target}: {text}")
    probe = f"{made.text}/{name}"

    def check(connection: Connection) -> None:
        if connection.run(["test", "-e", probe]).exit_code:
            raise HostError(
                connection.name,
                f"does not share {made.text} with {first.name}",
                "ranks need the checkpoint and the output on a file system that all hosts mount",
            )

    try:
        each(connections, check)
    finally:
        first.run(["rm", "-f", probe])


def _run_all(
    connections: Mapping[str, Connection], ranks: Mapping[str, Sequence[str]], report: Report
) -> dict[str, dict[str, Any]]:
    """Run a command on every host to its end; their results, or the first failure."""
    stop = threading.Event()
    done: dict[str, dict[str, Any]] = {}
    failures: dict[str, Exception] = {}
    # Not `Thread.join`: up to Python 3.12 it takes a thread for ended that Ctrl-C kept it from
    # waiting for (https://github.com/python/cpython/issues/90882).
    ended = {host: threading.Event() for host in ranks}

    def rank(host: str) -> None:
        def tell(line: str) -> None:
            report(Event("convert", line, host))

        try:
            result = attend(connections[host], ranks[host], tell, stop)
            done[host] = _result(host, result)
        except FlagdeployError as error:
            failures.setdefault(host, error)
        finally:
            ended[host].set()

    for host in ranks:
        threading.Thread(target=rank, args=(host,), daemon=True).start()
    try:
        _wait(ended.values())
    except BaseException:
        stop.set()
        _wait(ended.values())
        raise
    raise_failures(failures)
    return {host: done[host] for host in ranks}


def _wait(ended: Iterable[threading.Event]) -> None:
    for event in ended:
        event.wait()


def _result(host: str, result: Result) -> dict[str, Any]:
    if result.exit_code:
        text = result.stderr.decode(errors="replace").strip()
        error, _, hint = text.rpartition("error: ")[2].partition("\n\nhint: ")
        raise HostError(host, error or f"exit code {result.exit_code}", hint or None)
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed
