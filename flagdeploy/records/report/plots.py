"""Where things lie in the plots of the HTML report, in percent of a plot's width and height.

Percentages and not pixels: an SVG without viewBox then fills any width, telephone or paper, while
its lines and letters keep their size. The template draws what these functions compute.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flagdeploy.records.report.wording import Test

FARTHEST_MARGINS = 3.0  # how many margins from 0 the agreement plot reaches
SHORTEST_SCALE = -1.0  # nats; a scatter of a model certain of everything still has an axis
SCATTER_TICKS = (0.0, -0.1, -1.0, -5.0, -10.0, -20.0, -30.0)


class Tick(NamedTuple):
    at: float
    label: str


class Line(NamedTuple):
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Axis:
    """From `low` at 0% to `high` at 100%; beyond is drawn at the edge."""

    low: float
    high: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(100.0 * min(1.0, max(0.0, share)), 3)

    def up(self, value: float) -> float:
        """The same on a vertical axis, whose 0% is the top."""
        return round(100.0 - self.at(value), 3)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> list[Tick]:
        step = nice_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [Tick(self.at(i * step), label(i * step)) for i in range(first, last + 1)]


def nice_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def label(value: float) -> str:
    return f"{value:.10g}".replace("-", "\u2212")


@dataclass(frozen=True)
class Bar:
    """One test in a forest plot: its interval, its estimate, what is allowed; `off`: -1 or 1 where
    the estimate lies beyond the left or right edge.
    """

    test: Test
    low: float
    high: float
    at: float
    allowed: tuple[float, float]
    margins: tuple[float, ...]
    off: int


@dataclass(frozen=True)
class Forest:
    bars: tuple[Bar, ...]
    zero: float
    ticks: tuple[Tick, ...]


def accuracy_forest(tests: Sequence[Test]) -> Forest | None:
    """Differences of scores in points; whatever lies right of the margin is allowed."""
    shown = [test for test in tests if test["estimate"] is not None and test["unit"] == "pp"]
    if not shown:
        return None
    edges = [0.0, *(edge for test in shown for edge in _edges(test))]
    edges += [-test["margin"] for test in shown if test["margin"]]
    room = 0.06 * (max(edges) - min(edges) or 1.0)
    axis = Axis(min(edges) - room, max(edges) + room)
    return _forest(shown, axis, lambda test: 1.0, lambda m: (-m, math.inf), (-1,))


def agreement_forest(tests: Sequence[Test]) -> Forest | None:
    """Every other test that has a margin, in multiples of it; allowed is from -1 to 1."""
    shown = [test for test in tests if test["estimate"] is not None and test["margin"]]
    if not shown:
        return None
    lowest = min(min(_edges(test)) / test["margin"] for test in shown)
    axis = Axis(-FARTHEST_MARGINS if lowest < -1.0 else -1.5, FARTHEST_MARGINS)
    return _forest(shown, axis, lambda test: test["margin"], lambda m: (-1.0, 1.0), (-1, 1))


def _edges(test: Test) -> list[float]:
    interval = test["interval"] or {}
    known = [interval.get("low"), test["estimate"], interval.get("high")]
    return [edge for edge in known if edge is not None]


def _forest(
    tests: Sequence[Test],
    axis: Axis,
    unit: Callable[[Test], float],
    allowed: Callable[[float], tuple[float, float]],
    sides: tuple[int, ...],
) -> Forest:
    bars = []
    for test in tests:
        scale, interval = unit(test), test["interval"]
        estimate = test["estimate"] / scale
        low, high = (
            (_edge(interval["low"], scale, axis.low), _edge(interval["high"], scale, axis.high))
            if interval
            else (estimate, estimate)
        )
        margin = test["margin"] and test["margin"] / scale
        within = allowed(margin) if margin else (0.0, 0.0)
        bars.append(
            Bar(
                test=test,
                low=axis.at(low),
                high=axis.at(high),
                at=axis.at(estimate),
                allowed=(axis.at(within[0]), axis.at(within[1])),
                margins=tuple(axis.at(side * margin) for side in sides) if margin else (),
                off=0 if axis.holds(estimate) else (1 if estimate > axis.high else -1),
            )
        )
    return Forest(tuple(bars), axis.at(0.0), tuple(axis.ticks()))


def _edge(value: float | None, scale: float, unbounded: float) -> float:
    return unbounded if value is None else value / scale


@dataclass(frozen=True)
class Survival:
    lines: tuple[Line, ...]
    floor: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


def survival(figure: Mapping[str, Any]) -> Survival:
    """A step down at every length where a reply parted; beside it the baseline's own hazard."""
    end = max(1.0, float(figure["end"]))
    x, y = Axis(0.0, end), Axis(0.0, 1.0)
    lines, t, share = [], 0.0, 1.0
    for next_t, next_share in figure["points"]:
        lines.append(Line(x.at(t), y.up(share), x.at(next_t), y.up(share)))
        lines.append(Line(x.at(next_t), y.up(share), x.at(next_t), y.up(next_share)))
        t, share = next_t, next_share
    lines.append(Line(x.at(t), y.up(share), 100.0, y.up(share)))
    hazard = figure.get("floor")
    own = [] if hazard is None else _decay(hazard, end, x, y)
    ticks = tuple(Tick(y.up(s / 4), f"{s / 4:.0%}") for s in range(5))
    return Survival(tuple(lines), tuple(own), tuple(x.ticks()), ticks)


