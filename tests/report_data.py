"""Report data that the tests of figures share."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.config import RunConfig
from sabtune.models import SAB
from sabtune.reporting.data import ReportData, gather
from sabtune.storage.store import Store
from sabtune.study.attributes import SPEC
from sabtune.study.record import StudyRecord
from sabtune.tasks import Copying
from sabtune.training.loop import Training
from tests.reports import BASELINES, confirmed, frozen, searched


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    confirmed(store, "found.confirm", BASELINES)
    return store


@pytest.fixture(scope="session")
def found(store: Store) -> ReportData:
    """Return a study of 40 trials in memory, with a confirmation in the store."""
    return gather(StudyRecord(searched(store, "found", 40, in_memory=True), store))


@pytest.fixture(scope="session")
def many(store: Store) -> ReportData:
    return gather(StudyRecord(searched(store, "many", 500, in_memory=True), store))


@pytest.fixture(scope="session")
def recalling(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Return a study whose best model has a checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    task = Copying.Config(length=30, symbols=3)
    study = optuna.create_study(study_name="recalling", direction="maximize")
    made = frozen(
        0, SAB.Config(hidden=8, k_top=3, k_att=3), 0.5, TrialState.COMPLETE,
        task=task, checkpoint=folder,
    )  # fmt: skip
    run = RunConfig.from_dict(made.user_attrs[SPEC]["run"])
    Training(run).save(folder)
    study.add_trial(made)
    return gather(StudyRecord(study, Store(folder)))
