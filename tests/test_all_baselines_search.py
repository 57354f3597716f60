"""Test a search of all baselines from start to end: the costs, the comparison and its report."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

import sabtune as sab
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.tasks import Copying
from tests.one_ray import Commands, one_ray
from tests.studies import posed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BASELINES = """

from sabtune.models import GRU, LSTM

def lstm(trial):
    return TrialConfig(model=LSTM.Config(hidden=8), train=space(trial).train)

def gru(trial):
    return TrialConfig(model=GRU.Config(hidden=8), train=space(trial).train)

BASELINES = {"lstm": lstm, "gru": gru}
"""


def test_baselines_are_searched_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Copying.Config(length=3, symbols=1)
    path = posed(task, tmp_path)
    path.write_text(path.read_text() + BASELINES)
    run, store = Commands(monkeypatch, capsys), Store(tmp_path / "sabtune-store")
    with one_ray():
        searched = run("search", path, cwd=tmp_path)
        assert searched.returncode == 0, searched
        done = run("search", path, "--baseline", "all", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done
        names = ["posed", "posed.lstm", "posed.gru"]
        assert f" confirm {' '.join(names)}" in done.stdout
        again = run("search", path, "--baseline", "all", cwd=tmp_path)
        assert again.stdout.count("is complete: 1 trial (1 complete).") == 2
        confirm = run("confirm", *names, "--top", 1, "--seeds", 1, cwd=tmp_path)
        assert "posed.confirm: 3 trials (3 complete)" in confirm.stdout, confirm
        alone = run("confirm", "posed.gru", "--top", 1, "--seeds", 1, cwd=tmp_path)
        assert "posed.gru.confirm: 1 trial (1 complete)" in alone.stdout, alone
    built = task.build()
    for name in [*names, "posed.confirm"]:
        for trial in StudyRecord.open(store, name).trials:
            assert trial.run is not None
            model = trial.run.build_model(built)
            assert trial.parameters == sum(weight.numel() for weight in model.parameters())
            steps = built.remembered_steps
            assert trial.multiply_adds == model.multiply_adds(built.inputs, steps)
    client = MlflowClient(store.mlflow_uri)
    experiment = client.get_experiment_by_name("posed.lstm")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "metrics.parameters > 0")
    (found,) = sab.open_study("posed.lstm", store.root).trials["parameters"]
    assert [each.data.metrics["parameters"] for each in runs] == [found]
    assert "cost" in sab.open_study("posed.confirm", store.root).figures
