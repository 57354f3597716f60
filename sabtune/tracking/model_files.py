"""The files of a trained model, as MLflow's pyfunc flavor defines them.

The files are the weights in safetensors, the configuration in JSON, the code that loads them, and
the requirements. No pickle is written.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import Schema, TensorSpec

from sabtune.config import RunConfig
from sabtune.parts import local
from sabtune.seeding import Stream, generator
from sabtune.storage.folder import Folder
from sabtune.tasks import Task

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints
    from mlflow.pyfunc import FLAVOR_NAME, save_model

PYFUNC_MODEL = Path(__file__).with_name("pyfunc_model.py")
"""The code of every model. MLflow runs it; it is not imported."""

REQUIREMENTS = ("sabtune", "torch", "numpy", "safetensors", "numba")

CHECKPOINT = "checkpoint"
"""The name of the artifact with the weights and the configuration."""


class ModelWriter:
    """A writer of the files of models.

    MLflow needs tens of milliseconds to write a model, and the models of a study differ only in
    their checkpoint and their identity. So MLflow writes the first model of each task and code, and
    the files of the others are copies of it, with a checkpoint and an identity of their own.
    """

    def __init__(self) -> None:
        self._written: dict[str, _Written] = {}

    def write(
        self,
        folder: Path,
        exported: Path,
        run: RunConfig,
        model: LoggedModel,
        run_id: str,
        codes: Sequence[str] = (),
    ) -> None:
        """Write the files of a model into a folder, which must not exist.

        exported: The folder with the model's weights and configuration.

        run: The configuration, whose task determines the model's signature and its example.

        codes: The digests of the study file's code and of the code of own parts.
        """
        key = json.dumps([run.to_dict()["task"], *codes], sort_keys=True)
        written = self._written.get(key)
        if written is None:
            task = run.task.build()
            self._written[key] = _save(folder, exported, task, model, run_id, codes)
        else:
            written.copy(folder, exported, model, run_id)


@dataclass(frozen=True)
class _Written:
    """A model that MLflow has written: its description, and its files without the checkpoint."""

    description: Model
    files: Mapping[Path, bytes]
    other_bytes: int  # of `description.model_size_bytes`, those outside of the checkpoint

    def copy(self, folder: Path, exported: Path, model: LoggedModel, run_id: str) -> None:
        """Write a copy with another checkpoint and identity."""
        for path, content in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        flavors = copy.deepcopy(self.description.flavors)
        entry = flavors[FLAVOR_NAME]["artifacts"][CHECKPOINT]
        shutil.copytree(exported, folder / entry["path"])
        entry["uri"] = str(exported)
        description = _description(
            model,
            run_id,
            flavors=flavors,
            signature=self.description.signature,
            saved_input_example_info=self.description.saved_input_example_info,
            model_size_bytes=self.other_bytes + _bytes_in(exported),
        )
        description.save(folder / MLMODEL_FILE_NAME)


def _save(
    folder: Path,
    exported: Path,
    task: Task,
    model: LoggedModel,
    run_id: str,
    codes: Sequence[str],
) -> _Written:
    """Let MLflow write the files of a model, and return them for copies."""
    drawn = generator(0, Stream.SELECTION, index=task.length)
    example = task.batches(task.length, Stream.SELECTION, drawn).batch(1).x
    description = _description(model, run_id)
    with tempfile.TemporaryDirectory() as place:
        bundles = Folder(place)
        local.write_bundles(codes, bundles)
        save_model(
            folder,
            python_model=str(PYFUNC_MODEL),
            artifacts={CHECKPOINT: str(exported)},
            code_paths=[str(bundles / digest) for digest in codes] or None,
            mlflow_model=description,
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.inputs))]),
                outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, task.outputs))]),
            ),
            input_example=example.numpy(),
            pip_requirements=requirements(),
        )
    checkpoint = folder / description.flavors[FLAVOR_NAME]["artifacts"][CHECKPOINT]["path"]
    files = {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and checkpoint not in path.parents
    }
    del files[Path(MLMODEL_FILE_NAME)]
    others = int(description.model_size_bytes or 0) - _bytes_in(checkpoint)
    return _Written(description, files, others)


def _description(model: LoggedModel, run_id: str, **rest: Any) -> Model:
    """Return the description of a model, with the identity of a logged model."""
    return Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        model_id=model.model_id,
        run_id=run_id,
        **rest,
    )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def requirements() -> list[str]:
    """Return the packages that a model needs, with the versions installed here.

    Local version labels, such as +cpu in 2.13.0+cpu, depend on the machine and are left out.
    """
    pinned = []
    for package in REQUIREMENTS:
        try:
            pinned.append(f"{package}=={version(package).partition('+')[0]}")
        except PackageNotFoundError:  # numba is optional
            continue
    return pinned
