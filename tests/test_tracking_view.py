"""Test the view that MLflow opens for a study, its addresses, and the figures of trials."""

from __future__ import annotations

import asyncio
import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import LSTM, SAB
from sabtune.models.base import ModelConfig
from sabtune.schedule import Constant, Cosine, Linear, Schedule, Stepwise
from sabtune.study.events import Origin, TrialView
from sabtune.tasks import Copying
from sabtune.tracking import links, ui, view
from sabtune.tracking.trial_run import schedule_end
from tests.experiments import (
    COMPLETE,
    ENOUGH,
    Place,
    assert_shows,
    progress,
    spec,
    state,
    tell,
    views,
)

TASK = Copying.Config(length=5, symbols=2)

AT_LONGEST = "test/accuracy_at_0010"


def complete(number: int, model: ModelConfig, rate: float = 1e-3, label: str = "") -> TrialView:
    """Return a complete trial of a model, trained with this learning rate."""
    trial = TrialConfig(model=model, train=TrainConfig(updates=15, learning_rate=rate))
    run = RunConfig.of(task=TASK, trial=trial, seed=number)
    return TrialView(
        spec=spec(run, number), history=(), outcome=COMPLETE, origin=Origin(label=label)
    )


def saved(place: Place, trials: list[TrialView]) -> dict[str, Any]:
    """Sync trials to MLflow, and return the state of the view that it has then."""
    tracker = place.tracker()
    tracker.sync(trials, state(trials[0]))
    assert tracker.close(ENOUGH)
    tags = place.client.get_experiment(place.experiment).tags
    stored = json.loads(tags["mlflow.sharedViewState.sabtune"])
    assert stored.keys() == {"name", "createdAt", "updatedAt", "state"}
    head, _, text = stored["state"].partition(";")
    assert head == "deflate"
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return found


