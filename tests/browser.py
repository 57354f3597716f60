"""Open MLflow's pages in a real browser, step by step as a person does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import FrameLocator, Locator, Page, expect, sync_playwright

from tests.experiments import ENOUGH, Place

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""Debian's Chromium, so that Playwright doesn't download its own; None if there is none."""


@contextmanager
def browser(width: int = 1280, height: int = 860) -> Iterator[Page]:
    """Yield an empty page of a headless browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(1000 * ENOUGH)
            yield page
        finally:
            chromium.close()


def open_study(page: Page, address: str, *, charts: bool = False) -> None:
    """Open the address of a study, and wait for its table, or for its charts."""
    page.goto(address)
    column(page, "metrics.`length_score`").first.wait_for()
    if charts:
        page.goto(f"{page.url}&compareRunsMode=CHART")
        page.get_by_text("Length generalization").wait_for()


def column(page: Page, identity: str) -> Locator:
    """Return the cells of a column of the runs, without its header."""
    return page.locator(f'[role="gridcell"][col-id="{identity}"]')


def columns(page: Page) -> list[str]:
    """Return the identities of the columns of the runs, from left to right."""
    headers = page.locator('[role="columnheader"][col-id*="`"]').all()
    placed = [(header.bounding_box(), header.get_attribute("col-id") or "") for header in headers]
    return [identity for box, identity in sorted(placed, key=lambda p: p[0]["x"] if p[0] else 0)]


def chart(page: Page, title: str) -> Locator:
    """Return the plot of the chart with this title, drawn in full."""
    card = page.locator('[data-testid="experiment-view-compare-runs-card"]')
    plot = card.filter(has=page.get_by_text(title, exact=True)).locator(".js-plotly-plot")
    plot.scroll_into_view_if_needed()
    plot.locator(".scatterlayer").wait_for()
    return plot


def open_run(page: Page, place: Place, run: str, tab: str = "") -> None:
    page.goto(f"{place.uri}/#/experiments/{place.experiment}/runs/{run}{tab}")


def open_ladder(page: Page, place: Place, run: str) -> Locator:
    """Return the chart of a trial's accuracy by length, filtered by the name of the metric."""
    open_run(page, place, run, "/model-metrics")
    page.get_by_placeholder("Search metric charts").fill("test/accuracy")
    chart = page.locator(".js-plotly-plot", has=page.locator(".scatterlayer .trace"))
    # Wait until the other charts are filtered out.
    expect(chart).to_have_count(1, timeout=1000 * ENOUGH)
    return chart


def open_report(page: Page, place: Place) -> FrameLocator:
    """Return the search's report in the frame in which MLflow shows it."""
    (search,) = place.searches()
    open_run(page, place, search.info.run_id, "/artifacts/report/report.html")
    return page.frame_locator("iframe")


def open_model(page: Page, place: Place) -> None:
    """Open the study's registered model."""
    page.goto(f"{place.uri}/#/models/{place.study}")
