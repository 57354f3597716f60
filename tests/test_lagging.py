"""Test on a CPU the training for GPUs, which reads its results only when it reports."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sabtune.config import RunConfig, TrainConfig
from sabtune.errors import DivergedError
from sabtune.models.base import Model
from sabtune.ops import triton
from sabtune.tasks import Language
from sabtune.training.loop import PATIENCE_UPDATES, Report, Training
from tests.test_training import poison, timeless, weights


def lagging(run: RunConfig) -> Training:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_can_defer_read", lambda training: True)
        return Training(run)


def with_train(run: RunConfig, train: TrainConfig) -> RunConfig:
    return dataclasses.replace(run, train=train)


def check_close(ours: list[Report], theirs: list[Report]) -> None:
    for one, other in zip(timeless(ours), timeless(theirs), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
        same = {"loss": other.loss, "gradient_norm": other.gradient_norm}
        assert dataclasses.replace(one, **same) == other  # type: ignore[arg-type]


@pytest.mark.parametrize("skipped", [set(), {1}, {5, 6, 11}], ids=str)
def test_deferred_reads_give_the_same_reports(run: RunConfig, skipped: set[int]) -> None:
    """Check updates with finite gradients and with others, which the optimizer detects itself."""
    ours, theirs = lagging(run), Training(run)
    for training in (ours, theirs):
        poison(training, skipped)
    check_close(list(ours), list(theirs))
    for name, weight in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], weight, rtol=1e-3, atol=1e-5)


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A counter of the floating-point numbers that are read from tensors."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += args[0].is_floating_point()
        return func(*args, **kwargs or {})


def test_nothing_is_read_between_reports(run: RunConfig) -> None:
    """Check the gradient norm, the loss and the number of correct predictions, an integer."""
    found = []
    for training in (lagging(run), Training(run)):
        seen: list[Any] = []

        def press(training: Training = training, seen: list[Any] = seen) -> bool:
            seen.append((reads.count > 0, len(training.unread), training.stretch.tally.scored > 0))
            return False

        with Reads() as reads:  # type: ignore[no-untyped-call]
            assert next(training.reports(press)) is not None
        found.append(seen)
        assert training.unread == []
    assert found[0] == [(False, unread, False) for unread in (1, 2, 3, 4)]
    assert found[1] == [(True, 0, True)] * 4


def test_a_pause_saves_unread_results(run: RunConfig, tmp_path: Path) -> None:
    unbroken, training = lagging(run), lagging(run)
    presses = iter([False, False, True])
    assert next(training.reports(lambda: next(presses))) is None
    training.save(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_can_defer_read", lambda training: True)
        training = Training.resume(tmp_path)
    assert timeless(list(training)) == timeless(list(unbroken))
    for name, weight in weights(unbroken).items():
        assert torch.equal(weights(training)[name], weight), name


def test_training_without_a_finite_gradient_ends_before_its_report(run: RunConfig) -> None:
    train = TrainConfig(
        updates=10 * PATIENCE_UPDATES, batch_size=1, report_every=10 * PATIENCE_UPDATES
    )
    training = lagging(with_train(run, train))
    poison(training, set(range(3, 10 * PATIENCE_UPDATES)))
    with pytest.raises(
        DivergedError, match=f"{PATIENCE_UPDATES} updates up to step {3 + PATIENCE_UPDATES}:"
    ):
        list(training)
    assert training.step == 2 * PATIENCE_UPDATES


def test_reads_are_not_deferred_on_a_cpu(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = with_train(run, dataclasses.replace(run.train, initial="passed"))
    plain, carries = Training(run), Training(passed)
    text = Training(dataclasses.replace(run, task=Language.Config(length=5)))
    for asked in ("0", "1"):
        monkeypatch.setenv(triton.SWITCH, asked)
        assert not any(training._can_defer_read() for training in (plain, carries, text))
    monkeypatch.setattr(Model, "device", torch.device("cuda"))
    assert [training._can_defer_read() for training in (plain, carries, text)] == [
        True,
        False,
        False,
    ]
    monkeypatch.delenv(triton.SWITCH)
    assert not plain._can_defer_read()