def charts(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the charts of a view by title."""
    return {chart["displayName"]: chart for chart in found["compareRunCharts"]}


def test_the_table_has_the_results_the_sparsity_and_what_differs(embedded: Place) -> None:
    sparse, dense = (SAB.Config(hidden=8, k_top=k_top, schedule=Linear()) for k_top in (2, 4))
    found = saved(embedded, [complete(0, sparse), complete(1, dense, rate=1e-2)])
    assert (found["orderByKey"], found["orderByAsc"]) == ("metrics.`length_score`", False)
    assert found["selectedColumns"] == [
        "metrics.`length_score`",
        f"metrics.`{AT_LONGEST}`",
        "metrics.`share_kept`",
        "params.`model.k_top`",
        "params.`model.k_att`",
        "params.`model.k_trunc`",
        "params.`model.schedule.kind`",
        "tags.`sabtune.state`",
        "params.`train.learning_rate`",
    ]
    assert set(found["selectedColumns"]) <= set(found["columnOrder"])
    assert found["columnWidths"].keys() == set(found["columnOrder"])
    trials = embedded.client.search_runs([embedded.experiment], found["searchFilter"])
    assert {run.data.tags["sabtune.number"] for run in trials} == {"0", "1"}


def test_the_charts_show_all_trials_by_length_and_by_share_kept(embedded: Place) -> None:
    models = [SAB.Config(hidden=8, k_top=k_top, schedule=Linear()) for k_top in range(1, 15)]
    found = saved(embedded, [complete(number, model) for number, model in enumerate(models)])
    shown = charts(found)
    assert found["runsHiddenMode"] == "SHOW_ALL"
    assert all(chart["runsCountToCompare"] >= len(models) for chart in shown.values())
    sections = {section["uuid"] for section in found["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in shown.values()} <= sections
    by_length = shown["Accuracy by length"]
    assert (by_length["type"], by_length["metricKey"]) == ("LINE", "test/accuracy")
    assert (by_length["xAxisKey"], by_length["xAxisScaleType"]) == ("step", "log")
    scatter = shown["Accuracy at the longest length by share kept"]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("share_kept", AT_LONGEST)
    parallel = shown["Parallel coordinates"]
    assert parallel["selectedParams"] == ["model.k_top"]  # what doesn't differ has no axis
    assert parallel["selectedMetrics"] == ["share_kept", AT_LONGEST]
    learning = shown["Score, with a dot at the end of the schedule"]
    assert learning["selectedMetricKeys"] == ["score", "score_at_schedule_end"]
    assert learning["displayPoints"] is False


def test_models_without_memories_have_their_own_columns(embedded: Place) -> None:
    found = saved(
        embedded, [complete(0, LSTM.Config(hidden=8)), complete(1, LSTM.Config(hidden=16))]
    )
    params = [column for column in found["selectedColumns"] if column.startswith("params.")]
    assert params == ["params.`model.k_trunc`", "params.`model.hidden`"]
    assert "metrics.`share_kept`" not in found["selectedColumns"]
    assert "Accuracy at the longest length by share kept" not in charts(found)
    assert charts(found)["Parallel coordinates"]["selectedParams"] == ["model.hidden"]
    assert charts(found)["Parallel coordinates"]["selectedMetrics"] == [AT_LONGEST]


def test_a_comparison_has_its_labels_and_kinds_of_models(embedded: Place) -> None:
    trials = [
        complete(0, SAB.Config(hidden=8, k_trunc=3), label="best"),
        complete(1, LSTM.Config(hidden=8, k_trunc=3), label="lstm"),
    ]
    found = saved(embedded, trials)
    assert found["selectedColumns"][0] == "tags.`sabtune.label`"
    assert found["columnWidths"]["tags.`sabtune.label`"] == 220  # labels are longer than the name
    assert "params.`model.kind`" in found["selectedColumns"]
    parallel = charts(found)["Parallel coordinates"]  # a run without a value would have no line
    assert parallel["selectedParams"] == ["model.kind"]
    assert parallel["selectedMetrics"] == [AT_LONGEST]


def test_the_view_is_saved_again_only_if_it_changes(embedded: Place) -> None:
    trials = [complete(0, SAB.Config(hidden=8)), complete(1, SAB.Config(hidden=8, k_top=2))]

    def tag() -> str:
        return str(embedded.client.get_experiment(embedded.experiment).tags[view.TAG])

    saved(embedded, trials)
    before = tag()
    saved(embedded, trials)
    assert tag() == before
    saved(embedded, [*trials, complete(2, SAB.Config(hidden=8), rate=0.1)])
    assert tag() != before
    assert len(tag()) < 5000  # the limit of older servers


@pytest.mark.parametrize("report_every", [3, 5, 50])
@pytest.mark.parametrize(
    "schedule",
    [
        Constant(),
        Linear(share=0.5),
        Linear(start=1, share=0.3, warmup=0.2),
        Cosine(share=1.0),
        Stepwise(share=0.7, steps=2),
    ],
)
def test_the_end_of_the_schedule_is_the_first_report_with_the_final_k_top(
    schedule: Schedule, report_every: int
) -> None:
    train = TrainConfig(updates=50, report_every=report_every)
    model = SAB.Config(hidden=8, k_top=3, k_att=1, schedule=schedule)
    run = RunConfig.of(task=TASK, trial=TrialConfig(model=model, train=train), seed=0)
    built = run.build_model(TASK.build())
    steps = sorted({*range(report_every, 50, report_every), 50})
    settled = []
    for step in steps:
        built.set_progress(step / 50)
        settled += [step] * built.settled
    built.set_progress(0)
    assert schedule_end(run) == (None if built.settled else settled[0])


def test_the_end_of_the_schedule_is_logged_during_a_search_and_by_sync(embedded: Place) -> None:
    model = SAB.Config(hidden=8, k_top=2, k_att=1, schedule=Linear(share=0.5))
    train = TrainConfig(updates=20, report_every=5)
    run = RunConfig.of(task=TASK, trial=TrialConfig(model=model, train=train), seed=0)
    history = [progress(step) for step in (5, 10, 15, 20)]
    told = [TrialView(spec=spec(run, n), history=history, outcome=COMPLETE) for n in range(2)]
    tracker = embedded.tracker()
    tell(tracker, told[0])
    tracker.sync(told, state())
    assert tracker.close(ENOUGH)
    for shown in embedded.trials().values():
        assert embedded.curve(shown, "score_at_schedule_end") == [(10, 0.1)]


def drawn(folder: Path) -> None:
    for name in ("recall.png", "ladder.png"):
        (folder / name).write_bytes(b"a figure")


def undrawn(folder: Path) -> None:
    raise AssertionError("the figures are drawn once")


def test_a_trial_has_its_figures_and_its_results_in_words(place: Place, run: RunConfig) -> None:
    told = views(run)
    tracker = place.tracker()
    for trial in told:
        tell(tracker, trial)
    assert tracker.keep_figures({0: drawn})
    assert tracker.keep_figures({0: undrawn, 7: undrawn})  # 7 isn't in MLflow
    tracker.sync(told, state(told[0]))
    assert tracker.close(ENOUGH)
    assert_shows(place, told)
    shown = place.trials()
    identity = shown[0].info.run_id
    files = place.client.list_artifacts(identity, "figures")
    assert [file.path for file in files] == ["figures/ladder.png", "figures/recall.png"]
    words, ladder, recall = shown[0].data.tags["mlflow.note.content"].split("\n\n")
    assert words.startswith("Complete: length score 0.429; 50.0% at length 10; keeps ")
    for name, image in (("ladder", ladder), ("recall", recall)):
        address = f"get-artifact?path=figures/{name}.png&run_uuid={identity}"
        assert image == f"![{name}.png]({address})"
    assert shown[1].data.tags["mlflow.note.content"] == "Pruned: behind the others"
    assert "mlflow.note.content" not in shown[2].data.tags
    again = place.tracker()
    assert again.keep_figures({0: undrawn})
    assert again.keep_figures({1: undrawn}, seconds=0.0)
    assert again.close(ENOUGH)


def test_what_a_user_wrote_about_a_trial_stays(embedded: Place, run: RunConfig) -> None:
    told = views(run)
    embedded_tracker = embedded.tracker()
    embedded_tracker.sync(told, state())
    notes = {0: "Complete: length score 0.429.\n\nMy remark.", 1: "Look at this one!"}
    for number, text in notes.items():
        identity = embedded.trials()[number].info.run_id
        embedded.client.set_tag(identity, "mlflow.note.content", text)
    embedded_tracker.sync(told, state())
    assert embedded_tracker.keep_figures({0: drawn})
    assert embedded_tracker.close(ENOUGH)
    for number, text in notes.items():
        assert embedded.trials()[number].data.tags["mlflow.note.content"] == text


def test_the_report_is_one_click_from_the_study(embedded: Place, tmp_path: Path) -> None:
    trials = [complete(0, SAB.Config(hidden=8))]
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("found")

    def note() -> str:
        return str(embedded.client.get_experiment(embedded.experiment).tags["mlflow.note.content"])

    overview = replace(state(trials[0]), conclusion="Two of three solve it.")
    tracker = embedded.tracker()
    tracker.sync(trials, overview)
    assert note().startswith("Two of three solve it.\n")
    for _ in range(2):
        assert tracker.keep_files(tmp_path / "report", "report")
        (search,) = embedded.searches()
        path = f"#/experiments/{embedded.experiment}/runs/{search.info.run_id}/artifacts/report"
        linked = f"[Report]({path}/report.html) · Two of three solve it.\n"
        assert note().startswith(linked)
        tracker.sync(trials, overview)
        assert note().startswith(linked)
    assert tracker.close(ENOUGH)
    assert search.data.tags["mlflow.note.content"].startswith("Two of three")


# Addresses


@pytest.fixture
def studies(tmp_path: Path) -> list[Place]:
    """Return the places of three studies in one MLflow, in the order in which they were made."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    places = [Place(uri, name, tmp_path) for name in ("first", "second", "first.confirm")]
    for place in places:
        tracker = place.tracker()
        tracker.sync([complete(0, SAB.Config(hidden=8))], state())
        assert tracker.close(ENOUGH)
    return places


def asked(app: ui.App, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Return the status, the headers and the body of an answer to a request."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": pairs}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    start, *bodies = messages
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], answered, b"".join(m["body"] for m in bodies).decode()


