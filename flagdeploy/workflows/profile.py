"""A profile of a running deployment: start, ask, stop, fetch every rank's trace, scan its kernels.

The programs that run beside a rank are texts of `flagdeploy.operators`, handed to a Python there.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flagdeploy.config.launch import Running
from flagdeploy.errors import EngineError, FlagdeployError, HostError, UsageError
from flagdeploy.evals.address import authorization, base_url
from flagdeploy.evals.client import Endpoint
from flagdeploy.launchers.base import Launcher
from flagdeploy.operators import as_engine, scan, trace_files
from flagdeploy.records.events import Event, Report
from flagdeploy.workflows.fanout import each

PYTHONS = ("python3", "python")
NOT_FOUND = (126, 127)
PIECE = 16 << 20  # bytes of a trace fetched at once
SCAN_TIMEOUT_S = 600.0  # thousands of source files on a slow disk
FETCH_TIMEOUT_S = 120.0
GIVING_UP_S = 60.0  # for an engine to end a profile that is of no use
QUIET_S = 2.0  # a trace that grew no more for so long is whole


@dataclass(frozen=True)
class Place:
    """A rank and where it writes traces; `here` runs a program of ours beside it."""

    rank: Running
    launcher: Launcher
    folder: str

    def here(self, program: Any, *arguments: str, timeout: float) -> bytes:
        """What a module, given its text, prints there. Raises HostError when it cannot run."""
        for python in PYTHONS:
            argv = [python, "-c", Path(program.__file__).read_text(), *arguments]
            done = self.launcher.inside(self.rank.id, argv, timeout)
            if done.exit_code == 0:
                return done.stdout
            if done.exit_code not in NOT_FOUND:
                said = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
                raise HostError(self.rank.host, f"{self.rank.what}: {said[-1]}")
        raise HostError(
            self.rank.host,
            f"{self.rank.what}: no {' or '.join(PYTHONS)} on the path of its container",
            "profile it by hand: flagdeploy ops coverage --trace FILE",
        )

    def listed(self) -> dict[str, Any]:
        """The time by the rank's clock, and the traces with their sizes."""
        request = json.dumps({"folder": self.folder})
        answer: dict[str, Any] = json.loads(
            self.here(trace_files, request, timeout=FETCH_TIMEOUT_S)
        )
        return answer


@dataclass(frozen=True)
class Profile:
    """The traces of all ranks, as files here, and the answers of `scan` from beside each."""

    traces: tuple[Path, ...]
    scans: tuple[Mapping[str, Any], ...]


def profile(
    places: Sequence[Place],
    endpoint: Endpoint,
    ask: Callable[[], None],
    packages: Mapping[str, Sequence[str]],
    *,
    to: Path,
    timeout_s: float,
    report: Report,
) -> Profile:
    """Profile `ask`, with the traces in the new folder `to`.

    `packages` names the library's and the engine's. Raises UsageError for an endpoint without
    profiler, EngineError for traces that do not come in `timeout_s`, HostError for a rank that
    cannot be asked, and what `ask` raises, after stopping the profiler.
    """
    by_rank = {str(place.rank.rank): place for place in places}
    before = each(by_rank, Place.listed)
    report(Event("profile", "profiling"))
    try:
        _post(endpoint, "/start_profile", timeout_s)
        ask()
    except BaseException:
        # An engine that answers too late has begun all the same.
        with suppress(FlagdeployError):  # what was raised is the cause
            _post(endpoint, "/stop_profile", GIVING_UP_S)
        raise
    report(Event("profile", "the engine writes its traces"))
    _post(endpoint, "/stop_profile", timeout_s)
    new = _once(_written(by_rank, before, time.monotonic() + timeout_s))
    to.mkdir(parents=True)
    traces = each(by_rank, lambda place: _fetched(place, new[str(place.rank.rank)], to, report))
    report(Event("scan", "looking for the kernels that the engine's packages declare"))
    scans = each(by_rank, lambda place: _scanned(place, packages, _began(before, place), to))
    return Profile(
        tuple(path for paths in traces.values() for path in paths), tuple(scans.values())
    )


