"""Optuna's storage for the only process that writes to a study: it reads from memory.

Optuna's storage in a database commits every parameter, attribute and score on its own, and reads
all trials that haven't ended whenever a trial starts. `WriteBehind` keeps the trials of one study
in memory, and writes their changes together. Optuna allows its storages to do this ("Data
persistence" in `optuna.storages`): before the end of a trial is stored, all its other changes are.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Container, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sabtune.study.optuna_tables import Changes, decoded, id_of

if TYPE_CHECKING:
    from sabtune.study.optuna_private import BulkStorage

MAX_DELAY_SECONDS = 1.0
"""The maximum time until a score of a running trial is written.

If the driver is killed in this time, the trial repeats the score from its last checkpoint.
"""


class WriteBehind(BaseStorage):
    """The trials of one study in memory, in front of the database that they are written to.

    No other process may write to the trials of the study. A change is written by `flush`, with the
    end of any trial, or by the first change that comes MAX_DELAY_SECONDS later. Attributes of the
    study are written at once. If writing fails, the changes are kept for the next time.

    database: The storage in the database.
    """

    def __init__(self, database: BulkStorage, study_id: int):
        self.database = database
        self._lock = threading.RLock()
        self._directions = database.get_study_directions(study_id)
        self._trials: list[FrozenTrial] = database.get_all_trials(study_id, deepcopy=False)
        self._numbers = {id_of(trial): trial.number for trial in self._trials}  # by ID
        self._distributions: dict[str, BaseDistribution] = {}  # of each parameter, as first used
        for trial in self._trials:
            self._distributions = {**trial.distributions, **self._distributions}
        self._changes, self._since = Changes(), 0.0

    def flush(self, *, after: float = 0.0) -> None:
        """Write all changes, if the first of them was made at least `after` seconds ago."""
        with self._lock:
            if self._changes and time.monotonic() - self._since >= after:
                self.database.set_changes(self._changes)
                self._changes = Changes()

    def _change(self, trial_id: int, **fields: Any) -> None:
        """Replace fields of a trial in memory.

        A trial that was read before keeps its fields.
        """
        number = self._numbers[trial_id]
        trial = copy.copy(self._trials[number])
        for name, value in fields.items():
            setattr(trial, name, value)
        self._trials[number] = trial
        self._since = self._since if self._changes else time.monotonic()

    def _open(self, trial_id: int) -> FrozenTrial:
        """Return a trial that may be changed. Raises UpdateFinishedTrialError if it has ended."""
        trial = self._trials[self._numbers[trial_id]]
        self.check_trial_is_updatable(trial_id, trial.state)
        return trial

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        with self._lock:
            self.flush()
            trial = self.database.start_new_trial(study_id, template_trial)
            trial_id = id_of(trial)
            self._numbers[trial_id] = trial.number
            self._trials.append(trial)
            self._distributions = {**trial.distributions, **self._distributions}
            return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        with self._lock:
            trial = self._open(trial_id)
            first = self._distributions.setdefault(param_name, distribution)
            check_distribution_compatibility(first, distribution)
            value = distribution.to_external_repr(param_value_internal)
            self._change(
                trial_id,
                params=trial.params | {param_name: value},
                distributions=trial.distributions | {param_name: distribution},
            )
            self._changes.params[trial_id, param_name] = param_value_internal, distribution

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        with self._lock:
            trial = self._open(trial_id)
            scores = trial.intermediate_values | {step: intermediate_value}
            self._change(trial_id, intermediate_values=scores)
            self._changes.scores[trial_id, step] = intermediate_value
            self.flush(after=MAX_DELAY_SECONDS)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            trial, text = self._open(trial_id), json.dumps(value)
            self._change(trial_id, user_attrs=trial.user_attrs | {key: decoded(text)})
            self._changes.user_attrs[trial_id, key] = text

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        with self._lock:
            trial, text = self._open(trial_id), json.dumps(value)
            self._change(trial_id, system_attrs=trial.system_attrs | {key: decoded(text)})
            self._changes.system_attrs[trial_id, key] = text

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        with self._lock:
            trial, now = self._open(trial_id), datetime.now()
            if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
                return False
            start = now if state == TrialState.RUNNING else trial.datetime_start
            end = now if state.is_finished() else trial.datetime_complete
            self._change(trial_id, state=state, datetime_start=start, datetime_complete=end)
            if values is not None:
                self._change(trial_id, values=list(values))
                self._changes.values |= {(trial_id, i): value for i, value in enumerate(values)}
            self._changes.states[trial_id] = state, start, end
            if state.is_finished():
                self.flush()
            return True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        with self._lock:
            trial = copy.copy(self._trials[self._numbers[trial_id]])
        # Optuna changes the trial that it gets when it suggests a parameter or reports a score.
        for name in ("params", "distributions", "user_attrs", "system_attrs"):
            setattr(trial, name, dict(getattr(trial, name)))
        trial.intermediate_values = dict(trial.intermediate_values)
        return trial

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        with self._lock:
            trials = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        with self._lock:
            if not 0 <= trial_number < len(self._trials):
                raise KeyError(f"the study has no trial {trial_number}")
            return id_of(self._trials[trial_number])

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._directions

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.database.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.database.get_study_name_from_id(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.database.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.database.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[Any]:
        return self.database.get_all_studies()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.database.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.database.set_study_system_attr(study_id, key, value)

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Raise NotImplementedError: the storage is that of one study."""
        raise NotImplementedError

    def delete_study(self, study_id: int) -> None:
        """Raise NotImplementedError: the storage is that of one study."""
        raise NotImplementedError
