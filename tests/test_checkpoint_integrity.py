"""Test that a damaged checkpoint is skipped with a message, in favor of the one before it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sabtune.config import RunConfig
from sabtune.errors import CheckpointError
from sabtune.storage.folder import Folder
from sabtune.study.checkpoints import Attempts, history
from sabtune.terminal.trial_log import Logbook
from sabtune.training.checkpoint import MODEL_FILES, export_model, load_model
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import TrialRun, TrialSpec
from sabtune.tuning.trainable import newest
from tests.checkpoints import of_format

Damage = Callable[[Path], None]
CPU = torch.device("cpu")


def assigned(run: RunConfig, number: int) -> TrialSpec:
    return TrialSpec(
        number=number,
        configuration=7,
        run=run,
        ladder=Ladder(lengths=(5, 10), select=(5,), sequences=8),
        evaluation_seed=1,
        threads=1,
    )


def left(spec: TrialSpec, folder: Path) -> list[Folder]:
    """Return two checkpoints of a trial, newest first: at 10 and 5 updates."""
    trial = TrialRun(spec)
    for at, _ in zip(range(2), trial, strict=False):
        name = f"{spec.number:04d}"
        trial.save(folder / name / f"checkpoint_{at:06d}", {"entry.json": b"{}"})
    return Attempts(Folder.at(folder)).checkpoints(spec.number)


def tensors(change: Callable[[dict[str, Tensor]], object], name: str = "weights") -> Damage:
    """Rewrite a file of tensors with a change, and keep its metadata."""

    def damage(checkpoint: Path) -> None:
        path = checkpoint / f"{name}.safetensors"
        with safe_open(path, "pt") as file:
            metadata, held = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        change(held)
        save_file(held, path, metadata)

    return damage


def first(held: Mapping[str, Tensor]) -> str:
    return next(iter(held))


def other_rate(checkpoint: Path) -> None:
    path = checkpoint / "run.json"
    content = json.loads(path.read_text())
    content["trial"]["train"]["learning_rate"] *= 2
    path.write_text(json.dumps(content))


def flipped(name: str) -> Damage:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / name
        data = bytearray(path.read_bytes())
        data[-9] ^= 4
        path.write_bytes(bytes(data))

    return damage


def written(name: str, data: bytes) -> Damage:
    def damage(checkpoint: Path) -> None:
        (checkpoint / name).write_bytes(data)

    return damage


def linked(checkpoint: Path) -> None:
    path = checkpoint / "weights.safetensors"
    path.replace(checkpoint.parent / "elsewhere")
    path.symlink_to(checkpoint.parent / "elsewhere")


def piped(checkpoint: Path) -> None:
    (checkpoint / "trial.json").unlink()
    os.mkfifo(checkpoint / "trial.json")


DEEP = b"[" * 100_000
FOUND: dict[str, Damage] = {  # detected in a checkpoint of any format
    "a tensor is missing": tensors(lambda held: held.pop(first(held))),
    "there is a tensor more": tensors(lambda held: held.update(more=torch.zeros(2))),
    "a tensor has another shape": tensors(lambda held: held.update({first(held): torch.ones(3)})),
    "weights are int8": tensors(
        lambda held: held.update({name: of.to(torch.int8) for name, of in held.items()})
    ),
    "weights are NaN": tensors(lambda held: held[first(held)].fill_(float("nan"))),
    "the optimizer's state lacks something": tensors(
        lambda held: held.pop("optimizer.0.exp_avg"), "training"
    ),
    "the optimizer's state has another shape": tensors(
        lambda held: held.update({"optimizer.0.exp_avg": torch.ones(3)}), "training"
    ),
    "the generator's state is another's": tensors(
        lambda held: held.update({"batches.generator": torch.ones(3)}), "training"
    ),
    "an absurd header": written("weights.safetensors", b"\xff" * 7 + b"\x7f" + bytes(99)),
    "another learning rate": other_rate,
    "deep JSON": written("run.json", DEEP),
    "deep JSON of the trial": written("trial.json", DEEP),
    "deep JSON of the progress": written("progress.json", DEEP),
    "a long number": written("progress.json", b'{"format": 3, "step": 1e999}'),
    "a link": linked,
    "a pipe": piped,
    "no tensors": lambda checkpoint: (checkpoint / "training.safetensors").unlink(),
}
VOUCHED: dict[str, Damage] = {  # detected only by the manifest
    "a bit of the weights": flipped("weights.safetensors"),
    "a bit of the optimizer's state": flipped("training.safetensors"),
    "a bit of the history": flipped("trial.json"),
    "no manifest": lambda checkpoint: (checkpoint / "manifest.json").unlink(),
    "an empty manifest": written("manifest.json", b""),
    "a deep manifest": written("manifest.json", DEEP),
    "a manifest of numbers": written("manifest.json", b'{"format": 4, "files": {"run.json": 1}}'),
    "a manifest of nothing": written("manifest.json", b'{"format": 4}'),
    "a large manifest": written("manifest.json", b" " * 2_000_000),
}
CASES = [
    *((name, 4, damage) for name, damage in (FOUND | VOUCHED).items()),
    *((name, 3, damage) for name, damage in FOUND.items()),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a trial's two checkpoints, which tests copy."""
    return tmp_path_factory.mktemp("pair")


