"""Checkpoints on disk: safetensors for numbers, JSON for the rest, no pickle.

run.json                 the RunConfig: task, model, training, seed
weights.safetensors      the model's parameters
training.safetensors     the optimiser's state, where the training batches stand, and the state
                         that the next one goes on from
progress.json            format, step, what the next report is made of so far; written last, so a
                         directory with it is whole

Both files of tensors name the step too: what two saves have left in one directory is found out.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sabtune.config import RunConfig
from sabtune.errors import CheckpointError, ConfigError
from sabtune.models import Model

FORMAT = 3
READABLE = (2, FORMAT)
"""The second has no stretch: it was written between two reports alone."""

MODEL_FILES = ("run.json", "weights.safetensors", "progress.json")
"""What `load_model` reads."""
_OPTIMIZER, _BATCHES, _CARRIED = "optimizer", "batches", "carried"
_PROGRESS = ("step", "in_a_row", "first_loss", "far")
_STEP, _STRETCH = "step", "stretch"


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


def save(directory: Path, saved: Saved) -> None:
    """Writes a checkpoint into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "run.json", saved.run.to_dict())
    step = {_STEP: str(saved.step)}
    save_file(_contiguous(saved.weights), directory / "weights.safetensors", step)
    training = _under(_OPTIMIZER, saved.optimizer)
    training |= _under(_BATCHES, saved.batches) | _under(_CARRIED, saved.carried)
    save_file(_contiguous(training), directory / "training.safetensors", step)
    _write_json(
        directory / "progress.json",
        {"format": FORMAT, _STRETCH: saved.stretch}
        | {name: getattr(saved, name) for name in _PROGRESS},
    )


def load(directory: Path) -> Saved:
    """Reads a checkpoint. Raises CheckpointError, naming the file, if one is missing or damaged."""
    progress = _read_json(directory / "progress.json")
    if progress.get("format") not in READABLE:
        raise CheckpointError(
            f"{directory} has checkpoint format {progress.get('format')!r}: "
            f"this version reads {' and '.join(map(str, READABLE))}"
        )
    step = str(progress.get(_STEP)) if progress["format"] == FORMAT else None
    training = _read_tensors(directory / "training.safetensors", step)
    run, weights = load_run(directory), _read_tensors(directory / "weights.safetensors", step)
    try:
        return Saved(
            run=run,
            **{name: progress[name] for name in _PROGRESS},
            weights=weights,
            optimizer=_of(_OPTIMIZER, training),
            batches=_of(_BATCHES, training),
            carried=_of(_CARRIED, training),
            stretch=progress.get(_STRETCH, {}),
        )
    except KeyError as problem:
        raise CheckpointError(f"{directory} lacks {problem}: use another checkpoint") from None


def load_run(directory: Path) -> RunConfig:
    """The configuration that a checkpoint belongs to."""
    try:
        return RunConfig.from_dict(_read_json(directory / "run.json"))
    except ConfigError as problem:
        raise CheckpointError(f"{directory / 'run.json'}: {problem}") from problem


def load_model(directory: Path) -> Model:
    """The model of a checkpoint as training left it, in evaluation mode."""
    run = load_run(directory)
    model = run.build_model(run.task.build())
    model.load_state_dict(_read_tensors(directory / "weights.safetensors"))
    progress = _read_json(directory / "progress.json")
    model.set_progress(progress["step"] / run.trial.train.updates)
    return model.eval()


def export_model(directory: Path, to: Path) -> None:
    """Copies what `load_model` needs, which leaves the optimiser behind."""
    for name in MODEL_FILES:
        shutil.copy(directory / name, to / name)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state, one tensor for each parameter's number and the state's name."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": tensor for i, of in state.items() for name, tensor in of.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
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


def _read_tensors(path: Path, step: str | None = None) -> dict[str, Tensor]:
    """step: at which it must have been saved, if that is told."""
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(_STEP)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(f"{path} can't be read ({problem}): use another checkpoint") from None
    if step is not None and said != step:
        raise CheckpointError(
            f"{path} was saved at step {said}, the rest at {step}: use another checkpoint"
        )
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{path} can't be read ({problem}): use another checkpoint") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object: use another checkpoint")
    return data


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=2) + "\n")
    part.replace(path)
