"""Marks of figures as traces and shapes of plotly."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from plotly import graph_objects as go

from sabtune.reporting.figures.marks import (
    Bars,
    Curve,
    Curves,
    Heat,
    Line,
    Mark,
    Points,
    Rule,
    Scale,
)

SYMBOLS = {
    "circle": "circle",
    "square": "square",
    "diamond": "diamond",
    "triangle": "triangle-up",
    "cross": "x-thin",
    "plus": "cross-thin",
    "star": "star",
}
EDGE_ONLY = ("cross", "plus")
"""Symbols that consist only of an edge."""


def add(
    plot: go.Figure, mark: Mark, scale: Scale | None, at: dict[str, int], named: set[str]
) -> None:
    """Add a mark to a panel of a plotly figure.

    at: The row and column of the panel.

    named: The labels in the legend; the mark's label is added.
    """
    match mark:
        case Line():
            _line(plot, mark, at, named)
        case Curves():
            _curves(plot, mark, scale, at, named)
        case Points():
            plot.add_trace(_points(mark, named), **at)
        case Rule():
            _rule(plot, mark, at, named)
        case Bars():
            plot.add_trace(_bars(mark, named), **at)
        case Heat():
            plot.add_trace(_heat(mark), **at)


def _line(plot: go.Figure, line: Line, at: dict[str, int], named: set[str]) -> None:
    ends = list(zip(line.x, line.low or [], line.high or [], strict=False))
    intervals = [(x, low, high) for x, low, high in ends if low is not None and high is not None]
    extra: dict[str, Any] = {}
    if intervals and line.symbol and len(intervals) == len(line.x):
        up = [max(high - y, 0) for y, (_, _, high) in zip(line.y, intervals, strict=True)]
        down = [max(y - low, 0) for y, (_, low, _) in zip(line.y, intervals, strict=True)]
        extra["error_y"] = {"array": up, "arrayminus": down, "thickness": 1.2, "width": 3}
    elif intervals:
        plot.add_trace(
            go.Scatter(
                x=[x for x, _, _ in intervals] + [x for x, _, _ in reversed(intervals)],
                y=[low for _, low, _ in intervals] + [high for _, _, high in reversed(intervals)],
                fill="toself",
                fillcolor=line.color,
                opacity=0.15,
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=plain(line.label),
                showlegend=False,
            ),
            **at,
        )
    mode = "+".join(["lines"] * bool(line.width) + ["markers"] * bool(line.symbol))
    plot.add_trace(
        go.Scatter(
            x=list(line.x),
            y=list(line.y),
            mode=mode,
            line={"color": line.color, "width": line.width, "dash": line.dash},
            marker=_marker(line.symbol or "circle", line.color, filled=True, size=7),
            text=[plain(name) for name in line.names] or None,
            hovertemplate=f"{'%{text}' if line.names else '%{x}'}, %{{y:.4g}}",
            legendrank=line.rank,
            **_legend_entry(line.label, named),
            **extra,
        ),
        **at,
    )


def _curves(
    plot: go.Figure, many: Curves, scale: Scale | None, at: dict[str, int], named: set[str]
) -> None:
    shades: dict[str, list[Curve]] = {}  # curves of the same color share a trace, for speed
    for curve in many.curves:
        shades.setdefault(_shade(curve, many, scale), []).append(curve)
    alone = len(many.curves) == 1
    for color, curves in shades.items():
        plot.add_trace(
            go.Scatter(
                x=_joined([curve.x for curve in curves]),
                y=_joined([curve.y for curve in curves]),
                text=_joined([[plain(curve.name)] * len(curve.x) for curve in curves]),
                mode="lines",
                line={"color": color, "width": 2.4 if alone else 1.2, "dash": many.dash},
                opacity=1.0 if alone else many.alpha,
                hovertemplate="%{text}<br>%{x}, %{y:.4g}<extra></extra>",
                legendgroup=plain(many.label) or None,
                showlegend=False,
            ),
            **at,
        )
    if many.label and many.label not in named:  # in a color that is not on the scale
        line = {"color": many.color, "dash": many.dash, "width": 2.4 if alone else 1.5}
        key = go.Scatter(
            x=[None], y=[None], mode="lines", line=line, **_legend_entry(many.label, named)
        )
        plot.add_trace(key, **at)


def _shade(curve: Curve, many: Curves, scale: Scale | None) -> str:
    if scale is None or curve.value is None:
        return many.color
    return scale.color(curve.value)


def _joined(parts: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the parts one after the other, with None between them as a gap."""
    return [value for part in parts for value in (*part, None)][:-1]


def _points(points: Points, named: set[str]) -> go.Scatter:
    return go.Scatter(
        x=list(points.x),
        y=list(points.y),
        text=[plain(name) for name in points.names],
        mode="markers",
        marker=_marker(points.symbol, points.color, filled=points.filled, size=points.size * 1.5)
        | (
            {"line": {"color": points.color, "width": 1.5 * points.width}}
            if points.width != 1
            else {}
        ),
        opacity=points.alpha,
        hovertemplate="%{text}<br>%{y:.4g}<extra></extra>",
        **_legend_entry(points.label, named),
    )


def _marker(symbol: str, color: str, *, filled: bool, size: float) -> dict[str, Any]:
    open_ = "" if filled and symbol not in EDGE_ONLY else "-open"
    edge = {"color": color, "width": 1.5 if open_ else 0}
    return {"symbol": SYMBOLS[symbol] + open_, "color": color, "size": size, "line": edge}


def _rule(plot: go.Figure, rule: Rule, at: dict[str, int], named: set[str]) -> None:
    line = {"color": rule.color, "dash": rule.dash, "width": 1.3}
    if rule.x is not None:
        ends = {"x0": rule.x, "x1": rule.x, "y0": 0, "y1": 1, "yref": "y domain"}
    else:
        ends = {"y0": rule.y, "y1": rule.y, "x0": 0, "x1": 1, "xref": "x domain"}
    plot.add_shape(
        type="line", line=line, layer="below", **ends, **_legend_entry(rule.label, named), **at
    )


def _bars(bars: Bars, named: set[str]) -> go.Bar:
    along, out = ("y", "x") if bars.lying else ("x", "y")
    return go.Bar(
        **{along: list(bars.at), out: list(bars.heights)},
        width=bars.width,
        marker={"color": bars.color},
        opacity=0.8,
        orientation="h" if bars.lying else "v",
        hovertemplate=f"%{{{out}:.3g}}<extra></extra>",
        **_legend_entry(bars.label, named),
    )


def _heat(heat: Heat) -> go.Heatmap:
    cells = np.round(heat.z.astype(float), 4)
    return go.Heatmap(
        x=list(heat.x),
        y=list(heat.y),
        z=[[None if math.isnan(value) else value for value in row] for row in cells.tolist()],
        coloraxis="coloraxis",
        hovertemplate="step %{y:.0f} recalls step %{x:.0f}: %{z:.3g}<extra></extra>",
    )


def _legend_entry(label: str, named: set[str]) -> dict[str, Any]:
    """Return the legend options of a mark; of equal labels, only the first gets an entry."""
    shown = bool(label) and label not in named
    named.add(label)
    return {"name": plain(label), "legendgroup": plain(label), "showlegend": shown}


def plain(text: str) -> str:
    """Escape text for plotly, which interprets some tags and entities."""
    return html.escape(text, quote=False)
