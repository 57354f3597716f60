"""Test training: it learns, resumes to the bit and reports when it diverges."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.errors import CheckpointError, DivergedError
from sabtune.models import LSTM, SAB, ModelConfig, SelfAttention
from sabtune.seeding import Stream, generator
from sabtune.tasks import Copying
from sabtune.training import checkpoint
from sabtune.training.loop import (
    DIVERGED_FACTOR,
    DIVERGED_REPORTS,
    PATIENCE_UPDATES,
    Report,
    Training,
)
from tests.checkpoints import of_format, seal


def timeless(reports: list[Report]) -> list[Report]:
    return [dataclasses.replace(report, updates_per_second=0.0) for report in reports]


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def test_reports_have_their_steps_and_the_scheduled_k_top(run: RunConfig) -> None:
    reports = list(Training(run))
    assert [report.step for report in reports] == [5, 10, 15, 20]
    # k_top decreases from 6 to 2 over the first half; these are the values of the last updates.
    assert [report.in_force for report in reports] == [
        {"k_top": 4},
        {"k_top": 2},
        {"k_top": 2},
        {"k_top": 2},
    ]
    assert all(report.updates_per_second > 0 for report in reports)
    assert all(report.skipped == 0 for report in reports)


def test_the_optimizer_gives_the_bits_of_torchs_adam(run: RunConfig) -> None:
    training, other = Training(run), Training(run)
    other.optimizer = torch.optim.Adam(other.model.parameters())
    assert timeless(list(training)) == timeless(list(other))
    for name, tensor in weights(training).items():
        assert torch.equal(tensor, weights(other)[name])
    ours, theirs = training.optimizer.state_dict(), other.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert all(
        torch.equal(ours["state"][0][key], theirs["state"][0][key]) for key in ("exp_avg", "step")
    )


def test_training_learns() -> None:
    run = RunConfig.of(
        task=Copying.Config(length=2, symbols=1, alphabet=2),
        trial=TrialConfig(
            model=SAB.Config(hidden=16, k_top=2, k_att=1, k_trunc=2),
            train=TrainConfig(updates=400, batch_size=32, learning_rate=0.01, report_every=100),
        ),
        seed=0,
    )
    reports = list(Training(run))
    assert reports[-1].accuracy > 0.95
    assert reports[-1].loss < reports[0].loss / 4


def test_a_seed_decides_the_training(run: RunConfig) -> None:
    one, same = timeless(list(Training(run))), timeless(list(Training(run)))
    other = timeless(list(Training(dataclasses.replace(run, seed=8))))
    assert one == same
    assert one != other


@pytest.mark.parametrize("stops", [[0], [1], [3], [1, 2]], ids=str)
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    run: RunConfig, tmp_path: Path, stops: list[int]
) -> None:
    unbroken = Training(run)
    expected = list(unbroken)

    training, got = Training(run), list[Report]()
    for i, stop in enumerate(stops):
        reports = iter(training)
        while len(got) < stop:
            got.append(next(reports))
        training.save(tmp_path / str(i))
        torch.manual_seed(i)  # the global generator must not matter
        training = Training.resume(tmp_path / str(i))
    got += list(training)

    assert timeless(got) == timeless(expected)
    for name, tensor in weights(unbroken).items():
        assert torch.equal(weights(training)[name], tensor), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("model", [SAB.Config(hidden=8), LSTM.Config(), SelfAttention.Config()])
def test_a_gpu_trains_like_a_cpu(run: RunConfig, model: ModelConfig, tmp_path: Path) -> None:
    run = dataclasses.replace(run, model=model)
    training = Training(run, "cuda")
    for ours, theirs in zip(training, Training(run), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
    training.save(tmp_path)
    assert Training.resume(tmp_path, "cuda").model.device.type == "cuda"


def test_a_checkpoint_holds_no_pickle(run: RunConfig, tmp_path: Path) -> None:
    training = Training(run)
    next(iter(training))
    training.save(tmp_path)
    for path in tmp_path.iterdir():
        assert path.suffix in (".json", ".safetensors")


def test_the_model_of_a_checkpoint_is_the_trained_one(run: RunConfig, tmp_path: Path) -> None:
    training = Training(run)
    next(iter(training))
    training.save(tmp_path)
    loaded = checkpoint.load_model(tmp_path)
    x = torch.randn(2, 30, training.task.inputs, generator=generator(0, Stream.TEST))
    assert loaded.in_force() == {"k_top": 4}
    assert torch.equal(loaded(x)[0], training.model(x)[0])


@pytest.mark.parametrize(
    "name", ["run.json", "weights.safetensors", "training.safetensors", "progress.json"]
)
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_damaged_checkpoint_names_the_file(
    run: RunConfig, tmp_path: Path, name: str, damage: str
) -> None:
    Training(run).save(tmp_path)
    next_to_it = tmp_path / name
    if damage == "missing":
        next_to_it.unlink()
    else:
        next_to_it.write_bytes(next_to_it.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=name):
        Training.resume(tmp_path)


def test_a_checkpoint_of_another_format_is_refused(run: RunConfig, tmp_path: Path) -> None:
    Training(run).save(tmp_path)
    progress = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps(progress | {"format": 99}))
    seal(tmp_path)
    with pytest.raises(CheckpointError, match="format 99"):
        Training.resume(tmp_path)


def poison(training: Training, updates: set[int]) -> None:
    """Make the gradients of these updates non-finite."""
    loss = training.task.loss

    def poisoned(logits: torch.Tensor, batch: object) -> torch.Tensor:
        value = loss(logits, batch)  # type: ignore[arg-type]
        return value * float("nan") if training.step in updates and logits.requires_grad else value

    training.task.loss = poisoned  # type: ignore[method-assign]


def test_an_update_without_a_finite_gradient_is_skipped_and_counted(run: RunConfig) -> None:
    training = Training(run)
    poison(training, {5, 6})
    reports = iter(training)
    next(reports)
    before = weights(training)
    training.run = dataclasses.replace(run, train=TrainConfig(updates=20, report_every=1))
    assert next(reports).skipped == 1
    assert all(torch.equal(before[k], v) for k, v in weights(training).items())
    assert [next(reports).skipped, next(reports).skipped] == [1, 0]
    assert any(not torch.equal(before[k], v) for k, v in weights(training).items())
    assert all(v.isfinite().all() for v in weights(training).values())


def test_training_that_stays_without_a_finite_gradient_has_diverged(run: RunConfig) -> None:
    train = TrainConfig(
        updates=10 * PATIENCE_UPDATES, batch_size=1, report_every=10 * PATIENCE_UPDATES
    )
    training = Training(dataclasses.replace(run, train=train))
    poison(training, set(range(3, 10 * PATIENCE_UPDATES)))
    with pytest.raises(DivergedError, match=f"no finite gradient in {PATIENCE_UPDATES} updates"):
        list(training)
    assert training.step == 3 + PATIENCE_UPDATES


def test_training_with_an_enormous_loss_has_diverged(run: RunConfig) -> None:
    """At a huge learning rate the gates saturate: gradients are finite, the loss is enormous."""
    train = dataclasses.replace(run.train, learning_rate=1e30, decay=0.0, updates=100)
    training = Training(dataclasses.replace(run, train=train))
    reports = []
    with pytest.raises(
        DivergedError,
        match=f"for {DIVERGED_REPORTS} reports no less than {DIVERGED_FACTOR:g} times",
    ):
        reports += list(training)
    assert training.step == DIVERGED_REPORTS * train.report_every
    assert all(report.skipped == 0 for report in reports)


def test_a_checkpoint_keeps_the_count_of_diverged_reports(run: RunConfig, tmp_path: Path) -> None:
    train = dataclasses.replace(run.train, learning_rate=1e30, decay=0.0, updates=100)
    training = Training(dataclasses.replace(run, train=train))
    next(iter(training))
    training.save(tmp_path)
    resumed = Training.resume(tmp_path)
    assert resumed.first_loss == training.first_loss
    assert resumed.far == 1
    with pytest.raises(DivergedError):
        list(resumed)
    assert resumed.step == DIVERGED_REPORTS * train.report_every


def test_a_training_with_pauses_gives_the_same_reports(run: RunConfig, tmp_path: Path) -> None:
    """The training is saved after every update and resumed from the files."""
    unbroken = Training(run)
    expected = list(unbroken)
    training, got, pauses = Training(run), list[Report](), 0
    while training.progress < 1:
        report = next(training.reports(lambda: True))
        pauses += report is None
        got += [report] if report is not None else []
        training.save(tmp_path / str(training.step))
        training = Training.resume(tmp_path / str(training.step))
    assert pauses == 16  # 20 updates, 4 of which end with a report
    assert timeless(got) == timeless(expected)
    for name, tensor in weights(unbroken).items():
        assert torch.equal(weights(training)[name], tensor), name


def test_a_pause_does_not_change_the_measured_time(run: RunConfig, tmp_path: Path) -> None:
    training = Training(run)
    assert next(training.reports(lambda: True)) is None
    training.stretch.seconds = 1000.0
    training.save(tmp_path)
    report = next(iter(Training.resume(tmp_path)))
    assert report.updates_per_second == pytest.approx(5 / 1000, rel=0.1)


def test_a_checkpoint_of_the_previous_format_is_read(run: RunConfig, tmp_path: Path) -> None:
    training = Training(run)
    reports = iter(training)
    next(reports)
    training.save(tmp_path)
    of_format(tmp_path, 2)
    assert timeless(list(Training.resume(tmp_path))) == timeless(list(reports))


@pytest.mark.parametrize("name", ["weights.safetensors", "training.safetensors", "progress.json"])
def test_files_of_two_saves_are_refused(run: RunConfig, tmp_path: Path, name: str) -> None:
    training = Training(run)
    for folder, _ in zip(("first", "second"), training, strict=False):
        training.save(tmp_path / folder)
    (tmp_path / "first" / name).replace(tmp_path / "second" / name)
    with pytest.raises(CheckpointError, match=f"{name} isn't what was saved"):
        Training.resume(tmp_path / "second")
    of_format(tmp_path / "second", 3)
    with pytest.raises(CheckpointError, match="was saved at step"):
        Training.resume(tmp_path / "second")


def starting(run: RunConfig, **changes: Any) -> RunConfig:
    train = dataclasses.replace(run.train, **changes)
    return dataclasses.replace(run, train=train)


def with_model(run: RunConfig, model: ModelConfig) -> RunConfig:
    return dataclasses.replace(run, model=model)


def starts(run: RunConfig) -> tuple[list[Any], list[Any]]:
    """Return the initial and the final states of the batches of a training."""
    training = Training(run)
    forward, began, ended = training.model.forward, [], []

    def spy(x: torch.Tensor, state: Any = None) -> Any:
        logits, after = forward(x, state)
        began.append(state)
        ended.append(after)
        return logits, after

    training.model.forward = spy  # type: ignore[method-assign]
    list(training)
    return began, ended


def test_training_sequences_start_from_zero_by_default(run: RunConfig) -> None:
    began, _ = starts(run)
    assert began == [None] * 20


@pytest.mark.parametrize("model", [SAB.Config(hidden=8), LSTM.Config(hidden=8)])
def test_passed_states_start_the_next_batch(run: RunConfig, model: ModelConfig) -> None:
    passed = starting(with_model(run, model), initial="passed")
    began, ended = starts(passed)
    assert began[0] is None
    for state, before in zip(began[1:], ended, strict=False):
        assert torch.equal(state.h, before.h)
        assert torch.equal(state.c, before.c)
        assert state.step == 0


def test_noise_starts_sequences_at_the_given_scale(run: RunConfig) -> None:
    noisy = starting(with_model(run, SAB.Config(hidden=64)), initial="noise", initial_scale=3.0)
    began, _ = starts(noisy)
    drawn = torch.stack([torch.stack([state.h, state.c]) for state in began])
    assert drawn.std().item() == pytest.approx(3, rel=0.05)
    assert drawn.mean().item() == pytest.approx(0, abs=0.15)
    # Every row, unit and batch has its own noise.
    assert len(set(drawn.flatten().tolist())) > 0.99 * drawn.numel()


@pytest.mark.parametrize("initial", ["noise", "passed"])
def test_initial_states_resume_to_the_bit(run: RunConfig, tmp_path: Path, initial: str) -> None:
    run = starting(run, initial=initial)
    unbroken = Training(run)
    reports = list(unbroken)
    first = Training(run)
    begun = [next(iter(first))]
    first.save(tmp_path)
    again = Training.resume(tmp_path)
    assert timeless(begun + list(again)) == timeless(reports)
    assert all(torch.equal(t, weights(again)[name]) for name, t in weights(unbroken).items())
    assert timeless(reports) != timeless(list(Training(starting(run, initial="zero"))))
