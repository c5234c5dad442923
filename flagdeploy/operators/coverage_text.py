"""A coverage as text for people."""

from collections.abc import Iterator, Sequence

from flagdeploy.operators.attribution import SOURCES, TRITON
from flagdeploy.operators.coverage import Coverage, Kernel, Row

_NAMES = {
    "library": "library",
    "engine": "engine's Triton",
    "compiler": "compiler",
    "vendor": "vendor",
}
_WIDEST_NAME = 72
_LISTED = 8


def text(coverage: Coverage, top: int) -> str:
    """The three measures by source, the `top` kernels of each, and what to know about them."""
    parts = [_head(coverage)]
    if coverage.empty:
        parts.append(_nothing(coverage))
    else:
        parts.append("\n".join(_table(coverage)))
        parts += ["\n".join(_top(coverage, source, top)) for source in SOURCES if top]
        parts.append("\n".join(notes(coverage)))
    if command := coverage.about.get("command"):
        parts.append(f"made by: {command}")
    return "\n\n".join(part for part in parts if part)


def _head(coverage: Coverage) -> str:
    about, trace = coverage.about, coverage.trace
    said = [str(about[key]) for key in ("deployment", "engine") if about.get(key)]
    said += sorted(trace.devices)
    said += [f"{name} {known}" for name, known in coverage.evidence.versions.items()]
    if "requests" in about:
        said.append(
            f"{about['requests']} requests, {about['prompt_tokens']} tokens read and "
            f"{about['completion_tokens']} written"
        )
    files = f"{trace.files_with_kernels} of {trace.files} trace{'s' if trace.files > 1 else ''}"
    said.append(f"kernels in {files}")
    return ", ".join(said)


def _nothing(coverage: Coverage) -> str:
    return (
        f"no device kernels in the trace: {coverage.trace.operators_seen} operators ran, and none "
        "launched anything that the profiler saw. On a CPU there are no kernels to count; on a "
        "device the profiler has to record it (ProfilerActivity.CUDA or the vendor's)"
    )


def _table(coverage: Coverage) -> Iterator[str]:
    rows = {_NAMES[source]: coverage.rows[source] for source in TRITON}
    rows |= {"Triton together": coverage.triton, _NAMES["vendor"]: coverage.rows["vendor"]}
    rows |= {"all": coverage.total}
    unknown = {_NAMES[one] for one in SOURCES if not coverage.evidence.looked_at(one)}
    yield f"{'source':16}{'operators':>18}{'launches':>20}{'kernel time':>22}"
    for name, row in rows.items():
        cells = f"{'not looked at':>18}" if name in unknown else _cells(coverage, row)
        yield f"{name:16}{cells}"


def _cells(coverage: Coverage, row: Row) -> str:
    share = {
        measure: "" if part is None else f"{part:.1%}"
        for measure, part in coverage.shares(row).items()
    }
    return (
        f"{row.operators:>10}{share['operators']:>8}"
        f"{row.launches:>12}{share['launches']:>8}"
        f"{row.time_us / 1000:>11.3f} ms{share['time_us']:>8}"
    )


def _top(coverage: Coverage, source: str, top: int) -> Iterator[str]:
    kernels = [one for one in coverage.kernels if one.source == source]
    if not kernels:
        return
    yield f"{_NAMES[source]}, {min(top, len(kernels))} of {len(kernels)} kernels:"
    for one in kernels[:top]:
        yield f"{one.time_us / 1000:>12.3f} ms{one.launches:>8}  {_named(one)}"


def _named(kernel: Kernel) -> str:
    name = kernel.name
    name = name if len(name) <= _WIDEST_NAME else f"{name[: _WIDEST_NAME - 3]}..."
    return f"{name}  ({_listed(kernel.operators, 3)})" if kernel.operators else name


def notes(coverage: Coverage) -> Iterator[str]:
    """What a reader has to know before quoting a number."""
    trace = coverage.trace
    if coverage.inactive:
        yield (
            f"the deployment asks for {coverage.about['library']}, and none of its kernels ran: "
            "the switch has no effect"
        )
    yield f"evidence: {coverage.evidence}"
    yield from (f"careful: {gap}" for gap in coverage.evidence.gaps())
    if coverage.mixed:
        names = [one.name for one in coverage.mixed]
        yield f"operators of several sources, counted for most of their time: {_listed(names)}"
    if coverage.ambiguous:
        names = list(coverage.ambiguous)
        yield f"in the library and in the engine, counted for the library: {_listed(names)}"
    if trace.from_graphs:
        yield (
            f"{trace.from_graphs} launches came from replayed graphs, which hide operators: each "
            "kernel counts as one (cuda_graph.enabled=false shows them)"
        )
    if waiting := sum(one.time_us for one in coverage.kernels if one.name.startswith("nccl")):
        yield (
            f"{waiting / 1000:.3f} ms of the vendor's time are NCCL's, whose kernels wait for "
            "other ranks while they run"
        )
    if coverage.late:
        yield (
            f"compiled while the profile ran, so tuning may be in the numbers: "
            f"{_listed(coverage.late)}; run it again"
        )
    if coverage.copies:
        launches = sum(one.launches for one in coverage.copies.values())
        ms = sum(one.time_ns for one in coverage.copies.values()) / 1e6
        yield f"not counted: {launches} copies and fills of memory, {ms:.3f} ms"


def _listed(names: Sequence[str], most: int = _LISTED) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
