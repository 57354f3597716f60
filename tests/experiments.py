"""MLflow for tests: a real server, the runs of a study, and trials to log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run, ViewType

from sabtune.config import RunConfig
from sabtune.schema import flatten
from sabtune.study.events import Outcome, Overview, TrialView
from sabtune.tracking import Tracker
from sabtune.tracking.ui import NO_JOBS
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.loop import Report
from sabtune.training.trial import Progress, TrialSpec

ENOUGH = 100.0
"""The seconds after which a test stops waiting."""


class Server:
    """A real MLflow server that can be stopped and restarted."""

    def __init__(self, root: Path):
        self.root = root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.root / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.root / "artifacts")]
        with (self.root / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.root,
                env=NO_JOBS | os.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self.is_healthy)

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return True
        except OSError:
            return False


@dataclass(frozen=True)
class Place:
    """The MLflow store and the experiment of a test's study."""

    uri: str
    study: str
    artifacts: Path | None

    @property
    def location(self) -> str | None:
        return self.artifacts.as_uri() if self.artifacts else None

    def tracker(self) -> Tracker:
        return Tracker(self.uri, self.study, self.location)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.study)
        assert found is not None
        return str(found.experiment_id)

    def searches(self) -> list[Run]:
        return [run for run in self.runs() if "sabtune.search" in run.data.tags]

    def trials(self) -> dict[int, Run]:
        """Return the trials' runs by number.

        Also check that each trial has one run, below the run of a search.
        """
        runs = [run for run in self.runs() if "sabtune.number" in run.data.tags]
        found = {int(run.data.tags["sabtune.number"]): run for run in runs}
        assert len(found) == len(runs)
        parents = {run.data.tags["mlflow.parentRunId"] for run in runs}
        assert parents <= {run.info.run_id for run in self.searches()}
        return found

    def runs(self) -> list[Run]:
        return list(self.client.search_runs([self.experiment]))

    def curve(self, run: Run, key: str) -> list[tuple[int, float]]:
        """Return (step, value) of every point, sorted by step."""
        points = self.client.get_metric_history(run.info.run_id, key)
        return [(point.step, point.value) for point in sorted(points, key=lambda p: p.step)]

    def models(self) -> list[LoggedModel]:
        return list(self.client.search_logged_models([self.experiment]))

    def everything(self) -> dict[str, Any]:
        """Return everything that MLflow stores about the study."""
        found: dict[str, Any] = {}
        for run in self.client.search_runs([self.experiment], run_view_type=ViewType.ALL):
            history = self.client.get_metric_history
            curves = {
                key: [vars(p) for p in history(run.info.run_id, key)] for key in run.data.metrics
            }
            data = sorted(contexts(run).items())
            outputs = [of.model_id for of in run.outputs.model_outputs] if run.outputs else []
            told = (dict(run.info), run.data.params, run.data.tags, curves, data, outputs)
            found[run.info.run_id] = told
        for model in self.models():
            metrics = sorted(repr(vars(metric)) for metric in model.metrics or [])
            found[model.model_id] = (model.status, model.tags, model.params, metrics)
        for version in self.client.search_model_versions(f"name='{self.study}'"):
            found[f"version {version.version}"] = (version.tags, version.run_id, version.source)
        return found


def contexts(run: Run) -> dict[str, str]:
    """Return the digests of a run's data sets by context; check that each context occurs once."""
    assert run.inputs is not None
    digests = {of.tags[0].value: of.dataset.digest for of in run.inputs.dataset_inputs}
    assert len(digests) == len(run.inputs.dataset_inputs)
    return digests


def until(holds: Callable[[], object]) -> None:
    limit = time.monotonic() + ENOUGH
    while not holds():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.05)


def spec(run: RunConfig, number: int, configuration: int | None = None) -> TrialSpec:
    return TrialSpec(
        number=number,
        configuration=number if configuration is None else configuration,
        run=run,
        ladder=Ladder(lengths=(5, 10), select=(5,)),
        evaluation_seed=1,
        threads=1,
    )