@pytest.fixture
def checkpoints(pair: Path, run: RunConfig, tmp_path: Path) -> list[Folder]:
    if not (pair / "0007").exists():
        left(assigned(run, 7), pair)
    shutil.copytree(pair / "0007", tmp_path / "0007")
    return Attempts(Folder.at(tmp_path)).checkpoints(7)


def ids(value: object) -> str:
    """Return a test ID without function addresses, which differ between processes."""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("name", "form", "damage"), CASES, ids=ids)
def test_a_damaged_checkpoint_is_skipped_with_a_message(
    run: RunConfig, checkpoints: list[Folder], name: str, form: int, damage: Damage
) -> None:
    assert checkpoints[0].path is not None
    if form == 3:
        of_format(checkpoints[0].path, 3)
        assert newest(assigned(run, 7), checkpoints, CPU).training.step == 10
    damage(checkpoints[0].path)
    told: dict[str, str] = {}
    resumed = newest(assigned(run, 7), checkpoints, CPU, told.__setitem__)
    assert resumed.training.step == 5
    ((where, why),) = told.items()
    assert where == checkpoints[0].address
    assert "use another checkpoint" not in why  # sabtune already uses another one
    assert "\n" not in why
    assert len(history(checkpoints)) in (1, 2)


def test_a_checkpoint_of_another_trial_is_skipped(run: RunConfig, tmp_path: Path) -> None:
    ours, others = assigned(run, 7), assigned(replace(run, seed=8), 8)
    newest_first, (other, _) = left(ours, tmp_path), left(others, tmp_path)
    assert newest_first[0].path is not None
    assert other.path is not None
    shutil.rmtree(newest_first[0].path)
    shutil.copytree(other.path, newest_first[0].path)
    assert newest(ours, newest_first, CPU).training.step == 5
    assert len(history(newest_first, ours)) == 1
    with pytest.raises(CheckpointError, match="is of another configuration"):
        load_model(newest_first[0].path, ours.run)


def test_a_changed_model_is_not_loaded(
    run: RunConfig, checkpoints: list[Folder], tmp_path: Path
) -> None:
    assert checkpoints[0].path is not None
    export_model(checkpoints[0].path, tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(MODEL_FILES)
    load_model(tmp_path / "model", run)
    for folder in (tmp_path / "model", checkpoints[0].path):
        flipped("weights.safetensors")(folder)
        with pytest.raises(CheckpointError, match="isn't what was saved"):
            load_model(folder, run)
    with pytest.raises(CheckpointError, match="isn't what was saved"):
        export_model(checkpoints[0].path, tmp_path / "again")


def test_without_a_valid_checkpoint_a_trial_restarts(
    run: RunConfig, checkpoints: list[Folder]
) -> None:
    told: dict[str, str] = {}
    for checkpoint in checkpoints:
        assert checkpoint.path is not None
        flipped("training.safetensors")(checkpoint.path)
    assert newest(assigned(run, 7), checkpoints, CPU, told.__setitem__).training.step == 0
    assert list(told) == [checkpoint.address for checkpoint in checkpoints]


def test_the_trial_log_has_the_message(tmp_path: Path) -> None:
    Logbook(tmp_path / "s.log").trial_noted(3, "/a/checkpoint_000001 is passed over: why")
    head, line = (tmp_path / "s.log").read_text().splitlines()
    assert line.split()[1:3] == ["#3", "NOTE"]
    assert line.endswith("  /a/checkpoint_000001 is passed over: why")
    assert head.split()[-1] == "reason"
