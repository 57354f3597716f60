"""Test the report's page in a browser: its first screen, its figures, its contents, its colors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from sabtune.reporting import write
from sabtune.reporting.data import gather
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.training.loop import Training
from tests import browser
from tests.reports import BASELINES, LENGTHS, confirmed, searched
from tests.test_figures import contrast

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here: apt install chromium"),
]

WIDTHS = (390, 768, 1440)
"""The widths of a phone, a tablet and a desktop in pixels."""

FIGURES = {
    "found": {"accuracy", "scores", "importance", "parallel", "schedules", "learning", "recall",
              "recall-far", "distances", "sparsity"},
    "two": {"accuracy", "scores", "importance", "parallel", "schedules", "learning", "pareto",
            "sparsity"},
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


Scheme = Literal["light", "dark"]


def show(page: Page, folder: Path, name: str, width: int, scheme: Scheme = "light") -> None:
    page.emulate_media(color_scheme=scheme, media="screen")
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
  .filter(element => element.textContent.trim() && element.offsetWidth).map(element => {
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


SCREENS = [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")]


def box(element: Locator) -> dict[str, float]:
    """Return the box of an element: left, top, right and bottom in pixels of the viewport."""
    found: dict[str, float] = element.evaluate(
        "element => element.getBoundingClientRect().toJSON()"
    )
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_the_first_screen_is_the_answer(page: Page, folder: Path, name: str) -> None:
    show(page, folder, name, 1400)
    answer = page.locator("#answer")
    sentences, rows = answer.locator(".summary p"), answer.locator("tbody tr")
    expect(sentences).to_have_count(3)
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("SAB (k_top=")
    expect(answer.locator("thead")).to_contain_text("share kept")
    legend = answer.locator(".legend")
    expect(legend).to_contain_text("LSTM, full BPTT (n = 4)" if name == "found" else "#")
    visible = [*sentences.all(), *rows.all(), answer.locator(".plot"), legend]
    for element in visible:
        at = box(element)
        assert 0 <= at["top"] < at["bottom"] <= 900, element
        assert 0 <= at["left"] < at["right"] <= 1400, element
    table = answer.locator(".wide")
    assert table.evaluate("box => box.scrollWidth - box.clientWidth") == 0


AXES = """
() => document.getElementById("plot-accuracy")._fullLayout._subplots.cartesian.map(id => {
  const {xaxis, yaxis} = document.getElementById("plot-accuracy")._fullLayout._plots[id];
  return [xaxis.type, xaxis.range.map(xaxis.l2d), xaxis.tickvals, yaxis.range];
})
"""


DRAWN = """
() => [...document.querySelectorAll("figure .main-svg text, #accuracy path.point")]
  .map(element => ({text: element.textContent, ...element.getBoundingClientRect().toJSON()}))
  .filter(({width}) => width)
"""
"""A script that returns the texts of all figures and the points of the first one, with boxes."""


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_screens_of_phones_and_desktops_in_light_and_dark(
    page: Page, folder: Path, width: int, scheme: Scheme, tmp_path: Path
) -> None:
    show(page, folder, "found", width, scheme)
    page.screenshot(path=tmp_path / "screen.png")
    with Image.open(tmp_path / "screen.png") as image:
        brightness = np.asarray(image.convert("L"))
    assert (np.median(brightness) < 60) == (scheme == "dark")
    assert brightness.std() > 10  # it isn't blank
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
    axes = page.evaluate(AXES)
    assert len(axes) == 2  # fresh seeds, and the search's trials
    for kind, (low, high), ticks, accuracies in axes:
        assert kind == "log"
        assert low < LENGTHS[0] < LENGTHS[-1] < high < 10 * LENGTHS[-1]
        assert ticks == list(LENGTHS)
        assert accuracies == [0, 103]
    points = page.locator("#plot-accuracy .scatterlayer path.point")
    assert points.count() == 3 * len(LENGTHS)  # two methods and the best configuration
    drawn = page.evaluate(DRAWN)
    assert len(drawn) > 100
    assert [at for at in drawn if not 0 <= at["left"] < at["right"] <= width] == []


def hexadecimal(color: str) -> str:
    """Return a CSS color such as "rgb(0, 0, 0)" as #000000."""
    channels = [int(channel) for channel in re.findall(r"\d+", color)[:3]]
    return "#" + "".join(f"{channel:02X}" for channel in channels)