def progress(step: int, loss: float = 1.0) -> Progress:
    report = Report(
        step=step,
        loss=loss,
        accuracy=0.5,
        gradient_norm=2.0,
        skipped=0,
        updates_per_second=9.0,
        in_force={"k_top": 3.0},
    )
    return Progress(report=report, ladder=(), score=0.1, seconds=step / 10, memory=64.0)


def results(accuracy: float) -> list[LengthResult]:
    return [LengthResult(length=at, accuracy=accuracy, loss=0.5, sequences=8) for at in (5, 10)]


COMPLETE = Outcome(state="COMPLETE", score=0.9, ladder=results(0.75), test=results(0.5))


def views(run: RunConfig) -> list[TrialView]:
    """Return one trial in each state."""
    history = [progress(step) for step in (5, 10, 15)]
    pruned = Outcome(state="PRUNED", reason="behind the others", ladder=results(0.25))
    return [
        TrialView(spec=spec(run, 0), history=history, outcome=COMPLETE),
        TrialView(spec=spec(run, 1), history=history[:2], outcome=pruned),
        TrialView(spec=spec(run, 2), history=history[:1], outcome=None),
        TrialView(
            spec=spec(run, 3),
            history=[],
            outcome=Outcome(state="FAIL", reason="diverged"),
        ),
    ]


def state(best: TrialView | None = None, *, complete: bool = True) -> Overview:
    """Return the overview of a search with this best trial."""
    return Overview(
        question="Which of them carries?",
        space={"k_top": "1 to 3 in whole numbers"},
        trials={"complete": 1, "pruned": 1, "failed": 1, "unfinished": 1},
        hours=0.5,
        best=best,
        complete=complete,
    )


def tell(tracker: Tracker, view: TrialView) -> None:
    number = view.spec.number
    tracker.trial_started(view.spec)
    for reported in view.history:
        tracker.trial_reported(number, reported)
    if view.outcome is not None:
        tracker.trial_ended(number, view.outcome)


def assert_shows(place: Place, told: list[TrialView]) -> None:
    trials = place.trials()
    assert sorted(trials) == [view.spec.number for view in told]
    status = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
    for view in told:
        shown = trials[view.spec.number]
        state = view.outcome.state if view.outcome else "RUNNING"
        assert shown.info.status == status[state]
        assert shown.data.tags["sabtune.state"] == state
        reason = view.outcome.reason if view.outcome else ""
        assert shown.data.tags["sabtune.reason"] == reason
        run = view.spec.run.to_dict()
        params = flatten({"task": run["task"], **run["trial"], "seed": run["seed"]})
        assert shown.data.params == {key: str(value) for key, value in params.items()}
        steps = [reported.report.step for reported in view.history]
        for key in ("loss", "score", "k_top", "skipped_updates"):
            assert [step for step, _ in place.curve(shown, key)] == steps, key
        assert place.curve(shown, "seconds") == [(step, step / 10) for step in steps]
        # Once, at the end. A resumed trial has one of the earlier end too. The last report of a
        # trial that an earlier search lost isn't known.
        peaks = dict(place.curve(shown, "peak_memory_mib"))
        assert set(steps[-1:] if state in ("COMPLETE", "PRUNED") else []) <= peaks.keys()
        assert set(peaks.items()) <= {(step, 64.0) for step in steps}
        for key in ("ladder", "test"):
            carried = getattr(view.outcome, key) if view.outcome else ()
            for name in ("accuracy", "loss"):
                curve = place.curve(shown, f"{key}/{name}")
                assert curve == [(result.length, getattr(result, name)) for result in carried]
        for result in view.outcome.test if view.outcome else ():
            flat = place.curve(shown, f"test/accuracy_at_{result.length:04}")
            assert flat == [(0, result.accuracy)]
        assert sorted(contexts(shown)) == ["selection", "test", "training"]
