"""Shared by all tests: small configurations, and where the golden runs are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Linear
from sabtune.tasks import Copying

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As a trial runs: on one thread, so that results don't depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture
def run() -> RunConfig:
    """A training of seconds, with everything in it that a long one has."""
    return RunConfig(
        task=Copying.Config(length=5, symbols=2),
        trial=TrialConfig(
            model=SAB.Config(hidden=8, k_top=2, k_att=2, k_trunc=3, schedule=Linear(start=6)),
            train=TrainConfig(
                updates=20, batch_size=4, learning_rate=0.01, decay=0.5, report_every=5
            ),
        ),
        seed=7,
    )
