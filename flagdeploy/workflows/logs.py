"""The logs of all ranks of a deployment, merged line by line as they come."""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flagdeploy.config import workspace as workspaces
from flagdeploy.config.launch import Running
from flagdeploy.errors import FlagdeployError, UsageError
from flagdeploy.launchers.base import Launcher
from flagdeploy.records import run as runs
from flagdeploy.workflows import places
from flagdeploy.workflows.fanout import attempt, raise_failures


@dataclass(frozen=True)
class LogLine:
    rank: int
    host: str
    text: str

    def __str__(self) -> str:
        place = f"rank {self.rank} {self.host}".rstrip()
        return f"[{place}] {self.text}"


def logs(
    name: str | None = None,
    *,
    follow: bool = False,
    rank: int | None = None,
    tail: int | None = None,
    hosts: str | None = None,
    workspace: str | None = None,
) -> Iterator[LogLine]:
    """Lines of every rank of `name` (of `rank` only); with `follow` until the last one ends.

    When no rank is left on the hosts, the logs that the latest run kept. Raises HostError for
    hosts that do not answer, after the lines of the others; FlagdeployError when there is no log.
    """
    root = workspaces.find(workspace)
    records = workspaces.state_folder(root)
    with places.launchers(name, root, hosts) as launchers:
        yield from logs_of(launchers, name, records, follow=follow, rank=rank, tail=tail)


def logs_of(
    launchers: Mapping[str, Launcher],
    name: str | None,
    records: Path,
    *,
    follow: bool = False,
    rank: int | None = None,
    tail: int | None = None,
) -> Iterator[LogLine]:
    """`logs` on hosts already open; `records` is the folder of runs."""
    found, failures = attempt(launchers, lambda launcher: launcher.running(name))
    running = [r for ranks in found.values() for r in ranks]
    wanted = [r for r in running if rank in (None, r.rank)]
    if running and not wanted and not failures:
        raise UsageError(f"there is no rank {rank}", _ranks(r.rank for r in running))
    if wanted:
        yield from _merged(wanted, launchers, follow, tail)
    elif not failures:
        yield from _kept(name, rank, tail, records)
    raise_failures(failures)


def _merged(
    ranks: list[Running], launchers: Mapping[str, Launcher], follow: bool, tail: int | None
) -> Iterator[LogLine]:
    arriving: queue.Queue[LogLine | Exception | None] = queue.Queue(maxsize=10_000)

    def read(rank: Running) -> None:
        try:
            pieces = launchers[rank.host].logs(rank.id, follow=follow, tail=tail)
            for text in whole_lines(pieces):
                arriving.put(LogLine(rank.rank, rank.host, text))
            arriving.put(None)
        except Exception as error:
            arriving.put(error)

    for rank in ranks:
        threading.Thread(target=read, args=(rank,), daemon=True).start()
    open_ends = len(ranks)
    failures: list[Exception] = []
    while open_ends:
        item = arriving.get()
        if isinstance(item, LogLine):
            yield item
            continue
        open_ends -= 1
        if item is not None:
            failures.append(item)
    if failures:
        raise failures[0]


def whole_lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Whole lines of a stream of pieces that end anywhere; a character may be cut in two."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    if rest:
        yield rest.decode(errors="replace")


def _kept(name: str | None, rank: int | None, tail: int | None, records: Path) -> Iterator[LogLine]:
    run = runs.latest(records, name)
    kept = run.logs() if run else {}
    if not kept:
        raise FlagdeployError(f"{name or 'logs'}: nothing is running, and no log was kept")
    if rank is not None and rank not in kept:
        raise UsageError(f"no log of rank {rank} was kept", _ranks(kept))
    for number, path in kept.items():
        if rank in (None, number):
            lines = path.read_text(errors="replace").splitlines()
            yield from (LogLine(number, "", text) for text in deque(lines, maxlen=tail))


def _ranks(numbers: Iterable[int]) -> str:
    return f"there are: {', '.join(map(str, sorted(numbers)))}"
