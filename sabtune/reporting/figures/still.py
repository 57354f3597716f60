"""The matplotlib backend: figures for print."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sabtune.reporting.figures.marks import (
    LAST,
    Axis,
    Bars,
    Curves,
    Drawing,
    Figure,
    Heat,
    Line,
    Mark,
    Panel,
    Parallel,
    Points,
    Rule,
    Scale,
    is_narrow,
    opacity,
)
from sabtune.reporting.figures.palette import GRID

SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "cross": "x",
    "plus": "+",
    "star": "*",
}
DASHES: dict[str, Literal["-", "--", ":"]] = {"solid": "-", "dash": "--", "dot": ":"}

RC: dict[Any, Any] = {
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType, which the style files of conferences require
    "svg.fonttype": "none",
}


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a figure is sized and set.

    wide, narrow: The width in inches of a figure with several panels in a row, and with one.

    height: The factor on the heights of panels.

    columns: The maximum number of panels in a row.

    font, small: The size in points of axis labels, and of ticks and legends.

    character: The mean width of a character in the legend, in small sizes.

    titled: Whether the title of the figure is in it.
    """

    wide: float
    narrow: float
    family: str
    font: float
    small: float
    height: float = 1.0
    columns: int = 3
    character: float = 0.56
    titled: bool = False
    dpi: int = 300

    @property
    def character_inches(self) -> float:
        """The mean width of a character in the legend, in inches."""
        return self.character * self.small / 72

    @property
    def rc(self) -> dict[Any, Any]:
        """The settings of matplotlib."""
        return RC | {
            "font.family": self.family,
            "mathtext.fontset": "stix" if self.family == TIMES else "dejavusans",
            "font.size": self.font,
            "axes.titlesize": self.font,
            "figure.titlesize": self.font + 1,
            "legend.fontsize": self.small,
            "xtick.labelsize": self.small,
            "ytick.labelsize": self.small,
        }


TIMES = "STIXGeneral"
"""A Times that matplotlib contains, so that a figure is the same on every machine."""

DEFAULT = Style(wide=6.9, narrow=4.8, family="DejaVu Sans", font=8, small=7.5, titled=True, dpi=200)
PAPER: Mapping[str, Style] = {
    "neurips": Style(
        wide=5.5, narrow=5.5, family=TIMES, font=9, small=8, height=0.85, columns=2, character=0.47
    ),
    "icml": Style(
        wide=6.75, narrow=3.25, family=TIMES, font=8, small=7, height=0.8, character=0.47
    ),
}
"""The styles of conferences, by the folder that their figures are written to.

NeurIPS has one column of 5.5 inches; ICML has two of 3.25 inches each, and 6.75 inches in all. Both
are set in Times.
"""


@dataclass(frozen=True)
class Handle:
    """An entry of the legend: its sign and its rank."""

    artist: Line2D | Patch
    rank: int


Handles = dict[str, Handle]
"""The entries of a legend by their labels."""


def draw(drawing: Drawing, format: Literal["png", "pdf"], style: Style = DEFAULT) -> bytes:
    """Return the figure as a PNG or PDF file. The same figure always gives the same bytes."""
    with mpl.rc_context(style.rc):
        file = io.BytesIO()
        metadata = {"CreationDate": None} if format == "pdf" else {}
        render(drawing, style).savefig(file, format=format, dpi=style.dpi, metadata=metadata)
    return file.getvalue()


def render(drawing: Drawing, style: Style = DEFAULT) -> Canvas:
    """Return the figure as one of matplotlib, to be used within the settings of the style."""
    match drawing:
        case Parallel():
            canvas = _parallel(drawing, style)
        case Figure():
            canvas = _figure(drawing, style)
    if style.titled:
        canvas.suptitle(plain(drawing.title), fontweight="bold")
    return canvas


