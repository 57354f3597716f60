"""Importances of parameters for the score, and how certain they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import BaseImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.search_space import intersection_search_space
from optuna.trial import TrialState

from sabtune.analysis.fanova import Fanova
from sabtune.study.configurations import Leaderboard
from sabtune.study.record import StudyRecord
from sabtune.study.states import ENDED

TREES = 32
"""Number of trees of fANOVA. Optuna's 64 take twice the time and agree within 0.02."""

MIN_CONFIGURATIONS = 12
"""Minimum number of configurations for meaningful importances."""

MIN_BEST = 5
"""Minimum number of best configurations for PED-ANOVA, as its authors advise."""

SHUFFLINGS = 19
"""Number of random permutations of the scores.

A parameter without influence exceeds its importance in every permutation in 1 case of 20.
"""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The importance of a parameter.

    value: The importance, as a share of the importances of all parameters.

    by_chance: The maximum importance over `SHUFFLINGS` permutations of the scores.
    """

    parameter: str
    value: float
    by_chance: float

    @property
    def exceeds_chance(self) -> bool:
        """Whether the importance is higher than in every permutation."""
        return self.value > self.by_chance


@dataclass(frozen=True, kw_only=True)
class Importances:
    """The importances of the parameters of a study by two estimators, each sorted, highest first.

    configurations: The number of configurations that they are estimated from.

    best: The share of the configurations that PED-ANOVA compares with the rest.
    """

    fanova: Sequence[Importance]
    ped_anova: Sequence[Importance]
    configurations: int
    best: float


@dataclass(frozen=True)
class Estimator:
    """An importance estimator. sign: -1 if it takes low values as the best, else 1."""

    evaluator: BaseImportanceEvaluator
    sign: int


def importances(study: StudyRecord) -> Importances | None:
    """Return the importances of the parameters that all configurations have.

    Returns None for a comparison, with fewer than `MIN_CONFIGURATIONS` configurations, if all
    scores are equal, or if an estimator has no importances of at least two parameters.
    """
    if study.is_comparison:
        return None
    drawn, scores = tried(study)
    n = len(scores)
    if n < MIN_CONFIGURATIONS or np.ptp(scores) == 0:
        return None
    shared = list(intersection_search_space(drawn.get_trials(deepcopy=False)))
    if not shared:
        return None
    best = max(0.1, MIN_BEST / n)
    estimates = [
        _estimate(drawn, shared, scores, estimator)
        for estimator in (
            Estimator(Fanova(trees=TREES, seed=0), 1),
            Estimator(PedAnovaImportanceEvaluator(target_quantile=best), -1),
        )
    ]
    if min(map(len, estimates)) < 2:
        return None
    fanova, ped_anova = estimates
    return Importances(fanova=fanova, ped_anova=ped_anova, configurations=n, best=best)


def tried(record: StudyRecord) -> tuple[optuna.Study, list[float]]:
    """Return the trained configurations as trials of an in-memory study, and their scores.

    Each configuration appears once, because only its first seed was drawn from the search space.
    Pruned configurations are included. Without them, only high scores would remain, and the
    parameters that separate high scores from low ones would seem unimportant.
    """
    trained = (
        trial
        for trial in record.counted
        if trial.state in ENDED and trial.state != TrialState.FAIL and trial.run is not None
    )
    configurations = Leaderboard(record.leaderboard.seeds).add(trained).configurations.values()
    scores = [configuration.value("mean") for configuration in configurations]
    study = optuna.create_study(direction="maximize")
    for configuration, score in zip(configurations, scores, strict=True):
        trial = record.frozen[configuration.number]
        study.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=score
            )
        )
    return study, scores


def _estimate(
    study: optuna.Study, shared: list[str], scores: Sequence[float], estimator: Estimator
) -> list[Importance]:
    """Return the importances and those by chance, highest first; [] if the estimator fails."""
    values = evaluate(study, shared, scores, estimator)
    if len(values) < 2:
        return []
    random = np.random.default_rng(0)
    most = dict.fromkeys(shared, 0.0)
    for _ in range(SHUFFLINGS):
        shuffled = random.permutation(np.array(scores)).tolist()
        for name, value in evaluate(study, shared, shuffled, estimator).items():
            most[name] = max(value, most[name])
    return [
        Importance(parameter=name, value=value, by_chance=most[name])
        for name, value in sorted(values.items(), key=lambda item: item[1], reverse=True)
    ]


def evaluate(
    study: optuna.Study, shared: list[str], scores: Sequence[float], estimator: Estimator
) -> dict[str, float]:
    """Return the importance of each parameter, or {} if the estimator fails.

    shared: The parameters that all trials have.

    scores: The scores of the study's trials, in order.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="PedAnova.*low `target` values"
        )  # see `Estimator.sign`
        try:
            values = optuna.importance.get_param_importances(
                study,
                evaluator=estimator.evaluator,
                params=shared,
                target=lambda trial: estimator.sign * scores[trial.number],
            )
            return {name: float(value) for name, value in values.items()}
        except (ValueError, RuntimeError):  # all scores are equal
            return {}
