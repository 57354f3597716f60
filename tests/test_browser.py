"""Test what `sabtune ui` shows of a study in MLflow and optuna-dashboard, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from optuna.trial import TrialState
from playwright.sync_api import Locator, Page, expect

from sabtune.reporting import publish
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Copying
from sabtune.tracking import Tracker, mirror
from sabtune.training.evaluation import length_score
from tests import browser, reports
from tests.experiments import ENOUGH, Place, Server, progress, until
from tests.faults import Driver, driver
from tests.forked import sabtune
from tests.studies import posed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here: apt install chromium"),
]

LENGTHS = [3, 6]
"""The lengths of the ladder of the study that is searched."""

TRIALS = 33
"""The number of trials of the study that is made by hand, more than MLflow's charts show."""


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
def made(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """Return a study of 33 trials in a store whose MLflow has everything."""
    store = Store(tmp_path_factory.mktemp("made") / "store").made()
    reports.searched(store, "made", TRIALS)
    study = StudyRecord.open(store, "made")
    views = [
        replace(
            view,
            history=[
                replace(progress(step, loss=1 / step), score=score)
                for step, score in study.trial(view.spec.number).scores.items()
            ],
        )
        for view in mirror.views(study, store.trials)
    ]
    tracker = Tracker(store.mlflow_uri, "made", store.artifacts, embedded=True)
    tracker.sync(views, mirror.overview(study, complete=True))
    assert tracker.close(ENOUGH)
    with TemporaryDirectory() as folder:
        (Path(folder) / "report.html").write_text("<h1>The report</h1>")
        assert mirror.keep_report(study, Path(folder), publish.draw) == ""
    return study


@pytest.fixture(scope="module")
def printed(made: StudyRecord) -> Iterator[str]:
    """Yield the address that `sabtune ui` prints."""
    server = Server(made.store.root)
    with driver("ui", "--store", made.store.root, "--port", server.port, cwd=Path()) as ui:
        try:
            ui.until("/studies/made")
            yield address(ui)
        finally:
            ui.process.terminate()
            ui.end()


def address(ui: Driver) -> str:
    """Return the first address that a command has printed."""
    found = re.search(r"http://127\.0\.0\.1:\d+\S*", ui.shown)
    assert found is not None, ui.shown
    return found[0]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """Yield a page of a new browser."""
    expect.set_options(timeout=1000 * ENOUGH)
    with browser.browser(width=1900, height=2400) as page:  # MLflow draws only what is visible
        yield page


def complete(study: StudyRecord) -> list[TrialRecord]:
    """Return the complete trials of a study, by the score that the view sorts by."""
    trials = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]

    def score(trial: TrialRecord) -> float:
        return length_score(trial.test, reports.TASK.build())

    return sorted(trials, key=score, reverse=True)


# What `sabtune ui` opens


def test_the_printed_address_opens_the_sorted_table(
    page: Page, made: StudyRecord, printed: str
) -> None:
    assert printed.endswith("/studies/made")
    browser.open_study(page, printed)
    assert browser.columns(page) == [
        "attributes.`Run Name`",
        "metrics.`length_score`",
        "metrics.`test/accuracy_at_2000`",
        "metrics.`share_kept`",
        "params.`model.k_top`",
        "params.`model.k_att`",
        "params.`model.k_trunc`",
        "params.`model.schedule.kind`",
        "tags.`sabtune.state`",
        "params.`train.learning_rate`",
    ]
    ranked = complete(made)
    accuracies = [trial.test[-1].accuracy for trial in ranked]
    shares = [trial.run.share_kept() for trial in ranked if trial.run]
    found = browser.column(page, "metrics.`test/accuracy_at_2000`").all_inner_texts()
    assert len(found) > 20  # the rows that are visible
    assert [float(text) for text in found[:20]] == pytest.approx(accuracies[:20])
    kept = browser.column(page, "metrics.`share_kept`").all_inner_texts()
    assert [float(text) for text in kept[:20]] == pytest.approx(shares[:20], rel=1e-5)
    states = browser.column(page, "tags.`sabtune.state`").all_inner_texts()
    assert set(states[: len(ranked)]) == {"COMPLETE"}
    assert not {"COMPLETE"} & set(states[len(ranked) :])  # these have no length score
    expect(page.get_by_text(f"{TRIALS} matching runs")).to_be_visible()  # without the search's
    expect(page.get_by_role("link", name="search made", exact=True)).to_have_count(0)


