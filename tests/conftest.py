"""Fixtures for all tests: a small configuration, an S3 server, and MLflow of both kinds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import sabtune.tuning  # noqa: F401  # sets variables that Ray reads on import
from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.data import published
from sabtune.models import SAB
from sabtune.schedule import Linear
from sabtune.tasks import Copying
from tests import real_data

if TYPE_CHECKING:
    from tests.experiments import Place, Server  # loads MLflow, which most tests don't need
    from tests.objects import Objects
    from tests.one_ray import Commands

GOLDEN = Path(__file__).parent / "golden"

for name in ("COLUMNS", "LINES"):  # set by readline, which pytest loads
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Run tests on one thread, like trials, so that results don't depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Restore the environment and MLflow's settings after each test."""
    names = ("SABTUNE_DATA", "MLFLOW_TRACKING_URI")
    before = {name: os.environ[name] for name in names if name in os.environ}
    yield
    if "mlflow" in sys.modules:  # MLflow also keeps the URI outside of the environment
        sys.modules["mlflow"].set_tracking_uri(None)
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture
def _poisoned() -> Iterator[None]:
    """Fill the buffers of the compiled pass with NaN to expose reads of uninitialized memory."""
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
    """Return a run of 20 updates and 4 reports, with a schedule and a decaying learning rate."""
    return RunConfig.of(
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
    """Start an MLflow server for all tests. On a busy machine this may take a minute."""
    from tests.experiments import Server

    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    """Start an S3 server for all tests."""
    from tests.objects import objects

    with objects(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture
def s3(s3_server: Objects, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """Return the S3 server, with the environment set to use it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SABTUNE_FILES", raising=False)
    return s3_server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the embedded MLflow that all tests share."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="session")
def real_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the raw files of the real MNIST, or skip the test."""
    return real_data.mnist(tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="session")
def real_fashion_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that has the files of the real Fashion-MNIST, or skip the test."""
    return real_data.fashion_mnist(tmp_path_factory.mktemp("fashion-mnist"))


@pytest.fixture
def _unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept data sets that have another content than the published one."""
    monkeypatch.setattr(published, "check", lambda name, folder: None)


@pytest.fixture
def embedded(request: pytest.FixtureRequest, folder: Path) -> Place:
    """Return an empty study in the embedded MLflow, for tests that don't need both kinds."""
    from tests.experiments import Place

    return Place(f"sqlite:///{folder / 'mlflow.db'}", request.node.name, folder / "artifacts")


@pytest.fixture(params=["embedded", "server"])
def place(request: pytest.FixtureRequest) -> Place:
    """Return an empty study in each kind of MLflow; the test runs once per kind."""
    from tests.experiments import Place

    if request.param == "server":
        return Place(request.getfixturevalue("server").uri, request.node.name, None)
    return request.getfixturevalue("embedded")  # type: ignore[no-any-return]


@pytest.fixture
def one_ray() -> Iterator[None]:
    """Run all searches of the test on one Ray."""
    from tests.one_ray import one_ray

    with one_ray():
        yield


@pytest.fixture
def commands(
    one_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Commands:
    """Return a function that runs commands of `sabtune` in this process, on one Ray."""
    from tests.one_ray import Commands

    return Commands(monkeypatch, capsys)