COLORS = """
() => [...document.querySelectorAll(".plot")].map(plot => ({
  page: getComputedStyle(document.body).backgroundColor,
  texts: [...plot.querySelectorAll("svg text")].filter(text => text.textContent.trim())
    .map(text => getComputedStyle(text).fill),
  lines: [...plot.querySelectorAll(".scatterlayer path.js-line")]
    .map(line => getComputedStyle(line).stroke),
}))
"""


def assert_readable(page: Page, background: str) -> None:
    """Check the contrast of texts and lines with the background, which is that of the page."""
    page.wait_for_function(
        """background => [...document.querySelectorAll(".plot")].every(
             plot => plot._fullLayout.paper_bgcolor.toUpperCase() === background)""",
        arg=background,
    )
    figures = page.evaluate(COLORS)
    assert sum(len(figure["lines"]) for figure in figures) > 20
    for figure in figures:
        assert hexadecimal(figure["page"]) == background
        assert figure["texts"]
        for color in figure["texts"]:
            assert contrast(hexadecimal(color), background) > 4.5, color
        for color in figure["lines"]:
            assert contrast(hexadecimal(color), background) > 1.6, color


def test_figures_follow_the_colors_of_the_page(page: Page, folder: Path) -> None:
    show(page, folder, "found", 1400)
    assert_readable(page, "#FFFFFF")
    page.emulate_media(color_scheme="dark")
    assert_readable(page, "#15181D")
    page.emulate_media(color_scheme="dark", media="print")  # paper is white
    assert_readable(page, "#FFFFFF")
    expect(page.locator("nav")).to_be_hidden()
    page.emulate_media(color_scheme="light", media="screen")
    assert_readable(page, "#FFFFFF")


def test_the_contents_stay_visible_and_mark_the_section(page: Page, folder: Path) -> None:
    show(page, folder, "found", 1400)
    nav, current = page.locator("nav"), page.locator("nav a[aria-current]")
    expect(current).to_have_text("The answer")
    for section, title in (("figure-learning", "Learning curves"), ("caveats", "Caveats")):
        page.locator(f"#{section}").evaluate("section => section.scrollIntoView()")
        expect(current).to_have_text(title)
        assert box(nav) == box(nav) | {"top": 0, "bottom": 900}
        expect(current).to_be_in_viewport(ratio=1)
    nav.get_by_role("link", name="Generalization to length").click()
    expect(page.locator("#lengths h2")).to_be_in_viewport(ratio=1)
    expect(current).to_have_text("Generalization to length")


def test_on_a_phone_the_contents_open_on_demand(page: Page, folder: Path) -> None:
    show(page, folder, "found", 390)
    button, links = page.locator("nav button"), page.locator("nav a")
    expect(button).to_have_text("The answer")
    expect(links.first).to_be_hidden()
    page.locator("#figure-parallel").evaluate("section => section.scrollIntoView()")
    expect(button).to_have_text("Parallel coordinates")
    expect(button).to_be_in_viewport(ratio=1)
    button.click()
    expect(links.first).to_be_visible()
    links.filter(has_text="Learning curves").click()
    expect(links.first).to_be_hidden()
    expect(button).to_have_text("Learning curves")
    heading = page.get_by_role("heading", name="Learning curves")
    assert box(button)["bottom"] <= box(heading)["top"] < 200


def test_figures_have_one_panel_in_a_row_on_a_phone(page: Page, folder: Path) -> None:
    show(page, folder, "found", 390)
    panels: list[dict[str, Any]] = page.evaluate(PANELS)
    scores = [panel["area"] for panel in panels if panel["name"] == "plot-scores"]
    assert len(scores) == 4
    assert len({round(area["left"]) for area in scores}) == 1
    assert all(area["right"] - area["left"] > 250 for area in scores)
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_function(
        "() => document.querySelector('#plot-scores')._fullLayout.xaxis.domain[1] < 0.5"
    )


def test_the_page_works_in_a_frame_without_an_address(page: Page, folder: Path) -> None:
    """MLflow shows it in such a frame."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto("about:blank")
    text = (folder / "two" / "report.html").read_text()
    page.evaluate(
        """text => {
          const frame = document.createElement("iframe");
          Object.assign(frame, {srcdoc: text, sandbox: "allow-scripts", width: 900, height: 600});
          document.body.append(frame);
        }""",
        text,
    )
    frame = page.frame_locator("iframe")
    frame.locator("nav button").click()
    frame.locator("nav").get_by_role("link", name="Caveats").click()
    expect(frame.get_by_role("heading", name="Caveats")).to_be_in_viewport()
    expect(frame.locator("nav button")).to_have_text("Caveats")
    expect(frame.locator("#plot-pareto .main-svg").first).to_be_attached()
    assert problems == []
