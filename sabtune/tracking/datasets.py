"""The sequences of a trial as MLflow datasets.

A task that reads data has a dataset for each data set and context, such as "mnist.training". Its
digest is the start of the data's SHA-256, which is complete in the dataset's profile.

Sequences that are generated on the fly have a dataset of the parameters that generate them. It has
the name of the task, and its digest identifies it. The digest of the training dataset depends only
on the task's configuration, so that trials of a study share the dataset. The digests of the
selection and test datasets also depend on the lengths, the number of sequences and the seed.
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

MAX_DIGEST_CHARACTERS = 36
"""The length of the longest digest that MLflow stores."""

STREAMS = {"training": Stream.TRAINING, "selection": Stream.SELECTION, "test": Stream.TEST}
"""The stream of sequences for each MLflow context."""


def inputs(spec: TrialSpec) -> list[DatasetInput]:
    """Return all datasets of a trial, each with its context."""
    return [
        DatasetInput(made, [InputTag(MLFLOW_DATASET_CONTEXT, context)])
        for context in STREAMS
        for made in (
            [data_set(spec, context, name) for name in spec.datasets]
            if spec.datasets
            else [dataset(spec, context)]
        )
    ]


def data_set(spec: TrialSpec, context: str, name: str) -> Dataset:
    """Return one of the data sets that a trial reads, for one context of `STREAMS`."""
    task, sha256 = spec.run.task.build(), spec.datasets[name]
    source = {"task": spec.run.to_dict()["task"], "stream": context, "data": name, "sha256": sha256}
    return Dataset(
        name=f"{name}.{context}",
        digest=sha256[:MAX_DIGEST_CHARACTERS],
        source_type=CodeDatasetSource._get_source_type(),
        source=json.dumps(CodeDatasetSource(source).to_dict()),
        schema=json.dumps(_schema(task.inputs).to_dict()),
        profile=json.dumps({"sha256": sha256, "chance": task.chance}),
    )


def dataset(spec: TrialSpec, context: str) -> Dataset:
    """Return the dataset of a trial for one context of `STREAMS`."""
    config: dict[str, Any] = spec.run.to_dict()["task"]
    source: dict[str, Any] = {"task": config, "stream": context}
    if context == "training":
        lengths, sequences = [spec.run.task.length], "as many as the updates take"
    else:
        ladder = to_dict(spec.ladder, {})
        lengths, sequences = ladder["lengths"], ladder["sequences"]
        source |= {"lengths": lengths, "sequences": sequences}
        source |= {"seed": spec.evaluation_seed}
    content = config if context == "training" else source
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
        source=json.dumps(CodeDatasetSource(source).to_dict()),
        schema=json.dumps(_schema(task.inputs).to_dict()),
        profile=json.dumps(profile),
    )


def _schema(inputs: int) -> TensorDatasetSchema:
    """Return the schema of x, float32 (B, T, I), and of the correct classes, int64 (B, T)."""
    x = TensorSpec(np.dtype("float32"), (-1, -1, inputs))
    return TensorDatasetSchema(Schema([x]), Schema([TensorSpec(np.dtype("int64"), (-1, -1))]))
