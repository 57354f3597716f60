"""The plotly backend: figures for the browser, with names on hover."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
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
from sabtune.reporting.figures.palette import FRAME, GRAY, GRID, TEXT, WHITE
from sabtune.reporting.figures.traces import add, plain

PIXELS_PER_INCH = 110

FONT = "Helvetica, Arial, sans-serif"

LEGEND_LINE = 20.0
"""Height of a line of the legend in pixels."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a figure is laid out on a page.

    width: The minimum width in pixels of a page of this form.

    columns: The maximum number of panels in a row.

    row: The maximum number of characters in a row of the legend, with 6 for the sign of each entry.

    entry: The number of characters after which an entry of the legend continues on a new line.
    """

    width: int
    columns: int
    row: int
    entry: int
    font: int

    @property
    def narrow(self) -> bool:
        """Whether the page is that of a phone, with the color scale above the panels."""
        return self.width == 0


WIDE = Form(width=1100, columns=3, row=150, entry=150, font=13)
MEDIUM = Form(width=600, columns=3, row=85, entry=80, font=13)
NARROW = Form(width=0, columns=1, row=0, entry=44, font=12)
FORMS = (WIDE, MEDIUM, NARROW)
"""All forms, from the widest to the narrowest."""


def draw(drawing: Drawing) -> str:
    """Return the figure as HTML: an element and the data that the script of the page fills it with.

    The data have the traces for a wide page, and for each form of the page the layout and what
    changes in the traces.
    """
    drawn = [json.loads(figure(drawing, form).to_json()) for form in FORMS]
    wide = drawn[0]["data"]
    content = {
        "data": wide,
        "changes": [
            [_changed(*both) for both in zip(wide, each["data"], strict=True)] for each in drawn
        ],
        "layouts": [each["layout"] for each in drawn],
    }
    data = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    safe = data.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
    return (
        f'<div class="plot" id="plot-{drawing.name}"></div>'
        f'<script type="application/json">{safe}</script>'
    )


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return the items of `after` that differ from those of `before`."""
    return {key: value for key, value in after.items() if before.get(key) != value}


def figure(drawing: Drawing, form: Form = WIDE) -> go.Figure:
    """Return the figure as a Plotly figure."""
    if isinstance(drawing, Parallel):
        return _parallel(drawing, form)
    return _figure(drawing, form)


def _figure(figure: Figure, form: Form) -> go.Figure:
    columns = min(figure.columns, len(figure.panels), form.columns)
    rows = math.ceil(len(figure.panels) / columns)
    height = rows * figure.height * PIXELS_PER_INCH + (rows - 1) * 60
    cells: list[dict[str, Any] | None] = [{}] * len(figure.panels)
    cells += [None] * (rows * columns - len(cells))
    plot = make_subplots(
        rows,
        columns,
        specs=[cells[row * columns : (row + 1) * columns] for row in range(rows)],
        subplot_titles=[plain(panel.title) for panel in figure.panels],
        horizontal_spacing=_between(figure.panels) if columns > 1 else 0.0,
        vertical_spacing=75 / height if rows > 1 else 0.0,
    )
    named: set[str] = set()
    for place, panel in enumerate(figure.panels):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        for mark in panel.marks:
            add(plot, mark, figure.scale, at, named)
        plot.update_xaxes(_axis(panel, "x", form.font), **at)
        plot.update_yaxes(_axis(panel, "y", form.font), **at)
        if place % columns and figure.panels[place - 1].y.label == panel.y.label:
            plot.update_yaxes(title=None, **at)
    if figure.scale:
        plot.add_trace(_empty_trace(figure.scale), row=1, col=1)
    titled = any(panel.title for panel in figure.panels)
    legend = _legend(named, height, form)
    _lay_out(plot, form, height, legend, top=48 if titled else 28, scale=figure.scale)
    return plot


