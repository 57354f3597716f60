"""The code of a logged model.

MLflow stores a copy of this file with each model, next to the weights in safetensors, and runs it
to load the model. No pickle is written or read.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from sabtune.parts import local
from sabtune.storage.folder import Folder
from sabtune.training.checkpoint import load_model


class Recall(PythonModel):
    """A trained model, on the CPU."""

    def load_context(self, context: PythonModelContext) -> None:
        (checkpoint,) = map(Path, context.artifacts.values())
        local.add_source(Folder(str(checkpoint.parents[1] / "code")))
        self.model = load_model(checkpoint)

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """Return the logits (B, T, O) for sequences float32 (B, T, I) of any length."""
        with torch.no_grad():
            logits, _ = self.model(torch.from_numpy(np.ascontiguousarray(model_input)))
        return np.asarray(logits)


set_model(Recall())
