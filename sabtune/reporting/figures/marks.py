"""Figures as plain data: `still` draws them for print, `live` for the browser.

Both draw the same numbers in the same colors, so that the page and the PDF files agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sabtune.reporting.figures.palette import GRAY, MAP

T = TypeVar("T")

MIN_SCALE_WIDTH = 0.01
"""Minimum width of a color scale."""


LAST = 1000
"""The rank in the legend of marks that have none."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a panel.

    label: The quantity, with its unit.

    ticks: Positions and texts that replace the default numbers.

    reverse: Whether the axis runs the other way: a y axis then increases downward.
    """

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] = ()
    reverse: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The color scale of a figure, over a color map of the palette.

    log: Whether the scale is logarithmic.

    low_first: Whether the lowest value has the most visible color, instead of the highest.
    """

    label: str
    low: float
    high: float
    log: bool = False
    low_first: bool = False

    @classmethod
    def of(cls, label: str, values: Sequence[float]) -> Scale:
        """Return a scale over the range of the values, at least `MIN_SCALE_WIDTH` wide."""
        high = max(values)
        return cls(label=label, low=min(*values, high - MIN_SCALE_WIDTH), high=high)

    @classmethod
    def of_percentages(cls, label: str, values: Sequence[float]) -> Scale:
        """Return a scale over different percentages; low ones are the most visible.

        It is logarithmic if the values span more than a factor of 10.
        """
        low, high = min(values), max(values)
        return cls(label=label, low=low, high=high, log=0 < 10 * low < high, low_first=True)

    @property
    def colors(self) -> tuple[str, ...]:
        """The colors from the lowest to the highest value."""
        return MAP if self.low_first else MAP[::-1]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The ticks of a logarithmic scale, at their positions; [] leaves them to the backend."""
        if not self.log:
            return []
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        round_values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        inside = [value for value in round_values if self.low <= value <= self.high]
        return [(self.position(value), f"{value:g}") for value in inside]

    def position(self, value: float) -> float:
        """Return the value, or its logarithm to base 10 on a logarithmic scale."""
        return math.log10(value) if self.log else value

    def place(self, value: float) -> float:
        """Return the position of a value between the ends of the scale, from 0 to 1."""
        low, high = self.position(self.low), self.position(self.high)
        return min(max((self.position(value) - low) / (high - low), 0.0), 1.0)

    def color(self, value: float) -> str:
        """Return the color of a value."""
        return self.colors[round(self.place(value) * (len(self.colors) - 1))]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line with an entry in the legend.

    low, high: The interval at each x.

    names: The hover text of each point. Empty: the x of the point.

    rank: The place in the legend: lower ones come first, and equal ones in order.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str
    color: str
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    symbol: str | None = None
    dash: str = "solid"
    width: float = 1.4
    names: Sequence[str] = ()
    rank: int = LAST


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve of `Curves`.

    name: The hover text.

    value: The value on the color scale of the figure. None: the color of the `Curves` applies.
    """

    x: Sequence[float]
    y: Sequence[float]
    name: str
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Many thin lines.

    color: The color of curves without a value on the scale.
    """

    curves: Sequence[Curve]
    label: str = ""
    color: str = GRAY
    dash: str = "solid"

    @property
    def alpha(self) -> float:
        """The opacity of a curve."""
        return opacity(len(self.curves), least=0.25)


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points of a scatter plot.

    names: Hover text of each point.
    """

    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str]
    label: str
    color: str
    symbol: str = "circle"
    filled: bool = True
    size: float = 5.0
    width: float = 1.0  # of the edge

    @property
    def alpha(self) -> float:
        """The opacity of a point."""
        return opacity(len(self.x), least=0.35)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A vertical line across the panel at `x`, or a horizontal line at `y`."""

    label: str
    x: float | None = None
    y: float | None = None
    color: str = GRAY
    dash: str = "dash"


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Bars of a chart.

    at: The centers of the bars: along x, or along y if `lying` is set.
    """

    at: Sequence[float]
    heights: Sequence[float]
    width: float
    label: str
    color: str
    lying: bool = False


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A heat map.

    x, y: Edges of the cells.

    z: Values (rows, columns); NaN for an empty cell.
    """

    x: Sequence[float]
    y: Sequence[float]
    z: NDArray[np.floating]


Mark = Line | Curves | Points | Rule | Bars | Heat


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    x: Axis
    y: Axis
    marks: Sequence[Mark]
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of one or more panels.

    name: The name of its files.

    caption: What it shows, and the number of trials or sequences.

    columns: Number of panels in a row.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    scale: Scale | None = None
    columns: int = 2
    height: float = 2.6  # inches, of a row of panels in print


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """An axis of parallel coordinates, with the position of every line on it, from 0 to 1."""

    label: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """A figure of parallel coordinates.

    values: Values of the lines on the color scale. The last line is drawn on top.
    """

    name: str
    title: str
    caption: str
    dimensions: Sequence[Dimension]
    values: Sequence[float]
    scale: Scale


Drawing = Figure | Parallel


def is_narrow(panel: Panel, which: Literal["x", "y"]) -> bool:
    """Return whether a logarithmic axis has room for ticks at 2 and 5 between powers of 10."""
    values: list[float] = []
    for mark in panel.marks:
        match mark:
            case Line() | Points():
                values += getattr(mark, which)
            case Curves():
                values += [value for curve in mark.curves for value in getattr(curve, which)]
    positive = [value for value in values if value > 0]
    return not positive or np.log10(max(positive) / min(positive)) < 2.5


def opacity(count: int, least: float) -> float:
    """Return the opacity of each of `count` overlapping marks, at least `least`."""
    return float(np.clip(5 / max(count, 1) ** 0.6, least, 0.9))


def spread(items: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the items: the first, the last, and others evenly in between."""
    if len(items) <= most:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, most).round()]