def _legend(named: Iterable[str], height: float, form: Form) -> tuple[float, dict[str, Any]]:
    """Return the height in pixels and the layout of the legend below the panels."""
    labels = [label for label in named if label]
    layout: dict[str, Any] = {"x": 0, "xanchor": "left", "y": -58 / height, "yanchor": "top"}
    layout |= {"yref": "paper", "font": {"size": form.font - 1}, "tracegroupgap": 0}
    longest = max(map(len, labels), default=0) + 6
    if sum(len(label) + 6 for label in labels) <= form.row:
        return LEGEND_LINE + 14, layout | {"orientation": "h"}
    columns = max(form.row // longest, 1)
    if columns > 1:
        share = {"entrywidth": 0.98 / columns, "entrywidthmode": "fraction"}
        lines = math.ceil(len(labels) / columns)
        return LEGEND_LINE * lines + 14, layout | {"orientation": "h"} | share
    lines = sum(len(wrap(label, form.entry)) for label in labels)
    return LEGEND_LINE * lines + 14 if labels else 0.0, layout | {"orientation": "v"}


def _lay_out(
    plot: go.Figure,
    form: Form,
    height: float,
    legend: tuple[float, dict[str, Any]],
    *,
    top: int,
    scale: Scale | None,
) -> None:
    """Set the layout of a figure.

    legend: Height in pixels and layout of the legend.

    top: Pixels above the panels, for the toolbar that appears on hover.
    """
    below, legend_layout = legend
    across = form.narrow and scale is not None
    margin = {"l": 65, "r": 20, "t": top + 50 * across, "b": 60 + below}
    if form.narrow:
        margin |= {"l": 50, "r": 12}
    plot.update_layout(
        template="none",
        height=height + margin["t"] + margin["b"],
        margin=margin,
        legend=legend_layout,
        font={"family": FONT, "size": form.font, "color": TEXT},
        hoverlabel={"font": {"family": FONT}},
        hovermode="closest",
        barmode="overlay",
        paper_bgcolor=WHITE,
        plot_bgcolor=WHITE,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GRAY, "activecolor": TEXT},
    )
    plot.update_annotations(font={"size": form.font + 1})
    if scale:
        plot.update_layout(coloraxis=_coloraxis(scale, form, height, top))


def _between(panels: Sequence[Panel]) -> float:
    """Return the fraction of the width between two panels; texts at an axis need more space."""
    if any(panel.y.ticks for panel in panels):
        return 0.16
    return 0.12 if len({panel.y.label for panel in panels}) > 1 else 0.08


def _axis(panel: Panel, which: Literal["x", "y"], font: int) -> dict[str, Any]:
    axis: Axis = getattr(panel, which)
    options: dict[str, Any] = {
        "title": {"text": plain(axis.label), "standoff": 8, "font": {"size": font + 1}},
        "showline": True,
        "linecolor": FRAME,
        "tickcolor": FRAME,
        "ticks": "outside",
        "gridcolor": GRID,
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


def _parallel(figure: Parallel, form: Form) -> go.Figure:
    names = [dimension.label for dimension in figure.dimensions]
    room = form.row + 80 if form.row else 60
    crowded = any(len(a) + len(b) > room / len(names) for a, b in pairwise(names))
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
            labelangle=(-30 if form.narrow else -12) if crowded else 0,
            labelfont={"size": form.font},
            tickfont={"size": form.font - 2},
        )
    )
    _lay_out(plot, form, 340, (0.0, {}), top=104 if form.narrow else 70, scale=figure.scale)
    plot.update_layout(margin={"l": 30 if form.narrow else 70, "r": 40, "b": 30})
    return plot


def _coloraxis(scale: Scale, form: Form, height: float, top: int) -> dict[str, Any]:
    """Return the color axis of a figure.

    height: The height of the panels in pixels.

    top: Pixels between a color scale above the panels and the panels.
    """
    bar: dict[str, Any] = {
        "title": {"text": plain(scale.label), "side": "right", "font": {"size": form.font + 1}},
        "thickness": 14,
        "outlinewidth": 0,
    }
    if form.narrow:
        bar |= {"orientation": "h", "thickness": 10, "x": 0.5, "yanchor": "bottom"}
        bar |= {"y": 1 + (top - 26) / height, "title": bar["title"] | {"side": "top"}}
    if scale.ticks:
        bar |= {"tickvals": [at for at, _ in scale.ticks]}
        bar |= {"ticktext": [text for _, text in scale.ticks]}
    last = len(scale.colors) - 1
    return {
        "colorscale": [[i / last, color] for i, color in enumerate(scale.colors)],
        "cmin": scale.position(scale.low),
        "cmax": scale.position(scale.high),
        "colorbar": bar,
    }


def _empty_trace(scale: Scale) -> go.Scatter:
    """Return an empty trace that makes plotly show the color scale."""
    color = [scale.position(scale.low)]
    marker = {"color": color, "coloraxis": "coloraxis", "size": 0.1}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False)
