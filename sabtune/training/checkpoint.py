"""Checkpoints on disk: safetensors for tensors, JSON for the rest, no pickle.

run.json                 the RunConfig: task, model, training, seed
weights.safetensors      the model's parameters
training.safetensors     the optimizer's state, the position in the training batches, and the state
                         that the next batch starts from
progress.json            format, step, sums for the next report
manifest.json            the size and SHA-256 of each file, written last (see `sabtune.manifest`)

Both safetensors files also store the step, so that a mixture of two checkpoints is detected.

Readers accept files that other versions of sabtune wrote. They ignore unknown keys of progress.json
and use defaults for missing ones. A change needs a new format number only if older versions must
not ignore it. run.json is an exception: an unknown key there raises CheckpointError, because it
could change what the model computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from sabtune import manifest
from sabtune.config import RunConfig
from sabtune.errors import CheckpointError
from sabtune.manifest import FORMAT, INSTEAD, MANIFEST, PROGRESS, WITHOUT_MANIFEST, parsing
from sabtune.models import Model

RUN, WEIGHTS, TRAINING = "run.json", "weights.safetensors", "training.safetensors"
READABLE = (*WITHOUT_MANIFEST, FORMAT)
"""The formats that `load` reads. Format 2, written only at reports, has no sums."""

CONTENT = (RUN, WEIGHTS, PROGRESS)
MODEL_FILES = (*CONTENT, MANIFEST)
"""The files that `load_model` reads."""
FILES = (*MODEL_FILES, TRAINING)
"""The files that `load` reads."""
_OPTIMIZER, _BATCHES, _CARRIED = "optimizer", "batches", "carried"
_PROGRESS = ("step", "in_a_row", "first_loss", "far")
_COUNTERS = ("step", "in_a_row", "far")
_STEP, _STRETCH = "step", "stretch"
_ADAM = {"step", "exp_avg", "exp_avg_sq"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """The complete state of a `Training`."""

    run: RunConfig
    step: int
    in_a_row: int = 0  # consecutive skipped updates
    first_loss: float | None = None  # None before the first update
    far: int = 0  # consecutive reports with too high a loss
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    batches: dict[str, Tensor]  # the state of the batch source
    carried: dict[str, Tensor] = field(default_factory=dict)  # the model's state for the next batch
    stretch: dict[str, Any] = field(default_factory=dict)  # sums for the next report


def save(directory: Path, saved: Saved, others: Mapping[str, bytes] | None = None) -> None:
    """Write a checkpoint into `directory`, and create the directory if it does not exist.

    others: The content of additional files, by name. The manifest lists them, too.
    """
    step = {_STEP: str(saved.step)}
    training = _with_prefix(_OPTIMIZER, saved.optimizer)
    training |= _with_prefix(_BATCHES, saved.batches) | _with_prefix(_CARRIED, saved.carried)
    progress = {"format": FORMAT, _STRETCH: saved.stretch}
    progress |= {name: getattr(saved, name) for name in _PROGRESS}
    manifest.write(
        directory,
        {
            **(others or {}),
            RUN: _json(saved.run.to_dict()),
            WEIGHTS: bytes_of(_contiguous(saved.weights), step),
            TRAINING: bytes_of(_contiguous(training), step),
            PROGRESS: _json(progress),
        },
    )


def load(directory: Path, run: RunConfig | None = None) -> Saved:
    """Read a checkpoint.

    Raises CheckpointError if a file is missing or damaged, if this version cannot read its format,
    or if its configuration is not `run`.
    """
    content = manifest.read(directory, (*CONTENT, TRAINING))
    progress = manifest.json_object(directory, PROGRESS, content.files[PROGRESS])
    number = progress.get("format")
    if number not in READABLE:
        newer = type(number) is int and number > FORMAT
        remedy = "use the version of sabtune that wrote it, or a newer one" if newer else INSTEAD
        raise CheckpointError(
            f"{directory} has checkpoint format {str(number)[:20]}, "
            f"and this version reads {', '.join(map(str, READABLE))}: {remedy}"
        )
    step = None if number == WITHOUT_MANIFEST[0] else str(progress.get(_STEP))
    saved_run = _run(directory, content.files[RUN], run)
    weights = _tensors(directory / WEIGHTS, content, step)
    training = _tensors(directory / TRAINING, content, step)
    with parsing(directory / PROGRESS):
        values = {name: progress[name] for name in _PROGRESS if name in progress}
        for name in _COUNTERS:
            if name in values and (type(values[name]) is not int or values[name] < 0):
                raise ValueError(f"{name} is {values[name]!r}")
        return Saved(
            run=saved_run,
            **values,
            weights=weights,
            optimizer=_without_prefix(_OPTIMIZER, training),
            batches=_without_prefix(_BATCHES, training),
            carried=_without_prefix(_CARRIED, training),
            stretch=progress.get(_STRETCH, {}),
        )


def load_model(directory: Path, run: RunConfig | None = None) -> Model:
    """Return the trained model of a checkpoint, in evaluation mode.

    Raises CheckpointError if a file is missing or damaged, or if the configuration is not `run`.
    """
    content = manifest.read(directory, CONTENT)
    saved_run = _run(directory, content.files[RUN], run)
    progress = manifest.json_object(directory, PROGRESS, content.files[PROGRESS])
    weights = _tensors(directory / WEIGHTS, content)
    saved_run.activate()
    with parsing(directory):
        model = saved_run.build_model(saved_run.task.build())
        restore_weights(model, weights)
        model.set_progress(progress["step"] / saved_run.train.updates)
    return model.eval()


def export_model(directory: Path, to: Path) -> None:
    """Copy the files that `load_model` reads to `to`, without the optimizer's state.

    Raises CheckpointError if a file is missing or damaged.
    """
    manifest.write(to, manifest.read(directory, CONTENT).files)


def restore_weights(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a model. Raises ValueError or RuntimeError if they do not fit it."""
    for name, current in model.state_dict().items():
        if not isinstance(current, Tensor) or name not in weights:
            continue
        if weights[name].dtype != current.dtype:
            raise ValueError(f"{name} is {weights[name].dtype}, not {current.dtype}")
    model.load_state_dict(dict(weights))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors, with names such as "0.exp_avg".

    The number is the parameter's position in the optimizer.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": tensor
        for number, tensors in state.items()
        for name, tensor in tensors.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned. Raises ValueError if it does not fit."""
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    for number, saved in state.items():
        shapes = {name: () if name == "step" else parameters[number].shape for name in _ADAM}
        if {name: tuple(tensor.shape) for name, tensor in saved.items()} != shapes:
            raise ValueError(f"the optimizer's state of parameter {number} does not fit")
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _with_prefix(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name starts with `part`, without that prefix."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _run(directory: Path, data: bytes, expected: RunConfig | None) -> RunConfig:
    """Return the configuration of a checkpoint. Raises CheckpointError if it is not `expected`."""
    content = manifest.json_object(directory, RUN, data)
    with parsing(directory / RUN):
        run = RunConfig.from_dict(content)
    if expected is not None and run != expected:
        raise CheckpointError(f"{directory / RUN} is of another configuration: {INSTEAD}")
    return run


def _tensors(path: Path, content: manifest.Content, step: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file.

    step: the step at which the file must have been saved; None accepts any. Raises CheckpointError
    if the file is damaged or of another step. It also does so if no manifest verifies the file and
    a floating-point tensor is not finite.
    """
    data = content.files[path.name]
    try:
        tensors = tensors_of(data)
    except SafetensorError as problem:
        raise manifest.damaged(path, problem) from None
    with parsing(path):
        size = int.from_bytes(data[:8], "little")
        saved_step = json.loads(data[8 : 8 + size]).get("__metadata__", {}).get(_STEP)
    if step is not None and saved_step != step:
        raise CheckpointError(
            f"{path} was saved at step {saved_step}, the other files at {step}: {INSTEAD}"
        )
    if not content.verified:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{path}: {name} isn't finite: {INSTEAD}")
    return tensors


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
