"""What a figure shows, as plain data: `still` draws it for print, `live` for the browser.

Both draw the same numbers in the same colours, so that a page and a PDF agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

# Okabe and Ito, "Color Universal Design", 2008: told apart by the colour-blind too.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, WHITE = "#8A8F98", "#FFFFFF"
METHODS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
SYMBOLS = ("circle", "square", "diamond", "triangle", "cross", "plus", "star")
"""Of methods, which outnumber colours now and then: symbols go on with their own period."""

DASHES = ("solid", "dash", "dot")

NARROWEST = 0.01
"""Of a scale of scores."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """label: with its unit. ticks: where it isn't numbers that stand there. reverse: downwards."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] = ()
    reverse: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What colours stand for: viridis, turned so that what is high is dark."""

    label: str
    low: float
    high: float

    @classmethod
    def of(cls, label: str, values: Sequence[float]) -> Scale:
        """From the least to the greatest; `NARROWEST` wide where they are all but the same."""
        high = max(values)
        return cls(label=label, low=min(*values, high - NARROWEST), high=high)

    def place(self, value: float) -> float:
        """From 0 to 1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of its own in the legend; low, high: the ends of its interval at every x.

    names: what each point is, where a pointer rests on it; else its x.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str
    colour: str
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    symbol: str | None = None
    dash: str = "solid"
    width: float = 1.4
    names: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One of many. name: what it is, where a pointer rests on it; value: on the figure's scale."""

    x: Sequence[float]
    y: Sequence[float]
    name: str
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Many thin lines. colour: where they aren't coloured by the scale."""

    curves: Sequence[Curve]
    label: str = ""
    colour: str = GREY
    dash: str = "solid"

    @property
    def alpha(self) -> float:
        return veil(len(self.curves), least=0.25)


@dataclass(frozen=True, kw_only=True)
class Points:
    """names: what each is, where a pointer rests on it."""

    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str]
    label: str
    colour: str
    symbol: str = "circle"
    filled: bool = True
    size: float = 5.0
    width: float = 1.0  # of the edge

    @property
    def alpha(self) -> float:
        return veil(len(self.x), least=0.35)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A straight line across the panel, at x or at y."""

    label: str
    x: float | None = None
    y: float | None = None
    colour: str = GREY
    dash: str = "dash"


@dataclass(frozen=True, kw_only=True)
class Bars:
    """at: their middles, along y where they lie."""

    at: Sequence[float]
    heights: Sequence[float]
    width: float
    label: str
    colour: str
    lying: bool = False


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Cells between `x` and `y`, their edges; z (rows, columns), NaN where there is nothing."""

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
    """name: of its files. caption: what is seen, and of how many. columns: panels in a row."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    scale: Scale | None = None
    columns: int = 2
    height: float = 2.6  # inches, of a row of panels in print


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """An axis of parallel coordinates: every line's place on it, from 0 to 1."""

    label: str
    places: Sequence[float]
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Parallel coordinates; `values` colour the lines, the last is drawn on top."""

    name: str
    title: str
    caption: str
    dimensions: Sequence[Dimension]
    values: Sequence[float]
    scale: Scale


Drawing = Figure | Parallel


def is_narrow(panel: Panel, which: Literal["x", "y"]) -> bool:
    """Whether a logarithmic axis spans so little that 2 and 5 have room beside the powers of 10."""
    found: list[float] = []
    for mark in panel.marks:
        match mark:
            case Line() | Points():
                found += getattr(mark, which)
            case Curves():
                found += [value for curve in mark.curves for value in getattr(curve, which)]
    positive = [value for value in found if value > 0]
    return not positive or np.log10(max(positive) / min(positive)) < 2.5


def veil(count: int, least: float) -> float:
    """How opaque each of many marks is, so that those below are seen too."""
    return float(np.clip(5 / max(count, 1) ** 0.6, least, 0.9))


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, the first and the last always, the others evenly between."""
    if len(items) <= most:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, most).round()]
