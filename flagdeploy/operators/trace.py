"""What one trace of torch.profiler says of kernels: how often each was launched by which operator.

Kineto's categories (libkineto/src/ActivityType.cpp): ``kernel`` is one launch as the device ran it,
``dur`` in microseconds; ``gpu_memcpy`` and ``gpu_memset`` are the copy engine's; ``cuda_runtime``
and ``cuda_driver`` (``privateuse1_runtime`` and so on elsewhere) are the calls that launched them,
joined by `args.correlation`; ``cpu_op`` is an operator on the thread that called it.
"""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from flagdeploy.operators.chrome_trace import ChromeTrace

COPIES = ("gpu_memcpy", "gpu_memset")
# Frames that torch.compile puts around whole graphs; no operators (torch/_dynamo, _inductor).
_FRAMES = ("Torch-Compiled Region", "## Call CompiledFxGraph")
_NONE = -1


class Pair(NamedTuple):
    """A kernel and the operator that launched it; `operator` is empty where none is known."""

    kernel: str
    operator: str


@dataclass
class Tally:
    """Launches and their device time; whole nanoseconds, so that no order of adding matters."""

    launches: int = 0
    time_ns: int = 0

    def add(self, launches: int, time_ns: int) -> None:
        self.launches += launches
        self.time_ns += time_ns


def _tallies() -> "defaultdict[Any, Tally]":
    return defaultdict(Tally)


@dataclass
class Trace:
    """One file, or several of them added up."""

    pairs: "defaultdict[Pair, Tally]" = field(default_factory=_tallies)
    copies: "defaultdict[str, Tally]" = field(default_factory=_tallies)
    devices: set[str] = field(default_factory=set)
    files: int = 0
    files_with_kernels: int = 0
    operators_seen: int = 0
    """Calls of operators on the host, launching or not."""
    from_graphs: int = 0
    """Launches that a replayed graph made: which operators they belong to is not recorded."""

    def add(self, other: "Trace") -> None:
        for pair, tally in other.pairs.items():
            self.pairs[pair].add(tally.launches, tally.time_ns)
        for name, tally in other.copies.items():
            self.copies[name].add(tally.launches, tally.time_ns)
        self.devices |= other.devices
        self.files += other.files
        self.files_with_kernels += other.files_with_kernels
        self.operators_seen += other.operators_seen
        self.from_graphs += other.from_graphs


def read_traces(paths: Iterable[Path]) -> Trace:
    """All files of one profile, such as one of each rank; ids are joined within a file only.

    Raises UsageError for a file that is no whole trace.
    """
    whole = Trace()
    for path in paths:
        whole.add(read_trace(path))
    return whole


def read_trace(path: Path) -> Trace:
    """Raises UsageError for a file that is no whole trace."""
    trace = ChromeTrace(path)
    events = _Events()
    for event in trace.events():
        events.take(event)
    read = events.tallied()
    devices = trace.header.get("deviceProperties")
    for device in devices if isinstance(devices, list) else ():
        if isinstance(device, dict) and device.get("name"):
            read.devices.add(str(device["name"]))
    return read


@dataclass
class _Operators:
    """Operators of one thread, column by column."""

    start: "array[float]" = field(default_factory=lambda: array("d"))
    end: "array[float]" = field(default_factory=lambda: array("d"))
    name: "array[int]" = field(default_factory=lambda: array("l"))
    external: "array[int]" = field(default_factory=lambda: array("q"))

    def innermost(self, moments: list[tuple[float, int]], names: list[str]) -> Iterator[int]:
        """For each of the sorted (moment, ...) the name of the operator that began last among
        those that run, or `_NONE`."""
        rows = list(range(len(self.start)))
        # One key after the other, the strongest last: tuples of keys would take more memory.
        rows.sort(key=lambda i: names[self.name[i]])
        rows.sort(key=self.external.__getitem__)
        rows.sort(key=self.end.__getitem__, reverse=True)
        rows.sort(key=self.start.__getitem__)
        running: list[int] = []
        following = iter(rows)
        row = next(following, None)
        for moment, _ in moments:
            while row is not None and self.start[row] <= moment:
                while running and self.end[running[-1]] <= self.start[row]:
                    running.pop()
                running.append(row)
                row = next(following, None)
            while running and self.end[running[-1]] < moment:
                running.pop()
            yield self.name[running[-1]] if running else _NONE


@dataclass
class _Kernels:
    """Launches as the device ran them, column by column."""

    name: "array[int]" = field(default_factory=lambda: array("l"))
    time_ns: "array[int]" = field(default_factory=lambda: array("q"))
    correlation: "array[int]" = field(default_factory=lambda: array("q"))
    external: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass
class _Calls:
    """Calls of the runtime or driver that may have launched something, column by column."""

    correlation: "array[int]" = field(default_factory=lambda: array("q"))
    start: "array[float]" = field(default_factory=lambda: array("d"))
    thread: "array[int]" = field(default_factory=lambda: array("l"))
    graph: "array[int]" = field(default_factory=lambda: array("b"))


