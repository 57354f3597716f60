"""Trials that ran after the copy was made which a study was restored from.

Their checkpoints hold what the study had of them, so that they come back under their own numbers,
with their own parameters, and go on; one that had finished says again what it said.
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
"""Of a study: not that of another which had its name before."""


def identity(study: optuna.Study) -> str:
    """Made up once."""
    known = study.user_attrs.get(IDENTITY)
    if known is None:
        known = uuid.uuid4().hex
        study.set_user_attr(IDENTITY, known)
    return str(known)


def entry(trial: optuna.Trial, of: str) -> str:
    """What the study `of` this identity holds of a trial that is about to start."""
    distributions = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
    content = {
        "study": of,
        "number": trial.number,
        "params": trial.params,
        "distributions": distributions,
        "user_attrs": trial.user_attrs,
    }
    return json.dumps(content)


def recover(study: optuna.Study, trials: Folder) -> None:
    """Gives the study back the trials that `trials`, its folder, has checkpoints of and that it
    doesn't know, as ones that run. A number between them of which nothing is left is drawn anew."""
    attempts, of = Attempts(trials), identity(study)
    known = study.get_trials(deepcopy=False)
    waiting = {trial.number for trial in known if trial.state == TrialState.WAITING}
    entries = {}
    for number in attempts.numbers:
        if number >= len(known) or number in waiting:
            found = _entry(attempts, number, of)
            if found is not None:
                entries[number] = found
    for number in sorted(entries.keys() & waiting):
        _begin(study, known[number]._trial_id, entries[number])
    for number in range(len(known), max(entries, default=-1) + 1):
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


def _entry(attempts: Attempts, number: int, of: str) -> dict[str, Any] | None:
    """The newest that can be read; None if it is another study's, or there is none."""
    for checkpoint in attempts.checkpoints(number):
        try:
            with checkpoint.here((ENTRY, *manifest.FILES)) as here:
                data = manifest.read(here, (ENTRY,)).files[ENTRY]
                content = manifest.json_object(here, ENTRY, data)
        except CheckpointError:
            continue
        return content if (content.get("study"), content.get("number")) == (of, number) else None
    return None


def _distributions(content: dict[str, Any]) -> dict[str, Any]:
    return {name: json_to_distribution(d) for name, d in content["distributions"].items()}


def _begin(study: optuna.Study, trial: int, content: dict[str, Any]) -> None:
    """Has a trial that waits run, with what it had drawn."""
    storage = study._storage
    for name, distribution in _distributions(content).items():
        internal = distribution.to_internal_repr(content["params"][name])
        storage.set_trial_param(trial, name, internal, distribution)
    for name, value in content["user_attrs"].items():
        storage.set_trial_user_attr(trial, name, value)
    storage.set_trial_state_values(trial, TrialState.RUNNING)
