"""Trained models as MLflow's logged models: each belongs to the run of its trial.

    model = mlflow.pyfunc.load_model("models:/m-…")
    logits = model.predict(x)          # x: float32 (B, T, I), any B and T; logits: (B, T, O)

A model's files are the weights in safetensors, the configuration in JSON and `recall.py`.
"""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from sabtune.seeding import Stream, generator
from sabtune.tasks import Task
from sabtune.tracking.datasets import dataset
from sabtune.tracking.trial_run import MODEL, NUMBER, SELECTION, SUMMARY, TEST, Page
from sabtune.training import checkpoint
from sabtune.training.trial import TrialSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about type hints of MLflow's own, when it is first loaded
    from mlflow.pyfunc import save_model

RECALL = Path(__file__).with_name("pyfunc_model.py")
"""The code of every model; it is MLflow that runs it, so nobody imports it."""

REQUIRED = ("sabtune", "torch", "numpy", "safetensors", "numba")


class Models:
    """The logged models of an experiment, by the number of the trial.

    Every method raises what MLflow raises: any exception.
    """

    def __init__(self, client: MlflowClient, experiment: str):
        self.client, self.experiment = client, experiment
        self._known: dict[int, list[LoggedModel]] | None = None  # the earliest first; None: unread

    def find(self, number: int) -> LoggedModel | None:
        """The trial's, if it is whole."""
        whole = [m for m in self._of(number) if m.status == LoggedModelStatus.READY]
        return whole[0] if whole else None

    def log(self, run_id: str, page: Page, directory: Path) -> LoggedModel:
        """Logs the model of a trial's checkpoint. Raises CheckpointError if that is damaged."""
        assert page.spec is not None
        number = page.spec.number
        with tempfile.TemporaryDirectory() as folder:
            task, exported = page.spec.run.task.build(), Path(folder) / "checkpoint"
            exported.mkdir()
            checkpoint.export_model(directory, exported)
            checkpoint.load_model(exported, page.spec.run)  # or raises: nothing else is logged
            made = self._begin(run_id, page)
            kept = Path(folder) / "model"
            save(kept, exported, task, made, run_id)
            self.client.log_model_artifacts(made.model_id, str(kept))
        self.client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        ready = self.client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
        self._of(number).append(ready)
        return ready

    def delete_doubles(self, number: int) -> None:
        """Leaves the trial's earliest whole model."""
        found = self.find(number)
        for model in list(self._of(number)):
            if found is None or model.model_id != found.model_id:
                self.client.delete_logged_model(model.model_id)
                self._of(number).remove(model)

    def _begin(self, run_id: str, page: Page) -> LoggedModel:
        """A model without files yet; what an earlier attempt left of it goes."""
        assert page.spec is not None
        number, tags = page.spec.number, page.tags()
        self.delete_doubles(number)
        return self.client.create_logged_model(
            self.experiment,
            name=f"trial-{number}",
            source_run_id=run_id,
            tags={k: value for k, value in tags.items() if k.startswith("sabtune.") and value},
            params=page.params(),
            model_type=tags[MODEL],
        )

    def _of(self, number: int) -> list[LoggedModel]:
        if self._known is None:
            self._known = self._read()
        return self._known.setdefault(number, [])

    def _read(self) -> dict[int, list[LoggedModel]]:
        known: dict[int, list[LoggedModel]] = {}
        page = None
        while page is None or page.token:
            page = self.client.search_logged_models(
                [self.experiment],
                order_by=[{"field_name": "creation_timestamp", "ascending": True}],
                page_token=page.token if page else None,
            )
            for model in page:
                number = model.tags.get(NUMBER, "")
                if number.isdecimal():
                    known.setdefault(int(number), []).append(model)
        return known


def belongs(key: str) -> bool:
    """Whether a metric of the run is one of the model too: how far it carries."""
    return key in SUMMARY or key.startswith((f"{SELECTION}_", f"{TEST}_"))


def of_model(point: Metric, model: LoggedModel, spec: TrialSpec, run_id: str) -> Metric:
    """The point as one of the run and of its model, on the data that it was measured on; one that
    isn't the model's stays as it is."""
    if not belongs(point.key):
        return point
    data = dataset(spec, "selection" if point.key.startswith(f"{SELECTION}_") else "test")
    return Metric(
        point.key,
        point.value,
        point.timestamp,
        point.step,
        model_id=model.model_id,
        dataset_name=data.name,
        dataset_digest=data.digest,
        run_id=run_id,
    )


def save(folder: Path, exported: Path, task: Task, model: LoggedModel, run_id: str) -> None:
    """Writes the files of an MLflow model into `folder`, which is made."""
    drawn = generator(0, Stream.SELECTION, index=task.length)
    example = task.batches(task.length, Stream.SELECTION, drawn).batch(1).x
    save_model(
        folder,
        python_model=str(RECALL),
        artifacts={exported.name: str(exported)},
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            model_id=model.model_id,
            run_id=run_id,
        ),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.inputs))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.outputs))]),
        ),
        input_example=example.numpy(),
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """The packages that gave the model, each with its version here. Builds for one kind of machine,
    such as 2.13.0+cpu, are named by their version alone: another machine has another build."""
    found = []
    for package in REQUIRED:
        try:
            found.append(f"{package}=={version(package).partition('+')[0]}")
        except PackageNotFoundError:  # numba: where it is missing, models run without
            continue
    return found