def _decay(hazard: float, end: float, x: Axis, y: Axis) -> list[Line]:
    """exp(-hazard t), in straight pieces."""
    at = [end * i / 40 for i in range(41)]
    points = [(x.at(t), y.up(math.exp(-hazard * t))) for t in at]
    return [Line(*a, *b) for a, b in zip(points, points[1:], strict=False)]


@dataclass(frozen=True)
class Scatter:
    points: tuple[tuple[float, float], ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


def scatter(figure: Mapping[str, Any]) -> Scatter:
    """Square roots of nats: near 0, where most tokens lie, the scale is wider."""
    points = figure["points"]
    lowest = min([SHORTEST_SCALE, *(value for point in points for value in point)])
    axis = Axis(-math.sqrt(-lowest), 0.0)
    ticks = [value for value in SCATTER_TICKS if value >= lowest]
    ticks = [v for i, v in enumerate(ticks) if i == 0 or axis.at(_root(v)) < 91.0]
    return Scatter(
        tuple((axis.at(_root(a)), axis.up(_root(b))) for a, b in points),
        tuple(Tick(axis.at(_root(value)), label(value)) for value in ticks),
        tuple(Tick(axis.up(_root(value)), label(value)) for value in ticks),
    )


def _root(nats: float) -> float:
    return -math.sqrt(max(0.0, -nats))


class Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Histogram:
    """`baseline` as filled boxes, `candidate` as an outline."""

    baseline: tuple[Box, ...]
    candidate: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]


def histogram(figure: Mapping[str, Any]) -> Histogram:
    mine, theirs = figure["baseline"], figure["candidate"]
    start, width = figure["start"], figure["width"]
    x = Axis(start, start + width * len(mine))
    y = Axis(0.0, 1.08 * max(1, *mine, *theirs))
    boxes = []
    for i, count in enumerate(mine):
        left, right = x.at(start + i * width), x.at(start + (i + 1) * width)
        boxes.append(Box(left, y.up(count), round(right - left, 3), round(100 - y.up(count), 3)))
    lines, before = [], 0
    for i, count in enumerate([*theirs, 0]):
        left, right = x.at(start + i * width), x.at(start + (i + 1) * width)
        lines.append(Line(left, y.up(before), left, y.up(count)))
        lines.append(Line(left, y.up(count), right, y.up(count)))
        before = count
    up = tuple(Tick(round(100 - tick.at, 3), tick.label) for tick in y.ticks(4))
    return Histogram(tuple(boxes), tuple(lines[:-1]), tuple(x.ticks()), up)
