"""Test the files of logged models: those of a copy against those that MLflow writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import LSTM, SAB
from sabtune.tasks import Copying
from sabtune.tracking.model_files import ModelWriter
from sabtune.training import checkpoint
from sabtune.training.loop import Training

SHORT = TrainConfig(updates=2, report_every=2)
RUN = RunConfig.of(
    task=Copying.Config(length=5, symbols=2),
    trial=TrialConfig(model=SAB.Config(hidden=8), train=SHORT),
    seed=0,
)
OTHER = replace(RUN, model=LSTM.Config(hidden=16), seed=1)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    folder = tmp_path_factory.mktemp("mlflow")
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def exported(run: RunConfig, folder: Path) -> Path:
    """Train a model and return the folder of its checkpoint."""
    training = Training(run)
    assert list(training)
    saved, model = folder / "saved", folder / "exported"
    training.save(saved)
    model.mkdir()
    checkpoint.export_model(saved, model)
    return model


def logged(client: MlflowClient, folder: Path) -> LoggedModel:
    """Create a logged model in MLflow, whose files are written by the test."""
    experiment = client.create_experiment(folder.name, artifact_location=str(folder / "artifacts"))
    run = client.create_run(experiment)
    return client.create_logged_model(experiment, source_run_id=run.info.run_id)


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a model by their path, without its description."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "MLmodel"
    }


def description(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text())
    del described["utc_time_created"]
    return described


def test_a_copy_has_the_files_that_mlflow_writes(client: MlflowClient, tmp_path: Path) -> None:
    """The second model of a writer is a copy; the first one of another writer is MLflow's own."""
    first, model = tmp_path / "first", tmp_path / "model"
    first.mkdir()
    model.mkdir()
    source, identity = exported(OTHER, model), logged(client, model)
    writer, run_id = ModelWriter(), str(identity.source_run_id)
    writer.write(first / "files", exported(RUN, first), RUN, logged(client, first), "first")
    writer.write(model / "copied", source, OTHER, identity, run_id)
    ModelWriter().write(model / "written", source, OTHER, identity, run_id)
    assert files(model / "copied") == files(model / "written")
    assert description(model / "copied") == description(model / "written")
    assert description(model / "copied")["model_id"] == identity.model_id
    assert files(model / "copied") != files(first / "files")  # another checkpoint
    x = np.ones((1, 9, RUN.task.build().inputs), np.float32)
    with torch.no_grad():
        expected, _ = checkpoint.load_model(source)(torch.from_numpy(x))
    said = mlflow.pyfunc.load_model(str(model / "copied")).predict(x)
    np.testing.assert_array_equal(said, expected.numpy())


def test_a_model_of_another_task_has_its_own_signature_and_example(
    client: MlflowClient, tmp_path: Path
) -> None:
    wider = replace(RUN, task=Copying.Config(length=7, symbols=2, alphabet=3))
    writer = ModelWriter()
    for number, run in enumerate((RUN, wider)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        writer.write(folder / "files", exported(run, folder), run, logged(client, folder), "r")
        loaded = mlflow.models.Model.load(str(folder / "files"))
        task = run.task.build()
        assert loaded.signature is not None
        assert loaded.signature.inputs.inputs[0].shape == (-1, -1, task.inputs)
        example: Any = loaded.load_input_example(str(folder / "files"))
        steps = task.batch(1, task.length, torch.Generator()).x.shape[1]
        assert example.shape == (1, steps, task.inputs)
