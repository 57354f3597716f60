"""Test both renderers: they draw the given data, escape any label, and nothing overlaps."""

from __future__ import annotations

import re
from collections.abc import Sequence

import matplotlib as mpl
import pytest
from matplotlib.text import Text

from sabtune.reporting.data import ReportData
from sabtune.reporting.figures import drawings, lengths, live, still, traces
from sabtune.reporting.figures.marks import (
    Axis,
    Figure,
    Line,
    Panel,
    Points,
)
from tests.reports import marks

pytest_plugins = ("tests.report_data",)


HOSTILE = "</script><b>$x_{$ & _label"


def hostile() -> Figure:
    line = Line(x=[1, 10, 100], y=[1.0, 2.0, 4.0], label=HOSTILE, color="#000000",
                low=[0.5, None, 3.0], high=[1.5, None, 5.0], symbol="circle")  # fmt: skip
    axis = Axis(label=HOSTILE, log=True, ticks=[(1, HOSTILE), (100, "_b")])
    points = Points(x=[1], y=[1], names=[HOSTILE], label="_hidden", color="#000000")
    panel = Panel(title=HOSTILE, x=axis, y=Axis(label="y"), marks=[line, points])
    return Figure(name="hostile", title=HOSTILE, caption="", panels=[panel])


def test_labels_are_escaped_in_print_and_in_the_browser() -> None:
    assert still.draw(hostile(), "png").startswith(b"\x89PNG")
    assert still.draw(hostile(), "pdf").startswith(b"%PDF")
    assert live.draw(hostile()).count("</script>") == 1
    table = still.render(hostile())
    shown = [text.get_text() for text in table.legends[0].get_texts()]
    assert shown == [still.plain(HOSTILE), " _hidden"]
    assert "&lt;b&gt;" in live.figure(hostile()).data[1].name


def test_the_browser_gets_the_numbers_of_the_marks(found: ReportData) -> None:
    figure = lengths.accuracy(found)
    drawn = live.figure(figure)
    ours = marks(figure.panels[0], Line)[0]
    trace = next(trace for trace in drawn.data if trace.name == traces.plain(ours.label))
    assert list(trace.x) == list(ours.x)
    assert list(trace.y) == list(ours.y)
    assert ours.high is not None
    up = [high - y for y, high in zip(ours.y, ours.high, strict=True) if high is not None]
    assert list(trace.error_y.array) == pytest.approx(up)


def test_both_renderers_draw_every_figure(
    found: ReportData, many: ReportData, recalling: ReportData
) -> None:
    for data in (found, recalling):
        for drawing in drawings(data):
            assert len(still.draw(drawing, "png")) > 5_000
            text = live.draw(drawing)
            assert f'id="plot-{drawing.name}"' in text
            assert re.search(r"n = \d+|one test sequence|over \d+ test", drawing.caption)
    for drawing in drawings(many):
        assert len(live.draw(drawing)) < 2_000_000


STYLES = {"default": still.DEFAULT, **still.PAPER}


@pytest.mark.parametrize("style", STYLES)
def test_legends_stay_outside_and_panels_do_not_overlap(
    many: ReportData, found: ReportData, style: str
) -> None:
    for drawing in [*drawings(many), lengths.accuracy(found)]:
        with mpl.rc_context(STYLES[style].rc):
            figure = still.render(drawing, STYLES[style])
            figure.draw_without_rendering()
            boxes = [axes.get_tightbbox() for axes in figure.axes]
            boxes += [legend.get_window_extent() for legend in figure.legends]
        drawn = [tuple(box.extents) for box in boxes if box is not None]
        assert not _overlapping(drawn), drawing.name
        width, height = figure.bbox.size
        for left, bottom, right, top in drawn:  # nothing is cut off
            inside = -1 <= left < right <= width + 1 and -1 <= bottom < top <= height + 1
            assert inside, drawing.name


@pytest.mark.parametrize(("style", "widths"), [("neurips", {5.5}), ("icml", {3.25, 6.75})])
def test_figures_for_papers_have_their_widths_and_fonts_and_no_title(
    found: ReportData, recalling: ReportData, style: str, widths: set[float]
) -> None:
    paper = still.PAPER[style]
    drawn = [*drawings(found), *drawings(recalling)]
    with mpl.rc_context(paper.rc):
        figures = [still.render(drawing, paper) for drawing in drawn]
    assert {figure.get_size_inches()[0] for figure in figures} == widths
    assert not any(figure.get_suptitle() for figure in figures)
    for figure in figures:
        for text in figure.findobj(Text):
            assert text.get_fontfamily() == ["STIXGeneral"]
            assert 6 <= float(text.get_fontsize()) <= 9
    file = still.draw(drawn[0], "pdf", paper)
    assert b"STIXGeneral" in file
    assert b"/CIDFontType2" in file  # TrueType
    assert b"/Type3" not in file


@pytest.mark.parametrize("style", STYLES)
def test_a_figure_always_gives_the_same_bytes(found: ReportData, style: str) -> None:
    for format in ("png", "pdf"):
        first, second = (
            still.draw(lengths.accuracy(found), format, STYLES[style]) for _ in range(2)
        )
        assert first == second


def _overlapping(boxes: Sequence[tuple[float, ...]]) -> list[tuple[int, int]]:
    """Return the pairs of boxes (x0, y0, x1, y1) that overlap by more than a pixel."""
    return [
        (i, j)
        for i, a in enumerate(boxes)
        for j, b in enumerate(boxes[:i])
        if min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1
    ]
