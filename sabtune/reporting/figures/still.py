"""The matplotlib backend: figures for print, sized for a paper with two columns."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sabtune.reporting.figures.marks import (
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

WIDTH_INCHES = 6.9
"""Width of a figure with several panels in a row: both columns of a paper."""

PANEL_WIDTH_INCHES = 4.8
"""Width of a figure with one panel in a row."""

DPI = 200

CHARACTER_INCHES = 0.058
"""Width of a character in the legend."""

MAP = "viridis_r"

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

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 9,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}

Handles = dict[str, Line2D | Patch]


def draw(drawing: Drawing, format: Literal["png", "pdf"]) -> bytes:
    """Return the figure as a PNG or PDF file. The same figure always gives the same bytes."""
    with mpl.rc_context(STYLE):
        canvas = _parallel(drawing) if isinstance(drawing, Parallel) else _figure(drawing)
        canvas.suptitle(plain(drawing.title), fontweight="bold")
        file = io.BytesIO()
        metadata = {"CreationDate": None} if format == "pdf" else {}
        canvas.savefig(file, format=format, dpi=DPI, metadata=metadata)
    return file.getvalue()


def plain(text: str) -> str:
    """Escape text for matplotlib, which interprets $ and hides labels that start with _."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _figure(figure: Figure) -> Canvas:
    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    width = WIDTH_INCHES if columns > 1 else PANEL_WIDTH_INCHES
    handles: Handles = {}
    canvas = Canvas(figsize=(width, rows * figure.height), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        if i < len(figure.panels):
            _panel(axes, figure.panels[i], figure.scale, handles)
        else:
            axes.remove()
    if figure.scale:
        used = [axes for axes in grid.flat if axes.figure is not None]
        canvas.colorbar(
            _mappable(figure.scale), ax=used, label=plain(figure.scale.label), aspect=30
        )
    if handles:
        room = width / CHARACTER_INCHES / (max(map(len, handles)) + 8)
        legend = canvas.legend(
            handles.values(),
            [plain(label) for label in handles],
            loc="outside lower center",
            ncols=max(1, min(int(room), len(handles))),
        )
        extra = math.ceil(len(handles) / legend._ncols) * 0.16 + 0.1  # type: ignore[attr-defined]
        canvas.set_size_inches(width, rows * figure.height + extra + 0.25)
    return canvas


def _panel(axes: Axes, panel: Panel, scale: Scale | None, handles: Handles) -> None:
    for mark in panel.marks:
        _mark(axes, mark, scale, handles)
    axes.set_title(plain(panel.title))
    axes.set_xlabel(plain(panel.x.label))
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
                mark.x, mark.y, np.ma.masked_invalid(mark.z), cmap=MAP, norm=_norm(scale)
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
    _name(handles, line.label, artist)
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
        mpl.colormaps[MAP](scale.place(curve.value))
        if scale and curve.value is not None
        else many.color
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


def _name(handles: Handles, label: str, artist: Line2D | Patch) -> None:
    """Add an entry to the legend, unless its label is empty or already there."""
    if label:
        handles.setdefault(label, artist)


def _parallel(figure: Parallel) -> Canvas:
    canvas = Canvas(figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    axes = canvas.subplots()
    places = np.array([dimension.places for dimension in figure.dimensions]).T
    at = [float(x) for x in range(places.shape[1])]
    alpha = opacity(len(places), least=0.25)
    colors = [mpl.colormaps[MAP](figure.scale.place(value)) for value in figure.values]
    lines = [np.column_stack([at, line]) for line in places]
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=1.0, alpha=alpha))
    for x, dimension in zip(at, figure.dimensions, strict=True):
        axes.axvline(x, color="black", linewidth=0.8)
        for y, text in dimension.ticks:
            axes.annotate(
                plain(text), (x, y), xytext=(2, 0), textcoords="offset points", fontsize=6.5,
                va="center", bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
            )  # fmt: skip
    names = [plain(dimension.label) for dimension in figure.dimensions]
    room = 0.8 * WIDTH_INCHES / len(at) / CHARACTER_INCHES
    crowded = any(len(a) + len(b) > 2 * room - 4 for a, b in pairwise(names))
    axes.set_xticks(at, names, rotation=20 if crowded else 0, ha="right" if crowded else "center")
    axes.set(xlim=(-0.1, len(at) - 0.6), ylim=(-0.04, 1.04))
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    canvas.colorbar(_mappable(figure.scale), ax=axes, label=plain(figure.scale.label), aspect=30)
    return canvas


def _norm(scale: Scale) -> Normalize:
    return Normalize(scale.low, scale.high)


def _mappable(scale: Scale) -> ScalarMappable:
    return ScalarMappable(norm=_norm(scale), cmap=MAP)
