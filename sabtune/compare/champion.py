"""The champion of a study: the trial whose model you should use.

At first, the champion is the best trial of the search. It is unconfirmed, because search scores are
optimistic. Only a finished confirmation (`confirm`) changes the champion:

- If the configuration of the champion took part, it stays the champion unless other configurations
  of the study are significantly better at the compared length (with Holm's correction for the
  number of others). Among these, the one with the highest mean accuracy becomes the champion.
- If the configuration of the champion did not take part, a confirmed champion stays. An unconfirmed
  champion is replaced by the configuration with the highest mean accuracy.

Configurations of other studies, such as baselines, can't become the champion. When another
configuration wins, the new champion is its best trial in the search.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sabtune.analysis.compared import comparison, groups
from sabtune.analysis.comparison import Comparison, Group
from sabtune.study.events import Version
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter


def update_champion(study: StudyWriter, confirmation: StudyRecord) -> Version | None:
    """Record the results of a finished confirmation in the study, and return the champion.

    Returns None and records nothing if a trial of the confirmation is unfinished, if no trial is
    complete, or if the confirmation contains no configuration of the study.
    """
    record = study.read()
    result = None if confirmation.running else comparison(confirmation)
    candidates = groups(record, confirmation, result) if result else {}
    if result is None or not candidates:
        return None
    registered, champion = record.registered, record.champion
    incumbent = record.trial(champion.trial).configuration if champion is not None else None
    versions = {}
    for number, group in candidates.items():
        best = record.leaderboard.configurations[number].best.number
        trial = champion.trial if champion is not None and number == incumbent else best
        versions[number] = _version(trial, confirmation, result, group)
    winner = incumbent if champion is not None and champion.confirmed else None
    if incumbent in candidates:
        challenger = _best_challenger(result, candidates, incumbent)
        winner = incumbent if challenger is None else challenger
    elif winner is None:
        winner = max(versions, key=lambda number: versions[number].accuracy)
    registered_trials = {version.trial for version in registered.versions}
    for number, version in versions.items():
        if number == winner or version.trial in registered_trials:
            registered = registered.with_version(version)
    if winner in versions:
        registered = registered.with_champion(versions[winner].trial)
    study.set_registered(registered)
    return registered.champion_version


def _version(trial: int, confirmation: StudyRecord, result: Comparison, group: Group) -> Version:
    return Version(
        trial=trial,
        contest=confirmation.name,
        seeds=group.n,
        accuracy=float(np.mean(result.accuracies(group, result.compared))),
        length=result.compared,
    )


def _best_challenger(
    result: Comparison, candidates: dict[int, Group], incumbent: int
) -> int | None:
    """Return the best configuration that is significantly better than the incumbent, or None."""
    others = {number: group for number, group in candidates.items() if number != incumbent}
    against_incumbent = dataclasses.replace(
        result, groups=[candidates[incumbent], *others.values()]
    )
    contrasts = against_incumbent.contrasts
    better = {contrast.other.label for contrast in contrasts if contrast.reading == "lower"}
    means = {
        number: float(np.mean(result.accuracies(group, result.compared)))
        for number, group in others.items()
        if group.label in better
    }
    return max(means, key=lambda number: means[number]) if means else None
