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


def enter(page: Page, place: Place) -> None:
    """Open MLflow and switch to its view for model training, with the assistant closed."""
    page.goto(f"{place.uri}/#/experiments/{place.experiment}/runs")
    page.get_by_role("button", name="Model training").click()
    page.get_by_role("button", name="Close", exact=True).click()


def open_experiment(page: Page, place: Place) -> None:
    """Open the study's experiment, with the trials expanded below the search."""
    page.goto(f"{place.uri}/#/experiments/{place.experiment}/runs")
    search = page.get_by_role("gridcell").filter(has_text=f"search {place.study}")
    search.get_by_role("button").first.click()


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
