"""Test real searches on every task, and the error of a search without its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from optuna.trial import TrialState

from sabtune.data import place
from sabtune.data.add import add
from sabtune.errors import DataError
from sabtune.storage.store import Store
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.tasks import TASKS, Language, Pixels, TaskConfig
from sabtune.tuning.run import search
from tests import one_ray as shared_ray
from tests.forked import sabtune
from tests.studies import posed
from tests.test_tasks import EXAMPLES

ROOT = Path(__file__).parent.parent

FROM_FILES = {
    "mnist": Pixels.Config(images="mnist", length=28, by="row", permutation=3),
    "cifar10": Pixels.Config(images="cifar10", length=32, by="row"),
    "ptb": Language.Config(text="ptb", length=20),
    "text8": Language.Config(text="text8", length=20),
}


WIDE = {"COLUMNS": "160"}
"""The environment of a terminal that is wide enough for every heading."""


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Run the searches that need no data on one Ray."""
    with shared_ray.one_ray():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_a_search_works_end_to_end(
    kind: str, commands: shared_ray.Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", WIDE["COLUMNS"])
    config = EXAMPLES[kind].config
    check(commands("search", posed(config, tmp_path), cwd=tmp_path), config, tmp_path)


@pytest.mark.slow
def test_workers_find_a_relative_data_folder(real_mnist: Path, tmp_path: Path) -> None:
    """They run in other folders."""
    add("mnist", real_mnist, tmp_path / "data")
    file = posed(FROM_FILES["mnist"], tmp_path)
    done = sabtune("search", file, "--data-dir", "data", cwd=tmp_path, environment=WIDE)
    check(done, FROM_FILES["mnist"], tmp_path)


def check(done: CompletedProcess[str], config: TaskConfig, folder: Path) -> None:
    """Check the output, the trial and the lengths of a search that has ended."""
    assert done.stderr == ""
    assert done.returncode == 0
    trials = StudyRecord.open(Store(folder / "sabtune-store"), "posed").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE]
    assert f"loss ({config.build().loss_unit})" in done.stdout
    lengths = [config.length, 2 * config.length]
    assert all([result.length for result in trial.test] == lengths for trial in trials)


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_search_without_its_data_fails_before_it_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    store = Store(tmp_path / "store").made()
    with pytest.raises(DataError) as raised:
        search(load(ROOT / "search_spaces" / f"{name}.py"), store)
    assert str(raised.value).startswith(f"there is no {tmp_path / name}")
    assert f"run `sabtune data fetch {name} --data-dir {tmp_path}`" in str(raised.value)
    assert StudyRecord.open(store, name).trials == []


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    study = ROOT / "search_spaces" / "mnist.py"
    done = sabtune("search", study, "--data-dir", "none", cwd=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stdout.splitlines() if not line.endswith(" …")]
    assert len(lines) == 1  # a warning about the space
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"sabtune: there is no {tmp_path / 'none' / 'mnist'}")