def test_a_new_browser_shows_models_that_are_trained_and_no_assistant(page: Page) -> None:
    assert page.evaluate("localStorage['mlflow.workflowType_v1']") == '"machine_learning"'
    expect(page.get_by_placeholder("Ask a question")).to_have_count(0)


def test_a_pruned_trial_looks_pruned_and_only_a_failed_one_failed(
    page: Page, made: StudyRecord, printed: str
) -> None:
    browser.open_study(page, printed)
    names = browser.column(page, "attributes.`Run Name`")
    icons: dict[TrialState, set[str]] = {}
    for trial in made.trials:
        pruned = "pruned " * (trial.state == TrialState.PRUNED)
        row = page.get_by_role("row").filter(
            has=page.get_by_role("link", name=re.compile(rf"^#{trial.number} {pruned}k_top="))
        )
        if row.count():  # the row is visible
            path = row.locator('[col-id="runDateAndNestInfo"] svg path').first
            icons.setdefault(trial.state, set()).add(path.get_attribute("d") or "")
    expect(names.first).to_be_visible()
    assert icons[TrialState.PRUNED] == icons[TrialState.COMPLETE]
    assert icons[TrialState.FAIL].isdisjoint(icons[TrialState.COMPLETE])


def test_the_first_line_is_the_conclusion_and_links_the_report(
    page: Page, made: StudyRecord, printed: str
) -> None:
    browser.open_study(page, printed)
    found = r"· 1 of \d+ configurations trained to the end \(of 33 tried\) solves length 2,000"
    line = page.get_by_text(re.compile(found))
    expect(line).to_be_visible()
    with page.expect_popup() as opened:
        line.get_by_role("link", name="Report").click()
    report = opened.value.frame_locator("iframe").get_by_role("heading", name="The report")
    expect(report).to_be_visible()
    opened.value.close()


def test_the_root_opens_the_study_and_other_addresses_stay(page: Page, printed: str) -> None:
    root = printed.removesuffix("/studies/made")
    browser.open_study(page, root)
    assert "viewStateShareKey=sabtune" in page.url
    page.goto("about:blank")
    page.goto(f"{root}/#/models")
    expect(page.get_by_role("heading", name="Registered Models")).to_be_visible()
    assert page.url.startswith(f"{root}/#/models")


# Its charts


def traces(plot: Locator) -> list[dict[str, Any]]:
    """Return the visible curves of a plot: their points, mode and color."""
    drawn: list[dict[str, Any]] = plot.evaluate(
        "chart => chart.data.map("
        "({uuid, metricKey, mode, x, y}) => ({uuid, metricKey, mode, x, y}))"
    )
    unique = {(curve["uuid"], curve["metricKey"]): curve for curve in reversed(drawn)}
    return [curve for curve in unique.values() if curve["x"]]


@pytest.fixture(scope="module")
def charts(page: Page, printed: str) -> Page:
    browser.open_study(page, printed, charts=True)
    return page


def test_the_accuracy_of_every_complete_trial_is_drawn_by_length(
    charts: Page, made: StudyRecord
) -> None:
    plot = browser.chart(charts, "test/accuracy")
    curves = traces(plot)
    expected = sorted([r.accuracy for r in trial.test] for trial in complete(made))
    assert len(expected) == 20  # MLflow's own charts show ten
    assert sorted(curve["y"] for curve in curves) == expected
    assert all(curve["x"] == list(reports.LENGTHS) for curve in curves)
    assert all("markers" in curve["mode"] for curve in curves)
    layout = plot.evaluate("chart => [chart.layout.xaxis.type, chart.layout.yaxis.range]")
    assert layout == ["log", [0, 1.02]]


def test_the_accuracy_at_the_longest_length_is_drawn_by_share_kept(
    charts: Page, made: StudyRecord
) -> None:
    plot = browser.chart(charts, "share_kept vs. test/accuracy_at_2000")
    (points,) = plot.evaluate("chart => chart.data.map(({x, y}) => [x, y])")
    expected = sorted(
        (trial.run.share_kept(), trial.test[-1].accuracy) for trial in complete(made) if trial.run
    )
    found = sorted(zip(*points, strict=True))
    assert [y for _, y in found] == [y for _, y in expected]
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected], rel=1e-5)
    expect(plot.locator(".scatterlayer path.point")).to_have_count(20)


