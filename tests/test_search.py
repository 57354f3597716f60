"""Test real searches with Ray Tune, an Optuna study in SQLite, MLflow and the command."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState

from sabtune.analysis.conclusion import conclude
from sabtune.seeding import Stream
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.study.trial_specs import trial_seed
from sabtune.study.writer import StudyWriter
from sabtune.terminal.live_table import FIRST_REPORT
from sabtune.tracking.mirror import sync
from sabtune.training import checkpoint
from sabtune.training.evaluation import measure
from tests.experiments import Place, contexts
from tests.forked import sabtune
from tests.studies import heed_interrupts, learnable

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Done:
    """An ended search."""

    file: Path
    store: Store
    shown: subprocess.CompletedProcess[str]

    @property
    def study(self) -> StudyRecord:
        return StudyRecord.open(self.store, "learnable")

    @property
    def trials(self) -> list[TrialRecord]:
        return self.study.trials

    @property
    def best(self) -> TrialRecord:
        best = self.study.best
        assert best is not None
        return best


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("search")
    file = learnable(folder)
    shown = sabtune("search", file, "--store", "store", cwd=folder)
    return Done(file, Store(folder / "store"), shown)


@pytest.fixture(scope="module")
def client(done: Done) -> MlflowClient:
    return MlflowClient(done.store.mlflow_uri)


def test_a_search_succeeds_without_foreign_output(done: Done) -> None:
    assert done.shown.stderr == ""
    assert done.shown.returncode == 0


def test_a_search_says_what_it_does_between_its_trials(done: Done) -> None:
    lines = done.shown.stdout.splitlines()
    assert [line for line in lines if line.endswith(" …")] == [
        "Loading learnable.py …",
        "Loading Ray, Optuna and MLflow …",
        "Opening the study and its data …",
        "Starting Ray …",
        "Starting the workers …",
        f"{FIRST_REPORT} …",
        "Ending Ray …",
        "Writing the rest to MLflow …",
        "Writing the report to MLflow …",
    ]
    assert lines[0] == "Loading learnable.py …"


def test_every_trial_has_its_state(done: Done) -> None:
    for trial in done.trials:
        assert trial.run is not None
        steps = list(done.study.frozen[trial.number].intermediate_values)
        if trial.params["rate"] == "mad":
            assert trial.state == TrialState.FAIL
            assert trial.reason.startswith(("DivergedError: ", "RuntimeError: "))
        elif trial.state == TrialState.COMPLETE:
            assert steps == [30, 60, 90, 120]
            assert trial.reason == ""
        else:
            assert trial.state == TrialState.PRUNED
            assert steps[-1] < 120
            assert trial.reason.startswith("score ")
            assert trial.value is None


def test_pruning_stops_poor_trials_and_keeps_the_best(done: Done) -> None:
    pruned = [trial for trial in done.trials if trial.state == TrialState.PRUNED]
    assert {trial.params["rate"] for trial in pruned} >= {"bad"}
    assert done.best.params["rate"] == "good"
    assert done.best.value is not None
    assert done.best.value > 0.9


def test_a_search_runs_the_trials_of_the_study(done: Done) -> None:
    assert len(done.trials) == 8


def test_each_trial_has_its_own_recorded_seed(done: Done) -> None:
    seeds = [trial.run.seed for trial in done.trials if trial.run]
    assert seeds == [trial_seed(0, number) for number in range(8)]


def test_recorded_results_equal_those_of_the_checkpoint(done: Done) -> None:
    best = done.best
    assert best.checkpoint is not None
    assert best.run is not None
    model, task = checkpoint.load_model(Path(best.checkpoint.address)), best.run.task.build()
    torch.set_num_threads(1)
    for stream, results in ((Stream.SELECTION, best.ladder), (Stream.TEST, best.test)):
        assert [result.length for result in results] == [2, 4, 8]
        for result in results:
            again = measure(model, task, result.length, sequences=64, seed=0, stream=stream)
            assert again.accuracy == result.accuracy
            assert math.isclose(again.loss, result.loss, rel_tol=1e-5)


def test_mlflow_has_one_parent_with_a_child_for_each_trial(
    done: Done, client: MlflowClient
) -> None:
    experiment = client.get_experiment_by_name("learnable")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert parents[0].info.status == "FINISHED"

    by_number = {int(run.data.tags["sabtune.number"]): run for run in children}
    assert sorted(by_number) == [trial.number for trial in done.trials]
    statuses = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
    for trial in done.trials:
        run = by_number[trial.number]
        assert run.info.status == statuses[trial.state.name]
        assert run.data.tags["sabtune.state"] == trial.state.name
        assert run.data.tags["sabtune.reason"] == trial.reason
        assert run.data.params["model.k_top"] == str(trial.params["k_top"])
        assert run.data.tags["sabtune.configuration"] == str(trial.configuration)
        assert run.info.run_name is not None
        assert run.info.run_name.startswith(f"#{trial.number} ")
        assert f"k_top={trial.params['k_top']} k_att=1 k_trunc=2 linear" in run.info.run_name


def test_mlflow_has_the_ladder_by_length_and_the_curves_by_step(
    done: Done, client: MlflowClient
) -> None:
    for trial in (trial for trial in done.trials if trial.state != TrialState.FAIL):
        run = client.search_runs(
            [client.get_experiment_by_name("learnable").experiment_id],  # type: ignore[union-attr]
            f"tags.`sabtune.number` = '{trial.number}'",
        )[0].info.run_id
        ladder = client.get_metric_history(run, "ladder/accuracy")
        assert {m.step: m.value for m in ladder} == {r.length: r.accuracy for r in trial.ladder}
        assert len(trial.ladder) >= 2
        steps = list(done.study.frozen[trial.number].intermediate_values)
        for key in ("loss", "accuracy", "gradient_norm", "updates_per_second", "score", "k_top"):
            assert [m.step for m in client.get_metric_history(run, key)] == steps, key


def test_the_best_model_loads_in_a_fresh_process_and_gives_the_checkpoints_logits(
    done: Done, tmp_path: Path
) -> None:
    kept = done.study.model
    assert kept is not None
    assert kept.trial == done.best.number
    assert done.best.checkpoint is not None
    x = np.random.default_rng(0).standard_normal((3, 57, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import mlflow, numpy, sys; "
        f"mlflow.set_tracking_uri({done.store.mlflow_uri!r}); "
        f"model = mlflow.pyfunc.load_model({kept.uri!r}); "
        "numpy.save('y.npy', model.predict(numpy.load('x.npy'))); "
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with torch.no_grad():
        logits, _ = checkpoint.load_model(Path(done.best.checkpoint.address))(torch.from_numpy(x))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), logits.numpy(), rtol=1e-5, atol=1e-6)


def test_mlflow_has_the_question_and_the_results(done: Done, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("learnable")
    assert experiment is not None
    (search,) = client.search_runs(
        [experiment.experiment_id], "tags.`sabtune.search` = 'learnable'"
    )
    note = search.data.tags["mlflow.note.content"]
    link, _, first = experiment.tags["mlflow.note.content"].partition(" · ")
    assert first == note
    assert re.fullmatch(
        rf"\[Report\]\(#/.*/{search.info.run_id}/artifacts/report/report.html\)", link
    )
    conclusion, _, others = note.partition("\n\n---\n\n")
    assert conclusion == conclude(done.study).markdown()
    question = "One symbol of two, two steps later: learned in seconds, or not at all."
    assert others.startswith(question)
    assert "| k_top | 1 to 3 in whole numbers |" in note
    counts = {name: sum(t.state.name == name for t in done.trials) for name in ("COMPLETE", "FAIL")}
    assert search.data.metrics["search/trials_complete"] == counts["COMPLETE"]
    assert search.data.metrics["search/trials_failed"] == counts["FAIL"]
    assert search.data.metrics["search/best_score"] == done.best.value
    longest = done.best.test[-1]
    assert search.data.metrics["search/best_accuracy_at_0008"] == longest.accuracy
    models = client.search_logged_models([experiment.experiment_id])
    numbers = sorted(int(model.tags["sabtune.number"]) for model in models)
    assert numbers == [t.number for t in done.trials if t.state == TrialState.COMPLETE]
    place = Place(done.store.mlflow_uri, "learnable", None)
    for trial in done.trials:
        files = client.list_artifacts(place.trials()[trial.number].info.run_id, "figures")
        figures = ["figures/ladder.png", "figures/recall.png"]
        assert [file.path for file in files] == figures * (trial.state == TrialState.COMPLETE)
    version = client.get_model_version_by_alias("learnable", "champion")
    assert version.tags["sabtune.number"] == str(done.best.number)
    assert version.tags["sabtune.confirmed"] == "false"


def test_sync_recreates_everything_in_another_mlflow(
    done: Done, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sync to an MLflow that has nothing of the study."""
    monkeypatch.chdir(tmp_path)  # the other MLflow writes its files to the current folder
    study, kept = StudyWriter.open(done.store, "learnable"), done.study.model
    there = Place(done.store.mlflow_uri, "learnable", None)
    other = Place(f"sqlite:///{tmp_path / 'other.db'}", "learnable", None)
    assert kept is not None
    try:
        sync(study, Store(done.store.root, tracking=other.uri))
    finally:
        study.set_model(kept)
        study.set_tracking(None)
    pairs = [*zip(there.searches(), other.searches(), strict=True)]
    pairs += [(run, other.trials()[number]) for number, run in there.trials().items()]
    # `sabtune sync` also publishes the report and the figures of trials.
    own = ("mlflow.parentRunId", "mlflow.runName", "sabtune.report", "sabtune.figures")
    for run, again in pairs:
        assert again.info.run_name == run.info.run_name
        assert again.info.status == run.info.status
        assert again.data.params == run.data.params
        assert again.data.metrics == run.data.metrics
        assert contexts(again) == contexts(run)
        tags = [{k: v for k, v in of.data.tags.items() if k not in own} for of in (run, again)]
        notes = [of.pop("mlflow.note.content", "").partition("\n\n![")[0] for of in tags]
        assert notes[0] == notes[1]
        assert tags[0] == tags[1]
    names = [sorted(str(model.name) for model in place.models()) for place in (there, other)]
    assert names[0] == names[1]
    versions = [
        place.client.get_model_version_by_alias("learnable", "champion") for place in (there, other)
    ]
    assert versions[0].tags == versions[1].tags
    assert versions[0].version == versions[1].version


