"""Recover trials that started after the backup that a study was restored from.

A trial's checkpoint holds the trial's entry in the study. The trial is added to the study again
under its own number, with its own parameters, and is resumed. A trial that had already ended yields
the same results again.
"""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

from sabtune import manifest
from sabtune.errors import CheckpointError
from sabtune.storage.folder import Folder
from sabtune.study.checkpoints import ENTRY, Attempts
from sabtune.study.writer import StudyWriter


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


def recover(study: StudyWriter, trials: Folder) -> None:
    """Add the trials that have checkpoints, but are missing from the study, as running trials.

    Waiting trials with a checkpoint become running trials, too. A trial is enqueued in place of a
    missing trial that has no readable checkpoint but is followed by one that has. The sampler draws
    its parameters again.

    trials: the folder of the study's checkpoints.
    """
    attempts, identity, record = Attempts(trials), study.identity(), study.read()
    known, waiting = len(record.frozen), set(record.waiting)
    entries = {}
    for number in attempts.numbers:
        if number >= known or number in waiting:
            content = _latest_entry(attempts, number, identity)
            if content is not None:
                entries[number] = content
    for number in sorted(entries.keys() & waiting):
        study.begin_as(number, *_parts(entries[number]))
    for number in range(known, max(entries, default=-1) + 1):
        if number in entries:
            study.add(*_parts(entries[number]))
        else:
            study.optuna.enqueue_trial({})


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


def _parts(
    content: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, BaseDistribution], dict[str, Any]]:
    """Return the parameters, the distributions and the attributes of an entry."""
    distributions = {name: json_to_distribution(d) for name, d in content["distributions"].items()}
    return content["params"], distributions, content["user_attrs"]
