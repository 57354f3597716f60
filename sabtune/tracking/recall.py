"""A trained model as an MLflow model: the code is this module's, the weights are safetensors.

    model = mlflow.pyfunc.load_model("models:/m-…")
    logits = model.predict(x)          # x: float32 (B, T, I), any B and T; logits: (B, T, O)

MLflow stores this module's name with the checkpoint's files and calls `_load_pyfunc` on them: no
pickle is written or read.
"""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from sabtune import checkpoint
from sabtune.models import Model

REQUIRED = ("sabtune", "torch", "numpy", "safetensors")


class Recall:
    """What MLflow's `predict` runs."""

    def __init__(self, model: Model):
        self.model = model

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (B, T, O) for sequences (B, T, I)."""
        with torch.no_grad():
            logits, _ = self.model(torch.from_numpy(np.ascontiguousarray(x)))
        result: NDArray[np.float32] = logits.numpy()
        return result


def _load_pyfunc(path: str) -> Recall:
    return Recall(checkpoint.load_model(Path(path)))


def log(directory: Path, *, run_id: str, name: str) -> str:
    """Logs the model of a checkpoint to a run of MLflow that has ended; returns the model's URI.

    Raises CheckpointError if the checkpoint is damaged, and whatever MLflow raises.
    """
    task = checkpoint.load_run(directory).task.build()
    with tempfile.TemporaryDirectory() as staged, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about type hints of MLflow's own, when it loads pyfunc
        checkpoint.export_model(directory, Path(staged))
        client = mlflow.MlflowClient()
        before = client.get_run(run_id).info
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name=name,
                loader_module=__name__,
                data_path=staged,
                signature=ModelSignature(
                    inputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.inputs))]),
                    outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.outputs))]),
                ),
                input_example=np.zeros((1, 1, task.inputs), np.float32),
                pip_requirements=[f"{package}=={version(package)}" for package in REQUIRED],
            )
        client.set_terminated(run_id, before.status, before.end_time)  # not as FINISHED just now
    return str(info.model_uri)
