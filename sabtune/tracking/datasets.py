"""The sequences of a trial as MLflow's data sets.

They are drawn as they are needed, so a data set is what they are drawn by. Its name is the task's.
Its digest tells two apart: for training it is that of the task's configuration alone, and trials of
one study share it; for selection and test it is of the lengths, the number and the seed too.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from sabtune.schema import KIND, to_dict
from sabtune.seeding import Stream
from sabtune.training.trial import TrialSpec

STREAMS = {"training": Stream.TRAINING, "selection": Stream.SELECTION, "test": Stream.TEST}
"""MLflow's context for each stream that a trial draws sequences from."""


def inputs(spec: TrialSpec) -> list[DatasetInput]:
    """All that a trial uses, each with its context."""
    return [
        DatasetInput(dataset(spec, context), [InputTag(MLFLOW_DATASET_CONTEXT, context)])
        for context in STREAMS
    ]


def dataset(spec: TrialSpec, context: str) -> Dataset:
    """One of a trial's data sets."""
    config: dict[str, Any] = spec.run.to_dict()["task"]
    drawn: dict[str, Any] = {"task": config, "stream": context}
    if context == "training":
        lengths, sequences = [spec.run.task.length], "as many as the updates take"
    else:
        ladder = to_dict(spec.ladder, {})
        lengths, sequences = ladder["lengths"], ladder["sequences"]
        drawn |= {"lengths": lengths, "sequences": sequences}
        drawn |= {"seed": spec.evaluation_seed}
    content = config if context == "training" else drawn
    task = spec.run.task.build()
    profile = {
        "lengths": lengths,
        "steps": [task.steps(length) for length in lengths],
        "sequences_a_length": sequences,
        "chance": task.chance,
    }
    return Dataset(
        name=config[KIND],
        digest=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16],
        source_type=CodeDatasetSource._get_source_type(),
        source=json.dumps(CodeDatasetSource(drawn).to_dict()),
        schema=json.dumps(_schema(task.inputs).to_dict()),
        profile=json.dumps(profile),
    )


def _schema(inputs: int) -> TensorDatasetSchema:
    """x (B, T, I) and the right class at every step (B, T)."""
    x = TensorSpec(np.dtype("float32"), (-1, -1, inputs))
    return TensorDatasetSchema(Schema([x]), Schema([TensorSpec(np.dtype("int64"), (-1, -1))]))
