"""Trained models as MLflow logged models, each belonging to the run of its trial.

model = mlflow.pyfunc.load_model("models:/m-…")
logits = model.predict(x)          # x: float32 (B, T, I), any B and T; logits: (B, T, O)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric

from sabtune.schema import codes
from sabtune.tracking.datasets import dataset
from sabtune.tracking.model_files import CHECKPOINT, ModelWriter
from sabtune.tracking.trial_run import MODEL, NUMBER, SELECTION, SUMMARY, TEST, RunContent
from sabtune.training import checkpoint
from sabtune.training.trial import TrialSpec


class Models:
    """The logged models of an experiment, by trial number.

    Every method may raise any exception of MLflow.
    """

    def __init__(self, client: MlflowClient, experiment: str):
        self.client, self.experiment = client, experiment
        self.writer = ModelWriter()
        self._by_number: dict[int, list[LoggedModel]] | None = (
            None  # earliest first; None: not read
        )

    def find(self, number: int) -> LoggedModel | None:
        """Return the trial's earliest model that is ready, or None."""
        ready = [m for m in self._models(number) if m.status == LoggedModelStatus.READY]
        return ready[0] if ready else None

    def log(self, run_id: str, content: RunContent, directory: Path) -> LoggedModel:
        """Log the model of a trial's checkpoint and return it.

        Raises CheckpointError if the checkpoint is damaged.
        """
        assert content.spec is not None
        number, run = content.spec.number, content.spec.run
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / CHECKPOINT
            exported.mkdir()
            checkpoint.export_model(directory, exported)
            checkpoint.load_model(exported, run)  # raises before anything is logged
            model = self._create(run_id, content)
            files = Path(folder) / "model"
            own = {*codes(run.to_dict()).values()}
            digests = sorted(own | {content.origin.code} - {""})
            self.writer.write(files, exported, run, model, run_id, digests)
            self.client.log_model_artifacts(model.model_id, str(files))
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        ready = self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._models(number).append(ready)
        return ready

    def delete_doubles(self, number: int) -> None:
        """Delete all models of the trial except the earliest that is ready."""
        first = self.find(number)
        for model in list(self._models(number)):
            if first is None or model.model_id != first.model_id:
                self.client.delete_logged_model(model.model_id)
                self._models(number).remove(model)

    def _create(self, run_id: str, content: RunContent) -> LoggedModel:
        """Create a model without files, after deleting what an earlier attempt left."""
        assert content.spec is not None
        number, tags = content.spec.number, content.tags()
        self.delete_doubles(number)
        return self.client.create_logged_model(
            self.experiment,
            name=f"trial-{number}",
            source_run_id=run_id,
            tags={k: value for k, value in tags.items() if k.startswith("sabtune.") and value},
            params=content.params(),
            model_type=tags[MODEL],
        )

    def _models(self, number: int) -> list[LoggedModel]:
        if self._by_number is None:
            self._by_number = self._read()
        return self._by_number.setdefault(number, [])

    def _read(self) -> dict[int, list[LoggedModel]]:
        by_number: dict[int, list[LoggedModel]] = {}
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
                    by_number.setdefault(int(number), []).append(model)
        return by_number


def belongs(key: str) -> bool:
    """Return whether a metric of a run is also logged to its model, as length results are."""
    return key in SUMMARY or key.startswith((f"{SELECTION}/", f"{TEST}/"))


def of_model(point: Metric, model: LoggedModel, spec: TrialSpec, run_id: str) -> Metric:
    """Return the point with its model and dataset, if its metric belongs to the model.

    Other points are returned unchanged.
    """
    if not belongs(point.key):
        return point
    data = dataset(spec, "selection" if point.key.startswith(f"{SELECTION}/") else "test")
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
