"""What the Optuna study holds of a search, written and read in this one place.

Optuna's database owns the trials. Beside parameters, state and values, which are Optuna's own, a
trial carries these user attributes; nothing else in sabtune spells their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.evaluation import Rung
from sabtune.schema import suggest
from sabtune.store import Store

RUN = "run"  # the RunConfig
LADDER = "ladder"  # rungs on the selection sequences: they chose
TEST = "test"  # rungs on the test sequences: they are reported
REASON = "reason"  # why a trial failed or was pruned
CHECKPOINT = "checkpoint"  # where its last one is
MODEL = "model"  # of the study: which trial's model MLflow keeps, and its URI


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial as the study knows it."""

    number: int
    state: TrialState
    value: float | None
    params: dict[str, Any]
    run: RunConfig | None  # None if it ended before it had one
    ladder: list[Rung]
    test: list[Rung]
    reason: str
    checkpoint: Path | None
    seconds: float

    @classmethod
    def of(cls, trial: FrozenTrial) -> Self:
        """The record of an Optuna trial."""
        attrs = trial.user_attrs
        took = trial.duration
        return cls(
            number=trial.number,
            state=trial.state,
            value=trial.value if trial.state == TrialState.COMPLETE else None,
            params=dict(trial.params),
            run=RunConfig.from_dict(attrs[RUN]) if RUN in attrs else None,
            ladder=[Rung(**rung) for rung in attrs.get(LADDER, [])],
            test=[Rung(**rung) for rung in attrs.get(TEST, [])],
            reason=attrs.get(REASON, ""),
            checkpoint=Path(attrs[CHECKPOINT]) if CHECKPOINT in attrs else None,
            seconds=took.total_seconds() if took else 0.0,
        )


def plain(rungs: Sequence[Rung]) -> list[dict[str, Any]]:
    """Rungs as the database and a worker's result hold them."""
    return [asdict(rung) for rung in rungs]


def records(study: optuna.Study) -> list[TrialRecord]:
    """Every trial of the study, by number."""
    return [TrialRecord.of(trial) for trial in study.get_trials(deepcopy=False)]


def best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The completed trial with the highest score, the earliest of equals."""
    done = [trial for trial in trials if trial.value is not None]
    return max(done, key=lambda trial: trial.value or 0.0, default=None)


def resulted(study: optuna.Study) -> int:
    """How many trials ended in a result: completed, or pruned with their last score."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """The model that MLflow keeps for the study."""

    trial: int
    uri: str


def model(study: optuna.Study) -> KeptModel | None:
    """What `set_model` wrote, if it did."""
    kept = study.user_attrs.get(MODEL)
    return KeptModel(**kept) if kept else None


def set_model(study: optuna.Study, kept: KeptModel) -> None:
    """Writes down which trial's model MLflow keeps, and where."""
    study.set_user_attr(MODEL, asdict(kept))


def open_study(store: Store, name: str) -> optuna.Study:
    """A study to read. Raises StoreError, with a name that exists, if there is none such."""
    storage = optuna.storages.RDBStorage(store.optuna_url)
    names = [study.study_name for study in storage.get_all_studies()]
    if name not in names:
        raise StoreError(f"{store.root} has no study {name!r}: {suggest(name, names)}")
    return optuna.load_study(study_name=name, storage=storage)
