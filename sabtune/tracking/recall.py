"""A trained model as an MLflow model: its code is this package's, its weights are safetensors.

model = mlflow.pyfunc.load_model("models:/m-…")
logits = model.predict(x)          # x: float32 (B, T, I), any B and T; logits: (B, T, O)
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from sabtune import checkpoint

CHECKPOINT = "checkpoint"
REQUIRED = ("sabtune", "torch", "numpy", "safetensors")


class Recall(PythonModel):
    """Runs a checkpoint's model over whole sequences."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = checkpoint.load_model(Path(context.artifacts[CHECKPOINT]))

    def predict(  # type: ignore[no-untyped-def]
        self,
        context: PythonModelContext,
        model_input,  # float32 (B, T, I); MLflow would warn of a type hint on it
        params: dict[str, Any] | None = None,
    ) -> NDArray[np.float32]:
        with torch.no_grad():
            logits, _ = self.model(torch.from_numpy(np.ascontiguousarray(model_input)))
        result: NDArray[np.float32] = logits.numpy()
        return result


def log(directory: Path, *, run_id: str | None, name: str) -> str:
    """Logs the model of a checkpoint to a run of MLflow; returns the model's URI."""
    task = checkpoint.load_run(directory).task.build()
    with tempfile.TemporaryDirectory() as staged:
        checkpoint.export_model(directory, Path(staged))
        with mlflow.start_run(run_id=run_id):
            info = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(Path(__file__).with_name("recall_code.py")),
                artifacts={CHECKPOINT: staged},
                signature=ModelSignature(
                    inputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.inputs))]),
                    outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.outputs))]),
                ),
                pip_requirements=[f"{package}=={version(package)}" for package in REQUIRED],
            )
    return str(info.model_uri)