def test_parallel_coordinates_lead_from_the_space_to_the_accuracy(charts: Page) -> None:
    labels = charts.locator(".parcoords .dimension text.label")
    expect(labels).to_have_text(
        [
            "model.k_top",
            "model.k_att",
            "model.schedule.kind",
            "train.learning_rate",
            "share_kept",
            "test/accuracy_at_2000",
        ]
    )


def schedule_end(trial: TrialRecord) -> list[int]:
    """Return the step of a trial's first report with the final k_top, if k_top changed before."""
    assert trial.run is not None
    model = trial.run.build_model(trial.run.task.build())
    steps = [0, *trial.scores]
    settled = []
    for step in steps:
        model.set_progress(step / trial.run.train.updates)
        settled.append(model.settled)
    return [] if settled[0] or True not in settled else [steps[settled.index(True)]]


def test_learning_curves_have_a_dot_at_the_end_of_the_schedule(
    charts: Page, made: StudyRecord
) -> None:
    curves = traces(browser.chart(charts, "score vs score_at_schedule_end"))
    lines = [curve for curve in curves if curve["metricKey"] == "score"]
    dots = [curve for curve in curves if curve["metricKey"] == "score_at_schedule_end"]
    assert len(lines) == sum(bool(trial.scores) for trial in made.trials) == TRIALS
    ends = [(end, trial.scores[end]) for trial in made.trials for end in schedule_end(trial)]
    assert len(ends) > 5
    assert sorted((*dot["x"], *dot["y"]) for dot in dots) == sorted(ends)
    assert {dot["mode"] for dot in dots} == {"lines+markers"}
    assert {line["mode"] for line in lines if len(line["x"]) > 1} == {"lines"}


def test_other_metrics_are_in_folded_sections(charts: Page) -> None:
    headers = charts.get_by_test_id("experiment-view-compare-runs-section-header")
    names = [re.sub(r" ?\(\d+\)", "", text).strip() for text in headers.all_inner_texts()]
    assert [name.splitlines()[0] for name in names] == [
        "Length generalization",
        "Parameters",
        "Learning curves",
        "test",
        "ladder",
        "search",
        "Model metrics",
        "System metrics",
    ]
    expect(charts.get_by_test_id("experiment-view-compare-runs-card")).to_have_count(6)


# One trial, the search and its report


def test_a_trial_has_its_results_in_words_and_its_figures(
    page: Page, made: StudyRecord, printed: str
) -> None:
    place = Place(made.store.mlflow_uri, "made", None)
    best = complete(made)[0]
    uri = printed.removesuffix("/studies/made")
    place = replace(place, uri=uri)
    browser.open_run(page, place, place.trials()[best.number].info.run_id)
    words = f"{best.test[-1].accuracy:.1%} at length 2,000"
    expect(page.get_by_text(re.compile(rf"^Complete: length score .*{words}"))).to_be_visible()
    image = page.locator('img[src*="figures/ladder.png"]')
    expect(image).to_have_count(1)
    until(lambda: image.evaluate("image => image.complete && image.naturalWidth") > 100)
    width = image.evaluate("image => image.naturalWidth")
    assert width < 600  # the description is that narrow


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
    page.set_viewport_size({"width": 1280, "height": 860})
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


# optuna-dashboard


def test_optunas_dashboard_has_names_the_conclusion_and_no_json(
    page: Page, made: StudyRecord
) -> None:
    server = Server(made.store.root)
    command = ("ui", "made", "--optuna", "--store", made.store.root, "--port", server.port)
    with driver(*command, cwd=Path()) as ui:
        try:
            ui.until("optuna-dashboard:")
            study = address(ui)
            page.goto(study)
            expect(page.get_by_text("score", exact=True).first).to_be_visible()
            expect(page.get_by_text("Objective 0")).to_have_count(0)
            expect(page.get_by_text("the note has those of the report")).to_be_visible()
            page.goto(f"{study}/note")
            expect(page.get_by_text("(of 33 tried) solves length 2,000")).to_be_visible()
            expect(page.get_by_text("PED-ANOVA over 20 complete trials")).to_be_visible()
            page.goto(f"{study}/trials")
            expect(page.get_by_text(re.compile(r"^model k_top=\d+ k_att=\d+"))).to_be_visible()
            expect(page.get_by_text("accuracy at 2000")).to_be_attached()
            assert '{"' not in page.locator("body").inner_text()
        finally:
            ui.process.terminate()
            ui.end()
