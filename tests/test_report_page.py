"""Test the report's page in a browser: figures show their data, and nothing overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from sabtune.reporting import write
from sabtune.reporting.data import gather
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.training.loop import Training
from tests import browser
from tests.reports import BASELINES, confirmed, searched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here: apt install chromium"),
]

WIDTHS = (390, 768, 1440)
"""The widths of a phone, a tablet and a desktop in pixels."""

FIGURES = {
    "found": {"accuracy", "scores", "importance", "parallel", "schedules", "learning", "recall",
              "recall-far", "distances", "cost", "sparsity"},
    "two": {"accuracy", "scores", "importance", "parallel", "schedules", "learning", "pareto",
            "cost", "sparsity"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two reports: one on a study with a model, one with two objectives."""
    store = Store(tmp_path_factory.mktemp("store"))
    model = store.root / "trials" / "found" / "0000" / "checkpoint_000001"
    study = searched(store, "found", 20, checkpoint=model)
    Training(gather(StudyRecord(study, store)).run).save(model)
    confirmed(store, "found.confirm", BASELINES)
    searched(store, "two", 20, objectives=("score", "peak_memory"))
    folder = tmp_path_factory.mktemp("reports")
    for name in FIGURES:
        write(StudyRecord.open(store, name), folder / name, ("html",))
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser.browser() as page:
        yield page


def show(page: Page, folder: Path, name: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((folder / name / "report.html").as_uri())
    page.wait_for_function(
        "() => [...document.querySelectorAll('figure')]"
        ".every(figure => figure.querySelector('.main-svg'))"
    )


PANELS = """
() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(figure => {
  const name = figure.id, layout = figure._fullLayout, at = element => {
    const {left, right, top, bottom} = element.getBoundingClientRect();
    return {left, right, top, bottom};
  };
  const lines = figure._fullData.filter(trace => trace.type === 'parcoords');
  if (lines.length) return [{name, parallel: lines[0].dimensions.map(d => d.values.length)}];
  return layout._subplots.cartesian.map(id => {
    const {xaxis, yaxis} = layout._plots[id], plot = figure.querySelector('.subplot.' + id);
    const traces = figure._fullData.filter(
        trace => trace.xaxis + trace.yaxis === id && trace.x && trace.x[0] !== null);
    const place = (axis, values) => [...values].filter(v => v !== null).map(value => {
      const [from, to] = axis.range.map(axis.r2l);
      return (axis.d2l(value) - from) / (to - from);
    });
    return {
      name, id, area: at(figure.querySelector('.draglayer .' + id + ' .nsewdrag')),
      x: traces.flatMap(trace => place(xaxis, trace.x)),
      y: traces.flatMap(trace => place(yaxis, trace.y)),
      marks: [...plot.querySelectorAll(
        '.scatterlayer path, .barlayer path, .heatmaplayer image, .imagelayer image')].map(at),
    };
  });
})
"""
"""A script that returns the data and the drawn boxes of each panel.

The data are positions along the axes, from 0 to 1.
"""


TEXTS = """
() => [...document.querySelectorAll('h1, h2, h3, p, li, dt, dd, nav a, figcaption, caption')]
  .filter(element => element.textContent.trim()).map(element => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const {left, right, top, bottom} = range.getBoundingClientRect();
    return {text: element.textContent.trim(), left, right, top, bottom};
  })
"""
"""A script that returns the texts of the page with their boxes."""


def assert_apart(page: Page, width: int) -> None:
    """Check that no texts overlap and that none extends beyond the page."""
    overhang = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overhang <= 0, width
    texts: list[dict[str, Any]] = page.evaluate(TEXTS)
    assert len(texts) > 50
    for i, a in enumerate(texts):
        assert 0 <= a["left"] <= a["right"] <= width + 1, a
        for b in texts[:i]:
            across = min(a["right"], b["right"]) - max(a["left"], b["left"])
            down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
            assert across <= 1 or down <= 2, (width, a, b)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_shows_its_data(page: Page, folder: Path, name: str, width: int) -> None:
    show(page, folder, name, width)
    assert_apart(page, width)
    panels: list[dict[str, Any]] = page.evaluate(PANELS)
    assert {panel["name"].removeprefix("plot-") for panel in panels} == FIGURES[name]
    for panel in panels:
        which = f"{panel['name']} {panel.get('id', '')}"
        if "parallel" in panel:
            assert len(panel["parallel"]) > 2
            assert set(panel["parallel"]) <= {*range(10, 22)}, which
            continue
        for axis in "xy":
            places = panel[axis]
            assert len(places) >= 2, which
            assert -0.001 <= min(places) <= max(places) <= 1.001, f"{which}: {axis}"
            assert max(places) - min(places) > 0.25, f"{which}: {axis}"
        area, marks = panel["area"], panel["marks"]
        for low, high in (("left", "right"), ("top", "bottom")):
            drawn = (
                [max(mark[low], area[low]) for mark in marks],
                [min(mark[high], area[high]) for mark in marks],
            )
            share = (max(drawn[1]) - min(drawn[0])) / (area[high] - area[low])
            assert share > 0.25, f"{which}: {low}"