async def page(scope: Any, _: Any, send: Any) -> None:
    """Answer as MLflow's server does, in two parts."""
    assert not {b"if-none-match", b"accept-encoding"} & {name for name, _ in scope["headers"]}
    headers = [(b"content-length", b"38"), (b"etag", b"x"), (b"x-kept", b"yes")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"<html><head></h", "more_body": True})
    await send({"type": "http.response.body", "body": b"ead><body></body></html>"})


def test_the_page_opens_the_study_that_was_searched_last(studies: list[Place]) -> None:
    uri = studies[0].uri
    assert [study.name for study in links.shown_studies(uri)] == [
        "first",
        "first.confirm",
        "second",
    ]
    app = ui.opening(page, uri)
    status, headers, body = asked(app, "/", if_none_match="x", accept_encoding="gzip")
    assert status == 200
    assert headers == {
        "content-length": str(len(body)),
        "x-kept": "yes",
        "cache-control": "no-store",
    }
    head, script, rest = body.partition("</script></head>")
    assert (head.partition("<script>")[0], rest) == ("<html><head>", "<body></body></html>")
    assert script
    assert f'location.replace("{view.path(studies[0].experiment)[1:]}")' in head
    assert "!location.hash" in head  # an address of another page stays
    _, _, other = asked(ui.opening(page, uri, "second"), "/")
    assert view.path(studies[1].experiment)[1:] in other


def test_a_study_has_an_address_of_its_own(studies: list[Place]) -> None:
    app = ui.opening(page, studies[0].uri)
    for place in studies:
        status, headers, _ = asked(app, f"/studies/{place.study}")
        assert (status, headers["location"]) == (302, view.path(place.experiment))
    assert headers["location"].startswith("/#/experiments/")
    assert "workflowType=machine_learning&viewStateShareKey=sabtune" in headers["location"]
    status, _, said = asked(app, "/studies/none")
    assert (status, said) == (404, "MLflow has no study 'none'\n")
    assert asked(app, "/static-files/x")[2] == "<html><head></head><body></body></html>"


def test_an_mlflow_without_studies_opens_as_it_is(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    place = Place(uri, "of-others", tmp_path)
    place.client.create_run(place.client.create_experiment("of-others"))
    assert links.shown_studies(uri) == []
    assert 'location.replace("")' in asked(ui.opening(page, uri), "/")[2]