def _began(before: Mapping[str, Mapping[str, Any]], place: Place) -> float:
    return float(before[str(place.rank.rank)]["now"])


def _post(endpoint: Endpoint, path: str, timeout_s: float) -> None:
    """Without stacks, which SGLang would record; the others ignore the field."""
    url = base_url(endpoint.url).removesuffix("/v1") + path
    headers = {"Content-Type": "application/json"}
    headers |= authorization(endpoint.url, endpoint.api_key)
    asked = urllib.request.Request(url, b'{"with_stack": false}', headers, method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(asked, timeout=timeout_s).close()
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(500).decode(errors="replace").strip()
        if error.code == 404:
            raise _not_offered(endpoint.name) from None
        raise EngineError(f"{url}: HTTP {error.code}: {said}") from None
    except OSError as error:
        raise EngineError(f"{url}: {error}", "flagdeploy status, flagdeploy logs") from None


def _not_offered(name: str) -> UsageError:
    return UsageError(
        f"{name} was served without its profiler",
        f"serve it again with it: flagdeploy serve {name} profiler.folder=/tmp/flagdeploy-profiles",
    )


def folder_of(name: str, config: Mapping[str, Any] | None) -> str:
    """Where the ranks of `name` write traces, by the configuration that it was served with.

    Raises UsageError where it was served without.
    """
    folder = ((config or {}).get("profiler") or {}).get("folder")
    if not folder:
        raise _not_offered(name)
    return str(folder)


def _written(
    places: Mapping[str, Place], before: Mapping[str, Mapping[str, Any]], deadline: float
) -> dict[str, dict[str, int]]:
    """New traces of each rank with their sizes, once all have some and none grows."""
    last: dict[str, dict[str, int]] = {}
    while True:
        listed = each(places, Place.listed)
        new = {
            rank: {
                name: size
                for name, size in answer["files"].items()
                if size and name not in before[rank]["files"]
            }
            for rank, answer in listed.items()
        }
        if new == last and all(new.values()):
            return new
        if time.monotonic() > deadline:
            late = ", ".join(rank for rank, files in new.items() if not files) or "all, which grow"
            folder = next(iter(places.values())).folder
            raise EngineError(
                f"no whole traces in {folder} yet, of ranks: {late}",
                "--timeout allows more; fewer --requests or --max-tokens make smaller traces",
            )
        last = new
        time.sleep(QUIET_S)


def _once(new: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Every trace at one rank only: those of all are in sight of each in a folder that hosts share,
    and would count once a rank."""
    first: dict[tuple[str, int], str] = {}
    for rank, files in new.items():
        for file in files.items():
            first.setdefault(file, rank)
    return {
        rank: {n: s for n, s in files.items() if first[n, s] == rank} for rank, files in new.items()
    }


def _fetched(place: Place, files: Mapping[str, int], to: Path, report: Report) -> list[Path]:
    paths = []
    for name, size in files.items():
        # The name is the engine's, with its folders: it becomes one name in a folder of ours.
        path = to / f"rank{place.rank.rank}-{quote(name, safe='')}"
        with path.open("xb") as file:
            while file.tell() < size:
                request = {"folder": place.folder, "file": name, "offset": file.tell()}
                asked = json.dumps({**request, "length": PIECE})
                piece = place.here(trace_files, asked, timeout=FETCH_TIMEOUT_S)
                if not piece:
                    raise HostError(place.rank.host, f"{name}: became shorter while it was read")
                file.write(piece)
                message = f"trace of {place.rank.what}"
                report(Event("fetch", message, place.rank.host, file.tell(), size, "B"))
        paths.append(path)
    return paths


def _scanned(
    place: Place, packages: Mapping[str, Sequence[str]], since: float, to: Path
) -> Mapping[str, Any]:
    request = json.dumps({**packages, "since": since})
    program = Path(scan.__file__).read_text()
    try:
        printed = place.here(as_engine, program, request, timeout=SCAN_TIMEOUT_S)
    except HostError as error:
        error.hint = f"the traces are here: flagdeploy ops coverage --trace {to}"
        raise
    answer: dict[str, Any] = json.loads(printed)
    return answer