def test_no_pickle_is_kept_with_the_model(done: Done) -> None:
    kinds = {path.suffix for path in (done.store.root / "artifacts").rglob("*") if path.is_file()}
    assert done.store.artifacts == (done.store.root / "artifacts").as_uri()
    assert ".safetensors" in kinds
    assert not kinds & {".pkl", ".pickle", ".pt", ".pth", ".bin"}


def test_the_report_shows_the_ladder_measured_on_fresh_sequences(done: Done) -> None:
    shown = sabtune("report", "learnable", "--store", done.store.root, cwd=done.file.parent)
    assert shown.returncode == 0
    assert shown.stderr == ""
    for result in done.best.test:
        line = next(
            line for line in shown.stdout.splitlines() if line.startswith(f"│{result.length:>7}")
        )
        assert f"{result.accuracy:.1%}" in line
        assert f"{result.loss:.4f}" in line
    # The search prints the same results at its end.
    results, _, last = shown.stdout.strip().rpartition("\n")
    assert results in done.shown.stdout
    assert re.fullmatch(r"Browse all trials: .* ui learnable --store \S+", last)
    assert re.search(r"^Browse all trials: .* ui learnable --store store$", done.shown.stdout, re.M)


def test_a_search_resumes_an_existing_study(done: Done, tmp_path: Path) -> None:
    """Resume a study in which a killed search left a trial running.

    This test adds trials, so it comes after the tests that count them.
    """
    before = done.trials
    lost = StudyWriter.open(done.store, "learnable").optuna.ask()
    shown = sabtune("search", done.file, "--store", done.store.root, "--trials", 10, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    after = done.trials
    assert after[: len(before)] == before
    assert [trial.number for trial in after] == list(range(10))
    assert after[lost.number].state != TrialState.RUNNING
    experiments = MlflowClient(done.store.mlflow_uri)
    runs = experiments.search_runs(
        [experiments.get_experiment_by_name("learnable").experiment_id]  # type: ignore[union-attr]
    )
    assert sum("mlflow.parentRunId" not in run.data.tags for run in runs) == 1
    assert len(runs) == 11


def test_a_complete_study_starts_no_trials(done: Done, tmp_path: Path) -> None:
    shown = sabtune("search", done.file, "--store", done.store.root, "--trials", 1, cwd=tmp_path)
    assert shown.returncode == 0
    assert "starts" not in shown.stdout


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ui_serves_the_study_on_loopback_until_it_is_ended(
    done: Done, tmp_path: Path, how: signal.Signals
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "sabtune", "ui", "--port", str(port)]
    command += ["--store", str(done.store.root)]
    with (
        (tmp_path / "log").open("w") as log,
        # Background jobs of a shell ignore SIGINT, and their children inherit this.
        subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=heed_interrupts) as process,
    ):
        try:
            client = MlflowClient(answering(f"http://127.0.0.1:{port}", process))
            experiment = client.get_experiment_by_name("learnable")
            assert experiment is not None
            runs = client.search_runs([experiment.experiment_id])
            assert any("test/accuracy" in run.data.metrics for run in runs)
            assert listening(port) == {"0100007F"}  # 127.0.0.1 in Linux's notation
        finally:
            process.send_signal(how)
    assert process.returncode == 0
    address = f"http://127.0.0.1:{port}/studies/learnable"
    assert (tmp_path / "log").read_text() == f"MLflow: {address}\n"
    assert listening(port) == set()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ui_opens_optunas_page_on_the_same_database(
    done: Done, tmp_path: Path, how: signal.Signals
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "sabtune", "ui", "--optuna", "--port", str(port)]
    command += ["--store", str(done.store.root)]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=heed_interrupts) as process,
    ):
        try:
            url = answering(f"http://127.0.0.1:{port}/dashboard", process, b"Optuna Dashboard")
            with urllib.request.urlopen(url.replace("dashboard", "api/studies")) as answer:
                studies = json.load(answer)["study_summaries"]
            number = next(s["study_id"] for s in studies if s["study_name"] == "learnable")
            with urllib.request.urlopen(
                url.replace("dashboard", f"api/studies/{number}?after=0")
            ) as answer:
                trials = json.load(answer)["trials"]
            shown = {trial["number"]: trial["state"].upper() for trial in trials}
            names = {trial.number: trial.state.name for trial in done.trials}
            assert shown == names
            assert listening(port) == {"0100007F"}
        finally:
            process.send_signal(how)
    assert process.returncode == 0
    assert (tmp_path / "log").read_text() == f"optuna-dashboard: http://127.0.0.1:{port}\n"
    assert listening(port) == set()


def test_ui_reports_a_port_in_use(done: Done, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        for kind in ([], ["--optuna"]):
            where = ["--store", done.store.root, "--port", port]
            shown = sabtune("ui", *kind, *where, cwd=tmp_path)
            assert shown.returncode == 2
            assert shown.stderr == (
                f"sabtune: port {port} isn't available (Address already in use): "
                "give another with --port\n"
            )


def listening(port: int) -> set[str]:
    """Return the addresses that listen on a port, in hexadecimal."""
    table = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for lines in table for line in lines]
    local = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, at in local if int(at, 16) == port}


def answering(url: str, process: subprocess.Popen[bytes], title: bytes = b"MLflow") -> str:
    """Wait until a server answers with a page of this title, and return the URL."""
    for _ in range(240):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5) as page:
                assert title in page.read()
                return url
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"nothing answers at {url}")