def plain(text: str) -> str:
    """Escape text for matplotlib, which interprets $ and hides labels that start with _."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _figure(figure: Figure, style: Style) -> Canvas:
    columns = min(figure.columns, len(figure.panels), style.columns)
    rows = math.ceil(len(figure.panels) / columns)
    width = style.wide if columns > 1 else style.narrow
    height = rows * figure.height * style.height
    handles: Handles = {}
    canvas = Canvas(figsize=(width, height), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i < len(figure.panels):
            before = figure.panels[i - 1] if i % columns else None
            _panel(axes, figure.panels[i], figure.scale, handles, before)
        else:
            axes.remove()
    if figure.scale:
        used = [axes for axes in grid.flat if axes.figure is not None]
        _color_bar(canvas, figure.scale, used)
    if handles:
        room = width / style.character_inches / (max(map(len, handles)) + 8)
        entries = sorted(handles.items(), key=lambda entry: entry[1].rank)
        legend = canvas.legend(
            [handle.artist for _, handle in entries],
            [plain(label) for label, _ in entries],
            loc="outside lower center",
            ncols=max(1, min(int(room), len(handles))),
        )
        lines = math.ceil(len(handles) / legend._ncols)  # type: ignore[attr-defined]
        canvas.set_size_inches(width, height + lines * style.small * 0.0215 + 0.35)
    return canvas


def _panel(
    axes: Axes, panel: Panel, scale: Scale | None, handles: Handles, before: Panel | None
) -> None:
    """Draw a panel; `before` is the panel to its left, whose label of the y axis isn't repeated."""
    for mark in panel.marks:
        _mark(axes, mark, scale, handles)
    axes.set_title(plain(panel.title))
    axes.set_xlabel(plain(panel.x.label))
    if before is None or before.y.label != panel.y.label:
        axes.set_ylabel(plain(panel.y.label))
    _axis(axes, panel, "x")
    _axis(axes, panel, "y")
    if any(isinstance(mark, Heat) for mark in panel.marks):
        axes.grid(visible=False)


def _axis(axes: Axes, panel: Panel, which: Literal["x", "y"]) -> None:
    axis: Axis = getattr(panel, which)
    mpl_axis = axes.xaxis if which == "x" else axes.yaxis
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
        mpl_axis.set_minor_locator(NullLocator())
        mpl_axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow(panel, which) else (1,)))
        mpl_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if axis.ticks:
        mpl_axis.set_ticks(
            [at for at, _ in axis.ticks], labels=[plain(text) for _, text in axis.ticks]
        )
        crowded = not axis.log and max(len(text) for _, text in axis.ticks) * len(axis.ticks) > 26
        if which == "x" and crowded:
            axes.tick_params(axis="x", labelrotation=30)
    getattr(axes, f"set_{which}lim")(axis.low, axis.high)
    if axis.reverse:
        mpl_axis.set_inverted(True)


def _mark(axes: Axes, mark: Mark, scale: Scale | None, handles: Handles) -> None:
    match mark:
        case Line():
            _line(axes, mark, handles)
        case Curves():
            _curves(axes, mark, scale, handles)
        case Points():
            _points(axes, mark, handles)
        case Rule():
            style = {"color": mark.color, "linestyle": DASHES[mark.dash], "linewidth": 1.0}
            if mark.x is not None:
                artist = axes.axvline(mark.x, **style)  # type: ignore[arg-type]
            else:
                artist = axes.axhline(mark.y or 0.0, **style)  # type: ignore[arg-type]
            _name(handles, mark.label, artist)
        case Bars():
            bar = axes.barh if mark.lying else axes.bar
            bar(mark.at, mark.heights, mark.width, color=mark.color, alpha=0.8)
            _name(handles, mark.label, Patch(color=mark.color, alpha=0.8))
        case Heat():
            assert scale is not None
            axes.pcolormesh(
                mark.x, mark.y, np.ma.masked_invalid(mark.z), cmap=_map(scale), norm=_norm(scale)
            )


