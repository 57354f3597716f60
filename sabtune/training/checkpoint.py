"""Checkpoints on disk: safetensors for numbers, JSON for the rest, no pickle.

run.json                 the RunConfig: task, model, training, seed
weights.safetensors      the model's parameters
training.safetensors     the optimiser's state, where the training batches stand, and the state
                         that the next one goes on from
progress.json            format, step, what the next report is made of so far
manifest.json            the SHA-256 of each file, written last: see `manifest`

Both files of tensors name the step too: what two saves have left in one directory is found out.
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
"""The second has no stretch: it was written between two reports alone."""

CONTENT = (RUN, WEIGHTS, PROGRESS)
MODEL_FILES = (*CONTENT, MANIFEST)
"""What `load_model` reads."""
FILES = (*MODEL_FILES, TRAINING)
"""What `load` reads."""
_OPTIMIZER, _BATCHES, _CARRIED = "optimizer", "batches", "carried"
_PROGRESS = ("step", "in_a_row", "first_loss", "far")
_STEP, _STRETCH = "step", "stretch"
_ADAM = {"step", "exp_avg", "exp_avg_sq"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """Everything a training is made of."""

    run: RunConfig
    step: int
    in_a_row: int
    first_loss: float | None
    far: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    batches: dict[str, Tensor]  # the state of their source
    carried: dict[str, Tensor] = field(default_factory=dict)  # the model's state, if one is
    stretch: dict[str, Any] = field(default_factory=dict)  # since the last report, as plain values


def save(directory: Path, saved: Saved, others: Mapping[str, bytes] | None = None) -> None:
    """Write a checkpoint into `directory`, which is made if need be.

    others: further files by name, which the manifest names too.
    """
    step = {_STEP: str(saved.step)}
    training = _under(_OPTIMIZER, saved.optimizer)
    training |= _under(_BATCHES, saved.batches) | _under(_CARRIED, saved.carried)
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
    """Read a checkpoint. Raises CheckpointError, naming the file, if one is missing or isn't what
    was saved, or if the checkpoint is of another configuration than `run`."""
    content = manifest.read(directory, (*CONTENT, TRAINING))
    progress = manifest.json_object(directory, PROGRESS, content.files[PROGRESS])
    if progress.get("format") not in READABLE:
        raise CheckpointError(
            f"{directory} has checkpoint format {str(progress.get('format'))[:20]}: "
            f"this version reads {', '.join(map(str, READABLE))}"
        )
    step = None if progress["format"] == WITHOUT_MANIFEST[0] else str(progress.get(_STEP))
    saved_run = _run(directory, content.files[RUN], run)
    weights = _tensors(directory / WEIGHTS, content, step)
    training = _tensors(directory / TRAINING, content, step)
    with parsing(directory / PROGRESS):
        for name in ("step", "in_a_row", "far"):
            if type(progress[name]) is not int or progress[name] < 0:
                raise ValueError(f"{name} is {progress[name]!r}")
        return Saved(
            run=saved_run,
            **{name: progress[name] for name in _PROGRESS},
            weights=weights,
            optimizer=_of(_OPTIMIZER, training),
            batches=_of(_BATCHES, training),
            carried=_of(_CARRIED, training),
            stretch=progress.get(_STRETCH, {}),
        )


def load_model(directory: Path, run: RunConfig | None = None) -> Model:
    """Return the model of a checkpoint as training left it, in evaluation mode. Raises what `load`
    raises."""
    content = manifest.read(directory, CONTENT)
    saved_run = _run(directory, content.files[RUN], run)
    progress = manifest.json_object(directory, PROGRESS, content.files[PROGRESS])
    weights = _tensors(directory / WEIGHTS, content)
    with parsing(directory):
        model = saved_run.build_model(saved_run.task.build())
        restore_weights(model, weights)
        model.set_progress(progress["step"] / saved_run.trial.train.updates)
    return model.eval()


def export_model(directory: Path, to: Path) -> None:
    """Copy what `load_model` needs, which leaves the optimiser behind."""
    manifest.write(to, manifest.read(directory, CONTENT).files)


def restore_weights(model: Model, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a model. Raises ValueError or RuntimeError if they aren't a model's of its
    configuration."""
    for name, own in model.state_dict().items():
        if isinstance(own, Tensor) and name in weights and weights[name].dtype != own.dtype:
            raise ValueError(f"{name} is {weights[name].dtype}, not {own.dtype}")
    model.load_state_dict(dict(weights))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, one tensor for each parameter's number and the state's name."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": tensor for i, of in state.items() for name, tensor in of.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out. Raises ValueError if that was another's."""
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    for number, of in state.items():
        shapes = {name: () if name == "step" else parameters[number].shape for name in _ADAM}
        if {name: tuple(tensor.shape) for name, tensor in of.items()} != shapes:
            raise ValueError(f"the optimiser's state of parameter {number} is another's")
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _under(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def _of(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `_under` put there."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _run(directory: Path, data: bytes, wanted: RunConfig | None) -> RunConfig:
    """Return the configuration that a checkpoint belongs to, which must be `wanted` if given."""
    content = manifest.json_object(directory, RUN, data)
    with parsing(directory / RUN):
        run = RunConfig.from_dict(content)
    if wanted is not None and run != wanted:
        raise CheckpointError(f"{directory / RUN} is of another configuration: {INSTEAD}")
    return run


def _tensors(path: Path, content: manifest.Content, step: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file; `step`: at which it must have been saved, if that is told.

    Where no manifest vouches for them, floating-point numbers must be finite.
    """
    data = content.files[path.name]
    try:
        tensors = tensors_of(data)
    except SafetensorError as problem:
        raise manifest.damaged(path, problem) from None
    with parsing(path):
        size = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + size]).get("__metadata__", {}).get(_STEP)
    if step is not None and said != step:
        raise CheckpointError(f"{path} was saved at step {said}, the rest at {step}: {INSTEAD}")
    if not content.verified:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise CheckpointError(f"{path}: {name} isn't finite: {INSTEAD}")
    return tensors


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
