"""Shared by all tests: small configurations, golden runs, and MLflow of both kinds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import sabtune.search  # noqa: F401  # before ray, which reads once what this sets
from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Linear
from sabtune.tasks import Copying

if TYPE_CHECKING:
    from tests.experiments import Place, Server  # loads MLflow, which most tests can do without
    from tests.objects import Objects

GOLDEN = Path(__file__).parent / "golden"

for name in ("COLUMNS", "LINES"):  # readline, which pytest loads, gives these to what pytest starts
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As a trial runs: on one thread, so that results don't depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What a test keeps in the environment for later commands, or MLflow does, ends with it."""
    names = ("SABTUNE_DATA", "MLFLOW_TRACKING_URI")
    before = {name: os.environ[name] for name in names if name in os.environ}
    yield
    if "mlflow" in sys.modules:  # it keeps it beside the environment, too
        sys.modules["mlflow"].set_tracking_uri(None)
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """What a compiled pass reads before it is written shows as NaN."""
    from sabtune.ops.compiled.buffers import BUFFERS

    BUFFERS.poisoned = True
    yield
    BUFFERS.poisoned = False


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server for all tests; it may take a minute to start on a busy machine."""
    from tests.experiments import Server

    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    """An S3 for all tests."""
    from tests.objects import objects

    with objects(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture
def s3(s3_server: Objects, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """The same; the environment leads there."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SABTUNE_FILES", raising=False)
    return s3_server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded MLflow of all tests is."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture
def embedded(request: pytest.FixtureRequest, folder: Path) -> Place:
    """A study of its own where the kind of MLflow makes no difference."""
    from tests.experiments import Place

    return Place(f"sqlite:///{folder / 'mlflow.db'}", request.node.name, folder / "artifacts")


@pytest.fixture(params=["embedded", "server"])
def place(request: pytest.FixtureRequest) -> Place:
    """A study of its own for each test, in either kind of MLflow."""
    from tests.experiments import Place

    if request.param == "server":
        return Place(request.getfixturevalue("server").uri, request.node.name, None)
    return request.getfixturevalue("embedded")  # type: ignore[no-any-return]