def _line(axes: Axes, line: Line, handles: Handles) -> None:
    style = {
        "color": line.color,
        "linestyle": DASHES[line.dash] if line.width else "none",
        "linewidth": line.width,
        "marker": SYMBOLS[line.symbol] if line.symbol else None,
        "markersize": 4.5,
    }
    (artist,) = axes.plot(line.x, line.y, zorder=4, **style)  # type: ignore[arg-type]
    _name(handles, line.label, artist, line.rank)
    ends = list(zip(line.x, line.y, line.low or [], line.high or [], strict=False))
    intervals = [
        (x, y, low, high) for x, y, low, high in ends if low is not None and high is not None
    ]
    if not intervals:
        return
    x, y, low, high = np.array(intervals).T
    if line.symbol:
        bars = np.maximum([y - low, high - y], 0)
        axes.errorbar(x, y, bars, fmt="none", color=line.color, capsize=2, lw=1)
    else:
        axes.fill_between(x, low, high, color=line.color, alpha=0.15, linewidth=0)


def _curves(axes: Axes, many: Curves, scale: Scale | None, handles: Handles) -> None:
    colors = [
        scale.color(curve.value) if scale and curve.value is not None else many.color
        for curve in many.curves
    ]
    axes.add_collection(
        LineCollection(
            [np.column_stack([curve.x, curve.y]) for curve in many.curves],
            colors=colors,
            linewidths=0.8 if len(many.curves) > 1 else 1.6,
            linestyles=DASHES[many.dash],
            alpha=many.alpha if len(many.curves) > 1 else 1.0,
            zorder=2 if len(many.curves) > 1 else 4,
        )
    )
    axes.autoscale_view()
    _name(handles, many.label, Line2D([], [], color=many.color, linestyle=DASHES[many.dash], lw=1))


def _points(axes: Axes, points: Points, handles: Handles) -> None:
    style = {
        "linestyle": "none",
        "marker": SYMBOLS[points.symbol],
        "markersize": points.size * 0.9,
        "markeredgewidth": points.width,
        "markeredgecolor": points.color,
        "markerfacecolor": points.color if points.filled else "none",
    }
    axes.plot(points.x, points.y, alpha=points.alpha, zorder=3, **style)  # type: ignore[arg-type]
    _name(handles, points.label, Line2D([], [], **style))  # type: ignore[arg-type]


def _name(handles: Handles, label: str, artist: Line2D | Patch, rank: int = LAST) -> None:
    """Add an entry to the legend, unless its label is empty or already there."""
    if label:
        handles.setdefault(label, Handle(artist, rank))


def _parallel(figure: Parallel, style: Style) -> Canvas:
    canvas = Canvas(figsize=(style.wide, 3.2 * style.height), layout="constrained")
    axes = canvas.subplots()
    places = np.array([dimension.places for dimension in figure.dimensions]).T
    at = [float(x) for x in range(places.shape[1])]
    alpha = opacity(len(places), least=0.25)
    colors = [figure.scale.color(value) for value in figure.values]
    lines = [np.column_stack([at, line]) for line in places]
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=1.0, alpha=alpha))
    for x, dimension in zip(at, figure.dimensions, strict=True):
        axes.axvline(x, color="black", linewidth=0.8)
        for y, text in dimension.ticks:
            axes.annotate(
                plain(text), (x, y), xytext=(2, 0), textcoords="offset points",
                fontsize=style.small - 1, va="center",
                bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
            )  # fmt: skip
    names = [plain(dimension.label) for dimension in figure.dimensions]
    room = 0.8 * style.wide / len(at) / style.character_inches
    crowded = any(len(a) + len(b) > 2 * room - 4 for a, b in pairwise(names))
    axes.set_xticks(at, names, rotation=20 if crowded else 0, ha="right" if crowded else "center")
    axes.set(xlim=(-0.1, len(at) - 0.6), ylim=(-0.04, 1.04))
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    _color_bar(canvas, figure.scale, axes)
    return canvas


def _color_bar(canvas: Canvas, scale: Scale, axes: Axes | Sequence[Axes]) -> None:
    mappable = ScalarMappable(norm=_norm(scale), cmap=_map(scale))
    bar = canvas.colorbar(mappable, ax=axes, label=plain(scale.label), aspect=30)
    if scale.ticks:
        bar.set_ticks([at for at, _ in scale.ticks], labels=[text for _, text in scale.ticks])
        bar.minorticks_off()


def _norm(scale: Scale) -> Normalize:
    return Normalize(scale.position(scale.low), scale.position(scale.high))


def _map(scale: Scale) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("scale", scale.colors)
