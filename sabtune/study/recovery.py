"""Recover trials that started after the backup that a study was restored from.

A trial's checkpoint holds the trial's entry in the study. The trial is added to the study again
under its own number, with its own parameters, and is resumed. A trial that had already ended yields
the same results again.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import TrialState

from sabtune import manifest
from sabtune.errors import CheckpointError
from sabtune.storage.folder import Folder
from sabtune.study.checkpoints import ENTRY, Attempts

IDENTITY = "identity"
"""The user attribute that distinguishes a study from an earlier study of the same name."""


def identity(study: optuna.Study) -> str:
    """Return the unique identity of a study, and store it on the first call."""
    stored = study.user_attrs.get(IDENTITY)
    if stored is None:
        stored = uuid.uuid4().hex
        study.set_user_attr(IDENTITY, stored)
    return str(stored)


def entry(trial: optuna.Trial, study_identity: str) -> str:
    """Return a trial's entry in a study as JSON: its number, parameters and user attributes."""
    distributions = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
    content = {
        "study": study_identity,
        "number": trial.number,
        "params": trial.params,
        "distributions": distributions,
        "user_attrs": trial.user_attrs,
    }
    return json.dumps(content)


def recover(study: optuna.Study, trials: Folder) -> None:
    """Add the trials that have checkpoints, but are missing from the study, as running trials.

    Waiting trials with a checkpoint become running trials, too. A trial is enqueued in place of a
    missing trial that has no readable checkpoint but is followed by one that has. The sampler draws
    its parameters again.

    trials: the folder of the study's checkpoints.
    """
    attempts, study_identity = Attempts(trials), identity(study)
    recorded = study.get_trials(deepcopy=False)
    waiting = {trial.number for trial in recorded if trial.state == TrialState.WAITING}
    entries = {}
    for number in attempts.numbers:
        if number >= len(recorded) or number in waiting:
            content = _latest_entry(attempts, number, study_identity)
            if content is not None:
                entries[number] = content
    for number in sorted(entries.keys() & waiting):
        _start_waiting_trial(study, recorded[number]._trial_id, entries[number])
    for number in range(len(recorded), max(entries, default=-1) + 1):
        if number in entries:
            study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=entries[number]["params"],
                    distributions=_distributions(entries[number]),
                    user_attrs=entries[number]["user_attrs"],
                )
            )
        else:
            study.enqueue_trial({})


def _latest_entry(attempts: Attempts, number: int, study_identity: str) -> dict[str, Any] | None:
    """Return a trial's entry from its newest readable checkpoint, or None.

    The result is None if there is no such checkpoint, or if it belongs to another study.
    """
    for checkpoint in attempts.checkpoints(number):
        try:
            with checkpoint.here((ENTRY, *manifest.FILES)) as here:
                data = manifest.read(here, (ENTRY,)).files[ENTRY]
                content = manifest.json_object(here, ENTRY, data)
        except CheckpointError:
            continue
        source = content.get("study"), content.get("number")
        return content if source == (study_identity, number) else None
    return None


def _distributions(content: dict[str, Any]) -> dict[str, Any]:
    return {name: json_to_distribution(d) for name, d in content["distributions"].items()}


def _start_waiting_trial(study: optuna.Study, trial: int, content: dict[str, Any]) -> None:
    """Set a waiting trial to running, with the parameters and attributes of its entry.

    trial: the ID of the trial in Optuna's storage.
    """
    storage = study._storage
    for name, distribution in _distributions(content).items():
        value = distribution.to_internal_repr(content["params"][name])
        storage.set_trial_param(trial, name, value, distribution)
    for name, value in content["user_attrs"].items():
        storage.set_trial_user_attr(trial, name, value)
    storage.set_trial_state_values(trial, TrialState.RUNNING)