class _Events:
    """Collects the events of one file, then joins them."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._threads: dict[tuple[str, str], int] = {}
        self._operators: list[_Operators] = []
        self._kernels = _Kernels()
        self._calls = _Calls()
        self._trace = Trace(files=1)

    def take(self, event: dict[str, Any]) -> None:
        if event.get("ph") != "X":
            return
        category = str(event.get("cat", "")).lower()
        if category == "kernel":
            self._take_kernel(event)
        elif category == "cpu_op":
            self._take_operator(event)
        elif category.endswith(("_runtime", "_driver")):
            self._take_call(event)
        elif category in COPIES:
            self._trace.copies[str(event.get("name", ""))].add(1, _ns(event))

    def _take_kernel(self, event: dict[str, Any]) -> None:
        kernels, args = self._kernels, _args(event)
        kernels.name.append(self._number(str(event.get("name", ""))))
        kernels.time_ns.append(_ns(event))
        kernels.correlation.append(_id(args, "correlation"))
        kernels.external.append(_id(args, "External id"))

    def _take_operator(self, event: dict[str, Any]) -> None:
        name = str(event.get("name", ""))
        if name.startswith(_FRAMES):
            return
        self._trace.operators_seen += 1
        mine = self._operators[self._thread(event)]
        start = _number(event.get("ts"))
        mine.start.append(start)
        mine.end.append(start + _number(event.get("dur")))
        mine.name.append(self._number(name))
        mine.external.append(_id(_args(event), "External id"))

    def _take_call(self, event: dict[str, Any]) -> None:
        correlation = _id(_args(event), "correlation")
        if correlation != _NONE:
            calls = self._calls
            calls.correlation.append(correlation)
            calls.start.append(_number(event.get("ts")))
            calls.thread.append(self._thread(event))
            calls.graph.append("GraphLaunch" in str(event.get("name", "")))

    def tallied(self) -> Trace:
        kernels, trace = self._kernels, self._trace
        operators = self._joined()
        for i, name in enumerate(kernels.name):
            operator = "" if operators[i] == _NONE else self._names[operators[i]]
            trace.pairs[Pair(self._names[name], operator)].add(1, kernels.time_ns[i])
        trace.files_with_kernels = int(bool(kernels.name))
        return trace

    def _joined(self) -> "array[int]":
        """The operator of each kernel: the innermost around its launching call; where no call was
        recorded, the one with its external id."""
        kernels, calls = self._kernels, self._calls
        found = array("l", [_NONE]) * len(kernels.name)
        order = sorted(
            range(len(calls.correlation)), key=lambda i: (calls.correlation[i], calls.start[i])
        )
        sorted_ids = array("q", (calls.correlation[i] for i in order))
        moments: dict[int, list[tuple[float, int]]] = defaultdict(list)
        without_call: list[int] = []
        for kernel, correlation in enumerate(kernels.correlation):
            at = bisect_left(sorted_ids, correlation)
            if correlation == _NONE or at == len(order) or sorted_ids[at] != correlation:
                without_call.append(kernel)
                continue
            call = order[at]
            if calls.graph[call]:
                self._trace.from_graphs += 1
            else:
                moments[calls.thread[call]].append((calls.start[call], kernel))
        for thread, launched in moments.items():
            launched.sort()
            names = self._operators[thread].innermost(launched, self._names)
            for (_, kernel), name in zip(launched, names, strict=True):
                found[kernel] = name
        self._join_by_external_id(without_call, found)
        return found

    def _join_by_external_id(self, kernels: list[int], found: "array[int]") -> None:
        wanted = {self._kernels.external[i] for i in kernels} - {_NONE}
        by_id = {
            external: mine.name[i]
            for mine in (self._operators if wanted else ())
            for i, external in enumerate(mine.external)
            if external in wanted
        }
        for kernel in kernels:
            found[kernel] = by_id.get(self._kernels.external[kernel], _NONE)

    def _number(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self._names))
        if number == len(self._names):
            self._names.append(name)
        return number

    def _thread(self, event: dict[str, Any]) -> int:
        key = (str(event.get("pid")), str(event.get("tid")))
        thread = self._threads.setdefault(key, len(self._operators))
        if thread == len(self._operators):
            self._operators.append(_Operators())
        return thread


def _args(event: dict[str, Any]) -> dict[str, Any]:
    args = event.get("args")
    return args if isinstance(args, dict) else {}


def _id(args: dict[str, Any], key: str) -> int:
    """Ids begin at 1: zero is kineto's word for none."""
    value = args.get(key)
    return value if isinstance(value, int) and 0 < value < 1 << 63 else _NONE


def _number(value: Any) -> float:
    """Some versions write numbers as text; NaN and infinity are no times."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if isfinite(number) else 0.0


def _ns(event: dict[str, Any]) -> int:
    return round(_number(event.get("dur")) * 1000)
