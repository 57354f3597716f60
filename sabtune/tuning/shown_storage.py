"""A store's studies as optuna-dashboard shows them.

The dashboard shows every attribute as it is stored, mostly as JSON. Here, a trial has a few
readable attributes instead, and a study has the names of its objectives and a note with its
conclusion. Nothing is stored.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Container, Sequence
from typing import Any

import optuna
import optuna_dashboard
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from sabtune.analysis.conclusion import conclude
from sabtune.analysis.importance import importances
from sabtune.errors import SabtuneError, StoreError
from sabtune.study.attributes import FIXED, PLAN, SPEC
from sabtune.study.optuna_private import ReadOnlyStorage
from sabtune.study.optuna_storage import Studies
from sabtune.study.plan import Plan
from sabtune.study.record import StudyRecord
from sabtune.study.states import ENDED
from sabtune.study.trial_record import TrialRecord
from sabtune.training.evaluation import length_score, solve_length
from sabtune.wording import counted

NOTE_SECONDS = 60.0
"""The minimum time between two notes of a study. A note reads all trials."""

NOTE_PREFIX = "dashboard:note"
"""The start of the names of the attributes with a note."""


IMPORTANCES = {"importances": "of the complete trials; the note has those of the report"}
"""What the page of a study says about its importances."""


class ShownStorage(ReadOnlyStorage):
    """The studies of a store, with readable attributes.

    Studies that sabtune didn't create are shown as they are.
    """

    def __init__(self, storage: Studies):
        super().__init__(storage)
        self._ended: dict[tuple[str, int], dict[str, Any]] = {}  # attributes by study and trial
        self._notes: dict[str, tuple[float, str]] = {}  # when it was made, and the note, by study

    def get_all_studies(self) -> list[Any]:
        return [self._shown(study) for study in super().get_all_studies()]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return _user_attributes(super().get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._system_attributes(
            self.get_study_name_from_id(study_id),
            super().get_study_user_attrs(study_id),
            super().get_study_system_attrs(study_id),
        )

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _readable(super().get_trial(trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        name = self.get_study_name_from_id(study_id)
        return [
            self._trial(name, trial)
            for trial in super().get_all_trials(study_id, deepcopy=False, states=states)
        ]

    def make_note(self, study_id: int) -> None:
        """Make the note of a study, which is shown from now on, at most once in `NOTE_SECONDS`."""
        name, now = self.get_study_name_from_id(study_id), time.monotonic()
        if name in self._notes and now < self._notes[name][0] + NOTE_SECONDS:
            return
        try:
            study = StudyRecord(optuna.load_study(study_name=name, storage=self.storage))
            self._notes[name] = (now, note(study) if study.is_ours else "")
        except SabtuneError:
            self._notes[name] = (now, "")

    def _shown(self, study: Any) -> Any:
        """Return a copy of a frozen study with readable attributes."""
        shown = copy.copy(study)
        shown.system_attrs = self._system_attributes(
            study.study_name, study.user_attrs, study.system_attrs
        )
        shown.user_attrs = _user_attributes(study.user_attrs)
        return shown

    def _system_attributes(
        self, name: str, user_attrs: dict[str, Any], system_attrs: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the system attributes of a study, with names of its objectives and its note.

        A note that somebody has written is kept.
        """
        objectives = _plan(user_attrs).objectives
        _, text = self._notes.get(name, (0.0, ""))
        if any(key.startswith(NOTE_PREFIX) for key in system_attrs):
            text = ""
        return _of_dashboard(objectives or (), text) | system_attrs

    def _trial(self, study: str, trial: FrozenTrial) -> FrozenTrial:
        """Return a copy of a trial with readable attributes, made once if it has ended."""
        attributes = self._ended.get((study, trial.number))
        if attributes is None:
            attributes = _readable(trial).user_attrs
            if trial.state in ENDED:
                self._ended[study, trial.number] = attributes
        shown = copy.copy(trial)
        shown.user_attrs = dict(attributes)
        return shown


def note(study: StudyRecord) -> str:
    """Return the note of a study in Markdown: its conclusion, and what the importances are of."""
    conclusion = conclude(study).markdown().replace("<br>", " ")  # shown as text otherwise
    return f"{conclusion}\n\n{importance_note(study)}".strip()


def importance_note(study: StudyRecord) -> str:
    """Return how the importances of the dashboard differ from those of the report."""
    complete = sum(trial.state == TrialState.COMPLETE for trial in study.trials)
    text = (
        "**Hyperparameter Importance** in this dashboard is PED-ANOVA over "
        f"{counted(complete, 'complete trial')}."
    )
    estimated = importances(study)
    if estimated is None:
        return text
    listed = [
        f"{one.parameter} {one.value:.0%}{' (may be chance)' * (not one.exceeds_chance)}"
        for one in estimated.fanova
    ]
    return (
        f"{text} The report's is of {counted(estimated.configurations, 'configuration')}, with one "
        "value for each; those that were pruned have their last score. By fANOVA: "
        f"{', '.join(listed)}."
    )


def _of_dashboard(objectives: Sequence[str], text: str) -> dict[str, Any]:
    """Return the system attributes that the dashboard reads the objectives and a note from."""
    storage = InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name="shown", directions=["maximize"] * max(len(objectives), 1)
    )
    if objectives:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(objectives))
    if text:
        optuna_dashboard.save_note(study, text)
    return storage.get_study_system_attrs(storage.get_study_id_from_name("shown"))


def _plan(user_attrs: dict[str, Any]) -> Plan:
    """Return the plan among the attributes of a study; an empty one if there is none."""
    try:
        return Plan.from_dict(dict(user_attrs.get(PLAN, {})))
    except (TypeError, ValueError):
        return Plan()


def _user_attributes(user_attrs: dict[str, Any]) -> dict[str, Any]:
    """Return the readable attributes of a study."""
    if PLAN not in user_attrs:
        return user_attrs
    question = _plan(user_attrs).question
    return ({"question": question} if question else {}) | IMPORTANCES


def _readable(trial: FrozenTrial) -> FrozenTrial:
    """Return a copy of a trial with readable attributes.

    A trial that sabtune didn't create, or that can't be read, stays as it is.
    """
    if not {SPEC, FIXED} & trial.user_attrs.keys():
        return trial
    try:
        record = TrialRecord.of(trial)
    except StoreError:
        return trial
    shown = copy.copy(trial)
    shown.user_attrs = _trial_attributes(record)
    return shown


def _trial_attributes(trial: TrialRecord) -> dict[str, Any]:
    """Return the readable attributes of a trial."""
    run = trial.run
    if run is None:  # it hasn't started
        return {"label": trial.label} if trial.label else {}
    values: dict[str, Any] = {"model": run.model.label(), "seed": run.seed}
    if trial.configuration != trial.number:
        values["repeats trial"] = trial.configuration
    if trial.label:
        values["label"] = trial.label
    share = run.share_kept()
    if share is not None:
        values["share kept"] = _rounded(share)
    if trial.test:
        task = run.task.build()
        values["length score"] = _rounded(length_score(trial.test, task))
        values["solved up to"] = solve_length(trial.test, task.solved)
    values |= {f"accuracy at {r.length}": _rounded(r.accuracy) for r in trial.test}
    if trial.reason:
        values["reason"] = trial.reason
    return values


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
