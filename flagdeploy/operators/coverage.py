"""How much of a model's work the kernels of an operator library do: three measures, four sources.

``operators``  distinct operators that launched a kernel. An operator is the innermost PyTorch
               operator around the call that launched it (``aten::mul``, ``vllm::rms_norm``); a
               launch outside of any, or from a replayed graph, is called as its kernel. It counts
               for the source that most of its kernel time comes from.
``launches``   kernels that the device ran; copies and fills of memory are no kernels.
``time``       their durations added up, in microseconds, over all streams, devices and ranks.

A share is a part of the same measure over all four sources. Sources are those of `attribution`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flagdeploy.operators.attribution import SOURCES, TRITON, Evidence
from flagdeploy.operators.trace import Tally, Trace

MEASURES = ("operators", "launches", "time_us")


@dataclass(frozen=True)
class Row:
    """The three measures of one source, or of several together."""

    operators: int
    launches: int
    time_us: float

    def __add__(self, other: "Row") -> "Row":
        return Row(
            self.operators + other.operators,
            self.launches + other.launches,
            self.time_us + other.time_us,
        )


@dataclass(frozen=True)
class Kernel:
    """One kernel and the operators that launched it, but for one of its own name, which
    torch.compile makes for each of its kernels."""

    name: str
    source: str
    launches: int
    time_us: float
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Operator:
    """One operator; `parts` is its kernel time by source, in microseconds."""

    name: str
    source: str
    launches: int
    time_us: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Coverage:
    """What one profile says. Kernels and operators stand in the order of their time."""

    rows: Mapping[str, Row]
    kernels: tuple[Kernel, ...]
    operators: tuple[Operator, ...]
    ambiguous: tuple[str, ...]
    copies: Mapping[str, Tally]
    trace: Trace
    evidence: Evidence
    about: Mapping[str, Any] = field(default_factory=dict)
    """How the profile was made: deployment, engine, requests, the command, ..."""

    @property
    def empty(self) -> bool:
        """Without kernels there are no shares, which is something else than a share of nothing."""
        return not self.kernels

    @property
    def triton(self) -> Row:
        return sum((self.rows[source] for source in TRITON), Row(0, 0, 0.0))

    @property
    def total(self) -> Row:
        return self.triton + self.rows["vendor"]

    @property
    def mixed(self) -> tuple[Operator, ...]:
        """Operators with kernels of several sources."""
        return tuple(one for one in self.operators if len(one.parts) > 1)

    @property
    def late(self) -> tuple[str, ...]:
        """Kernels of this profile that were compiled while it ran."""
        return tuple(one.name for one in self.kernels if one.name in self.evidence.late)

    @property
    def inactive(self) -> bool:
        """The library was asked for, and none of its kernels ran."""
        wanted = self.about.get("library", "none") != "none"
        return wanted and not self.empty and not self.rows["library"].launches

    def shares(self, row: Row) -> dict[str, float | None]:
        """`row` as parts of the total; None where there is nothing to be a part of."""
        return {
            measure: getattr(row, measure) / whole
            if (whole := getattr(self.total, measure))
            else None
            for measure in MEASURES
        }

    def to_dict(self) -> dict[str, Any]:
        rows = {**self.rows, "triton": self.triton, "total": self.total}
        return {
            "about": dict(self.about),
            "devices": sorted(self.trace.devices),
            "traces": self.trace.files,
            "traces_with_kernels": self.trace.files_with_kernels,
            "launches_from_graphs": self.trace.from_graphs,
            "sources": {
                name: {**vars(row), "share": self.shares(row)} for name, row in rows.items()
            },
            "kernels": [{**vars(one), "operators": list(one.operators)} for one in self.kernels],
            "operators": [{**vars(one), "parts": dict(one.parts)} for one in self.operators],
            "mixed": [one.name for one in self.mixed],
            "ambiguous": list(self.ambiguous),
            "compiled_meanwhile": list(self.late),
            "copies": {
                name: {"launches": tally.launches, "time_us": tally.time_ns / 1000}
                for name, tally in self.copies.items()
            },
            "versions": dict(self.evidence.versions),
            "evidence": str(self.evidence),
            "not_looked_at": [one for one in SOURCES if not self.evidence.looked_at(one)],
            "gaps": self.evidence.gaps(),
        }


def measure(trace: Trace, evidence: Evidence, about: Mapping[str, Any] | None = None) -> Coverage:
    """Attribute every kernel of `trace` and add up."""
    sources = {kernel: evidence.source(kernel) for kernel, _ in trace.pairs}
    kernels = _kernels(trace, sources)
    operators = _operators(trace, sources)
    rows = {
        source: Row(
            sum(one.source == source for one in operators),
            sum(one.launches for one in kernels if one.source == source),
            sum(tally.time_ns for pair, tally in trace.pairs.items()
                if sources[pair.kernel] == source) / 1000,
        )
        for source in SOURCES
    }  # fmt: skip
    return Coverage(
        rows=rows,
        kernels=kernels,
        operators=operators,
        ambiguous=tuple(sorted(name for name in sources if evidence.ambiguous(name))),
        copies=dict(sorted(trace.copies.items())),
        trace=trace,
        evidence=evidence,
        about=about or {},
    )


def _kernels(trace: Trace, sources: Mapping[str, str]) -> tuple[Kernel, ...]:
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    operators: defaultdict[str, set[str]] = defaultdict(set)
    for pair, tally in trace.pairs.items():
        tallies[pair.kernel].add(tally.launches, tally.time_ns)
        operators[pair.kernel] |= {pair.operator} - {"", pair.kernel}
    found = [
        Kernel(
            name,
            sources[name],
            tally.launches,
            tally.time_ns / 1000,
            tuple(sorted(operators[name])),
        )
        for name, tally in tallies.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.time_us, one.name)))


def _operators(trace: Trace, sources: Mapping[str, str]) -> tuple[Operator, ...]:
    parts: defaultdict[str, defaultdict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    for pair, tally in trace.pairs.items():
        mine = parts[pair.operator or pair.kernel]
        mine[sources[pair.kernel]].add(tally.launches, tally.time_ns)
    found = [_operator(name, by_source) for name, by_source in parts.items()]
    return tuple(sorted(found, key=lambda one: (-one.time_us, one.name)))


def _operator(name: str, parts: Mapping[str, Tally]) -> Operator:
    def weight(source: str) -> tuple[int, int, int]:
        return parts[source].time_ns, parts[source].launches, -SOURCES.index(source)

    return Operator(
        name=name,
        source=max(parts, key=weight),
        launches=sum(tally.launches for tally in parts.values()),
        time_us=sum(tally.time_ns for tally in parts.values()) / 1000,
        parts={source: parts[source].time_ns / 1000 for source in SOURCES if source in parts},
    )
