"""The plotly backend: figures for the browser, with names on hover."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from sabtune.reporting.figures.marks import (
    Axis,
    Drawing,
    Figure,
    Panel,
    Parallel,
    Scale,
    is_narrow,
)
from sabtune.reporting.figures.traces import MAP, add, plain

PIXELS_PER_INCH = 110
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d"]}

FONT = "Helvetica, Arial, sans-serif"


def draw(drawing: Drawing) -> str:
    """Return the figure as HTML: an element and a script that fills it."""
    return str(
        figure(drawing).to_html(
            full_html=False, include_plotlyjs=False, div_id=f"plot-{drawing.name}", config=CONFIG
        )
    )


def figure(drawing: Drawing) -> go.Figure:
    """Return the figure as a Plotly figure."""
    return _parallel(drawing) if isinstance(drawing, Parallel) else _figure(drawing)


def _figure(figure: Figure) -> go.Figure:
    columns = min(figure.columns, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    height = rows * figure.height * PIXELS_PER_INCH + (rows - 1) * 60
    plot = make_subplots(
        rows,
        columns,
        subplot_titles=[plain(panel.title) for panel in figure.panels],
        horizontal_spacing=_between(figure.panels) if columns > 1 else 0.0,
        vertical_spacing=75 / height if rows > 1 else 0.0,
    )
    named: set[str] = set()
    for place, panel in enumerate(figure.panels):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        for mark in panel.marks:
            add(plot, mark, figure.scale, at, named)
        plot.update_xaxes(_axis(panel, "x"), **at)
        plot.update_yaxes(_axis(panel, "y"), **at)
    if figure.scale:
        plot.update_layout(coloraxis=_coloraxis(figure.scale))
        plot.add_trace(_empty_trace(figure.scale), row=1, col=1)
    titled = any(panel.title for panel in figure.panels)
    _lay_out(plot, height, _legend(named, height), top=58 if titled else 38)
    return plot


def _legend(named: Iterable[str], height: float) -> tuple[float, dict[str, Any]]:
    """Return the height in pixels and the layout of the legend below the panels."""
    labels = [label for label in named if label]
    short = sum(len(label) + 6 for label in labels) < 90
    lines = 1 if short else len(labels)
    layout: dict[str, Any] = {"orientation": "h" if short else "v", "x": 0, "xanchor": "left"}
    layout |= {"y": -58 / height, "yanchor": "top", "yref": "paper"}
    return (24.0 * lines + 14 if labels else 0.0), layout


def _lay_out(
    plot: go.Figure, height: float, legend: tuple[float, dict[str, Any]], *, top: int
) -> None:
    """Set the layout of a figure.

    legend: Height in pixels and layout of the legend.

    top: Pixels above the panels, for the toolbar that appears on hover.
    """
    below, legend_layout = legend
    margin = {"l": 65, "r": 20, "t": top, "b": 60 + below}
    plot.update_layout(
        template="none",
        height=height + margin["t"] + margin["b"],
        margin=margin,
        legend=legend_layout,
        font={"family": FONT, "size": 13},
        hoverlabel={"font": {"family": FONT}},
        hovermode="closest",
        barmode="overlay",
        paper_bgcolor="white",
        plot_bgcolor="white",
    )


def _between(panels: Sequence[Panel]) -> float:
    """Return the fraction of the width between two panels; names at an axis need more space."""
    return 0.16 if any(panel.y.ticks for panel in panels) else 0.09


def _axis(panel: Panel, which: Literal["x", "y"]) -> dict[str, Any]:
    axis: Axis = getattr(panel, which)
    options: dict[str, Any] = {
        "title": {"text": plain(axis.label), "standoff": 8, "font": {"size": 14}},
        "showline": True,
        "linecolor": "#30343b",
        "ticks": "outside",
        "gridcolor": "#E6E8EB",
        "zeroline": False,
        "automargin": True,
    }
    if axis.log:
        steps = {"dtick": "D2", "tickformat": "~g"} if is_narrow(panel, which) else {"dtick": 1}
        options |= {"type": "log", "exponentformat": "power", **steps}
    if axis.ticks:
        options |= {"tickvals": [at for at, _ in axis.ticks]}
        options |= {"ticktext": [plain(text) for _, text in axis.ticks]}
    if axis.low is not None and axis.high is not None:
        ends = [axis.low, axis.high]
        if axis.log:  # plotly expects exponents
            ends = [math.log10(end) for end in ends]
        options["range"] = ends[::-1] if axis.reverse else ends
    elif axis.low is not None:
        options["rangemode"] = "tozero"
    return options


def _parallel(figure: Parallel) -> go.Figure:
    names = [dimension.label for dimension in figure.dimensions]
    crowded = any(len(a) + len(b) > 220 / len(names) for a, b in pairwise(names))
    plot = go.Figure(
        go.Parcoords(
            line={"color": list(figure.values), "coloraxis": "coloraxis"},
            dimensions=[
                {
                    "label": plain(dimension.label),
                    "values": list(dimension.places),
                    "range": [0, 1],
                    "tickvals": [at for at, _ in dimension.ticks],
                    "ticktext": [plain(text) for _, text in dimension.ticks],
                }
                for dimension in figure.dimensions
            ],
            labelangle=-12 if crowded else 0,
            labelfont={"size": 13},
        )
    )
    plot.update_layout(coloraxis=_coloraxis(figure.scale))
    _lay_out(plot, 340, (0.0, {}), top=70)
    plot.update_layout(margin={"l": 70, "b": 30})
    return plot


def _coloraxis(scale: Scale) -> dict[str, Any]:
    bar = {
        "title": {"text": plain(scale.label), "side": "right"},
        "thickness": 14,
        "outlinewidth": 0,
    }
    return {"colorscale": MAP, "cmin": scale.low, "cmax": scale.high, "colorbar": bar}


def _empty_trace(scale: Scale) -> go.Scatter:
    """Return an empty trace that makes plotly show the color scale."""
    marker = {"color": [scale.low], "coloraxis": "coloraxis", "size": 0.1}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)
