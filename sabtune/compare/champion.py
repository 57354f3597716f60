"""Who a study stands by after its best were compared on fresh seeds.

The champion of a search is at first its best trial, which the search's own scores chose: it is
unconfirmed. A finished comparison (`confirm`) changes that, and nothing else does:

- If the champion's configuration took part, it stays unless another of the study's is higher at the
  compared length by the comparison's test, corrected for the number of others (Holm). Of several
  that are, the one with the highest mean becomes the champion.
- If it took no part, there's nothing to defend it by when it is unconfirmed: the highest mean
  becomes the champion. A confirmed one stays.

Configurations of other studies, such as baselines, are no candidates. The model that stands for a
configuration is that of its best trial in the search.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import optuna
from optuna.trial import TrialState

from sabtune.compare.comparison import Comparison, Group
from sabtune.compare.results import comparison
from sabtune.study import record
from sabtune.study.configurations import Leaderboard
from sabtune.study.events import Version
from sabtune.study.trial_specs import configuration_key


def update_champion(study: optuna.Study, confirmation: optuna.Study) -> Version | None:
    """Writes down what a finished comparison found of the study's configurations, and who is the
    champion; returns it. None, and nothing is written, while the comparison runs or where it has
    no configuration of the study.
    """
    found = None
    if not confirmation.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        found = comparison(confirmation)
    candidates = _candidates(study, confirmation, found) if found else {}
    if found is None or not candidates:
        return None
    known, leaderboard = record.registered(study), Leaderboard.of(study)
    present = known.champion_version
    incumbent = _configuration(study, present.trial) if present is not None else None
    versions = {}
    for number, group in candidates.items():
        best = leaderboard.configurations[number].best.number
        trial = present.trial if present is not None and number == incumbent else best
        versions[number] = _version(trial, confirmation, found, group)
    winner = incumbent if present is not None and present.confirmed else None
    if incumbent in candidates:
        beaten_by = _beaten_by(found, candidates, incumbent)
        winner = incumbent if beaten_by is None else beaten_by
    elif winner is None:
        winner = max(versions, key=lambda number: versions[number].accuracy)
    registered = {version.trial for version in known.versions}
    for number, version in versions.items():
        if number == winner or version.trial in registered:
            known = known.with_version(version)
    if winner in versions:
        known = known.with_champion(versions[winner].trial)
    record.set_registered(study, known)
    return known.champion_version


def _candidates(
    study: optuna.Study, confirmation: optuna.Study, found: Comparison
) -> dict[int, Group]:
    """The groups of the comparison by the number of the study's configuration, those left out that
    are none or that have no complete trial there."""
    leaderboard = Leaderboard.of(study)
    numbers = {
        configuration_key(trial.run): trial.configuration
        for trial in record.counted(record.records(study))
        if trial.run is not None and leaderboard.configurations[trial.configuration].complete
    }
    labels = {
        trial.label: numbers[configuration_key(trial.run)]
        for trial in record.counted(record.records(confirmation))
        if trial.run is not None and configuration_key(trial.run) in numbers
    }
    return {labels[group.label]: group for group in found.groups if group.label in labels}


def _configuration(study: optuna.Study, trial: int) -> int:
    return record.one(study, trial).configuration


def _version(trial: int, confirmation: optuna.Study, found: Comparison, group: Group) -> Version:
    return Version(
        trial=trial,
        contest=confirmation.study_name,
        seeds=group.n,
        accuracy=float(np.mean(found.accuracies(group, found.compared))),
        length=found.compared,
    )


def _beaten_by(found: Comparison, candidates: dict[int, Group], incumbent: int) -> int | None:
    """The number of the configuration that beats the incumbent's, if one does."""
    others = {number: group for number, group in candidates.items() if number != incumbent}
    held = dataclasses.replace(found, groups=[candidates[incumbent], *others.values()])
    above = {contrast.other.label for contrast in held.contrasts if contrast.reading == "lower"}
    means = {
        number: float(np.mean(found.accuracies(group, found.compared)))
        for number, group in others.items()
        if group.label in above
    }
    return max(means, key=lambda number: means[number]) if means else None
