"""Test what `sabtune ui` shows of a study on MLflow's pages, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from sabtune.tasks import Copying
from tests import browser
from tests.experiments import ENOUGH, Place, Server, until
from tests.faults import driver
from tests.forked import sabtune
from tests.studies import posed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here: apt install chromium"),
]

LENGTHS = [3, 6]
"""The lengths of the study's ladder."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield a study of two trials on the MLflow server that `sabtune ui` starts."""
    folder = tmp_path_factory.mktemp("seen")
    file = posed(Copying.Config(length=LENGTHS[0], symbols=1, alphabet=2), folder, trials=2)
    searched = sabtune("search", file, "--store", "store", cwd=folder)
    assert (searched.stderr, searched.returncode) == ("", 0)
    server = Server(folder)  # only its port and its health check are used
    with driver("ui", "--store", "store", "--port", server.port, cwd=folder) as ui:
        try:
            until(server.is_healthy)
            yield Place(server.uri, "posed", None)
        finally:
            ui.process.terminate()
            ui.end()


@pytest.fixture(scope="module")
def page(shown: Place) -> Iterator[Page]:
    expect.set_options(timeout=1000 * ENOUGH)
    with browser.browser() as page:
        browser.enter(page, shown)
        yield page


def test_the_experiment_shows_question_search_and_trials(page: Page, shown: Place) -> None:
    browser.open_experiment(page, shown)
    expect(page.get_by_text("A task, learned for 20 updates.")).to_be_visible()
    names = {run.info.run_name for run in shown.trials().values()}
    assert len(names) == 2
    for name in ("search posed", *names):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_the_search_shows_its_note_in_full(page: Page, shown: Place) -> None:
    (search,) = shown.searches()
    browser.open_run(page, shown, search.info.run_id)
    expect(page.get_by_role("heading", name="search posed")).to_be_visible()
    expect(page.get_by_text("A task, learned for 20 updates.").first).to_be_visible()
    expect(page.get_by_role("cell", name="1 to 3 in whole numbers")).to_be_visible()
    expect(page.get_by_role("cell", name="search/best_length_score")).to_be_visible()


def test_a_trial_shows_a_point_for_each_length(page: Page, shown: Place) -> None:
    run = shown.trials()[0]
    chart = browser.open_ladder(page, shown, run.info.run_id)
    expect(chart.locator(".scatterlayer path.point")).to_have_count(len(LENGTHS))
    x, y = chart.evaluate("chart => [chart.data[0].x, chart.data[0].y]")
    assert list(zip(x, y, strict=True)) == shown.curve(run, "test/accuracy")
    assert x == LENGTHS


def test_the_report_is_drawn_in_mlflows_frame(page: Page, shown: Place) -> None:
    report = browser.open_report(page, shown)
    expect(report.get_by_role("heading", level=1, name="posed")).to_be_visible()
    expect(report.get_by_text("The best by its score in the search")).to_be_visible()
    figures = report.locator("figure")
    expect(figures.first.locator(".main-svg").first).to_be_visible()
    expect(report.get_by_role("heading", name="Caveats")).to_be_attached()  # the page's end
    expect(report.locator("figure .js-plotly-plot .plot-container")).to_have_count(figures.count())
    expect(figures.first.locator(".scatterlayer path.point").first).to_be_visible()
    overhang = report.locator("html").evaluate("page => page.scrollWidth - page.clientWidth")
    assert overhang == 0
    report.locator("nav button").click()
    report.locator("nav").get_by_role("link", name="Caveats").click()
    expect(report.get_by_role("heading", name="Caveats")).to_be_in_viewport()


def test_the_registered_model_has_its_champion(page: Page, shown: Place) -> None:
    browser.open_model(page, shown)
    expect(page.get_by_role("heading", name="posed")).to_be_visible()
    version = page.get_by_role("row").filter(has=page.get_by_role("link", name="Version 1"))
    expect(version.get_by_text("@ champion")).to_be_visible()
    best = shown.searches()[0].data.tags["sabtune.best"]
    expect(version.get_by_text(f"Trial {best}, unconfirmed.")).to_be_visible()
