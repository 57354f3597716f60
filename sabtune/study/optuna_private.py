"""The private attributes of Optuna that sabtune uses.

Only this module and `optuna_tables` use a private attribute or a private module of Optuna, so that
a new version of Optuna can only break these two.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NoReturn, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine

from sabtune.storage.database import database_at
from sabtune.study.optuna_tables import Changes, all_trials, count_trials, write
from sabtune.study.write_behind import WriteBehind

CACHED_METHODS = ("_create_new_trial", "_get_trials", "_set_trial_param")
"""The private methods of a storage in a database that Optuna's cache calls."""

OWN_METHODS = ("set_changes",)
"""The methods of `BulkStorage` that access the database and that Optuna's storage doesn't have."""

CREATING_METHODS = ("create_new_trial", "_create_new_trial")
"""The methods of a storage that create a trial. The private one returns it, the other its ID."""


class Internals:
    """The storage of an Optuna study, and single trials in it."""

    def __init__(self, study: optuna.Study):
        self.study = study
        self._storage: BaseStorage = study._storage

    @property
    def database(self) -> BaseStorage:
        """Return the study's storage, which Optuna puts behind a cache if it is a database."""
        if isinstance(self._storage, WriteBehind):
            return self._storage.database
        return getattr(self._storage, "_backend", self._storage)

    @property
    def engine(self) -> Engine:
        """Return the engine of the study's database."""
        database = self.database
        assert isinstance(database, RDBStorage)
        return database.engine

    @property
    def study_id(self) -> int:
        """Return the ID of the study in its storage."""
        return self.study._study_id

    def flush(self, *, after: float) -> None:
        """Write changes that are only in memory; see `WriteBehind.flush`."""
        if isinstance(self._storage, WriteBehind):
            self._storage.flush(after=after)

    def close(self) -> None:
        """Close the connections to the study's database."""
        self._storage.remove_session()
        self.engine.dispose()

    def read(self, number: int) -> FrozenTrial:
        """Read one trial. Raises KeyError if there is none with this number.

        This is faster than reading all trials: Optuna doesn't cache trials that haven't ended.
        """
        return self._storage.get_trial(self._trial_id(number))

    def open(self, number: int) -> optuna.Trial:
        """Open a trial that hasn't ended, to write to it."""
        return optuna.Trial(self.study, self._trial_id(number))

    def start(self, number: int) -> optuna.Trial:
        """Start the waiting trial with this number, and open it.

        Optuna's `Study.ask` always starts the first waiting trial.
        """
        trial_id = self._trial_id(number)
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return optuna.Trial(self.study, trial_id)

    def start_as(self, number: int, template: FrozenTrial) -> None:
        """Start the waiting trial with this number, with the parameters and attributes of another.

        template: a trial that was made by `optuna.trial.create_trial`.
        """
        trial_id = self._trial_id(number)
        for name, distribution in template.distributions.items():
            value = distribution.to_internal_repr(template.params[name])
            self._storage.set_trial_param(trial_id, name, value, distribution)
        for name, value in template.user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)

    def add(self, template: FrozenTrial) -> optuna.Trial:
        """Add a running trial that was made by `optuna.trial.create_trial`, and open it."""
        trial_id = self._storage.create_new_trial(self.study_id, template)
        return optuna.Trial(self.study, trial_id)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.study_id, number)


def when_opened(trial: optuna.Trial) -> FrozenTrial:
    """Return an open trial with what it held when it was opened, and what it has written since."""
    return trial._cached_frozen_trial


def is_on_grid(distribution: BaseDistribution, value: float) -> bool:
    """Return whether a distribution of numbers contains a number, which its step may exclude."""
    return distribution._contains(value)


class InterceptedTrial(optuna.Trial):
    """A trial that calls `before` and `refused` when it suggests a parameter."""

    @classmethod
    def of(cls, trial: optuna.Trial) -> Self:
        """Return an intercepted trial with the state of `trial`."""
        intercepted = cls.__new__(cls)
        vars(intercepted).update(vars(trial))
        return intercepted

    def before(self, name: str, distribution: BaseDistribution, fixed: Mapping[str, Any]) -> None:
        """Check a parameter before it gets a value.

        fixed: the value that the trial was enqueued with, by the name; empty if there is none.
        """

    def refused(self, name: str, distribution: BaseDistribution) -> None:
        """Handle a parameter that Optuna refuses with a ValueError, which is raised afterwards."""

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        given = name in self._fixed_params and name not in self._cached_frozen_trial.params
        self.before(name, distribution, {name: self._fixed_params[name]} if given else {})
        try:
            return super()._suggest(name, distribution)
        except ValueError:
            self.refused(name, distribution)
            raise


class ReadOnlyStorage(BaseStorage):
    """A storage that shows the studies of another one and refuses to change them.

    Subclasses override what is shown differently.

    storage: the other storage.
    """

    def __init__(self, storage: BaseStorage):
        self.storage = optuna.storages.get_storage(storage)

    def get_all_studies(self) -> list[Any]:
        return self.storage.get_all_studies()

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.storage.get_study_system_attrs(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.storage.get_trial(trial_id)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return self.storage.get_all_trials(study_id, deepcopy, states)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("this storage can only be read")

    create_new_study = create_new_trial = delete_study = _refuse
    set_study_user_attr = set_study_system_attr = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


class BulkStorage(RDBStorage):
    """Optuna's storage in a database, which reads all trials of a study without mapped objects.

    Optuna builds an object for every parameter, attribute and score. For thousands of trials, that
    takes most of the time and memory of reading a study.
    """

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Read the trials of a study: all of them in a fraction of the time that Optuna takes."""
        if included_trial_ids or trial_id_greater_than > -1:  # an update of a few trials
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        trials = all_trials(self.engine, study_id)
        return [trial for trial in trials if states is None or trial.state in states]

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        """Return the number of trials, without reading them if all states count."""
        if state is not None:
            return super().get_n_trials(study_id, state)
        return count_trials(self.engine, study_id)

    def start_new_trial(self, study_id: int, template: FrozenTrial | None = None) -> FrozenTrial:
        """Create a trial, or a copy of a template, and return it."""
        return self._create_new_trial(study_id, template)

    def set_changes(self, changes: Changes) -> None:
        """Write changes of trials in one transaction."""
        write(self.engine, changes, database_at(self.url).insert)
