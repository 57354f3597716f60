"""Importances of parameters for the score, and how certain they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import BaseImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.search_space import intersection_search_space
from optuna.trial import TrialState

from sabtune.reporting.data import ReportData
from sabtune.reporting.figures.fanova import Fanova
from sabtune.reporting.figures.marks import BLACK, BLUE, GRAY, Axis, Bars, Figure, Panel, Points
from sabtune.study.configurations import Leaderboard

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


@dataclass(frozen=True)
class Estimator:
    """An importance estimator.

    share: The label of its values, such as "share of the variance".

    sign: -1 if the estimator takes low values as the best, else 1.
    """

    name: str
    share: str
    evaluator: BaseImportanceEvaluator
    sign: int


def importance(data: ReportData) -> Figure | None:
    """Return the figure of importances by two estimators.

    The figure also shows the importances for shuffled scores, which depend on no parameter. Returns
    None for a comparison, with fewer than `MIN_CONFIGURATIONS` configurations, if all scores are
    equal, or if an estimator has no importances of at least two parameters.
    """
    if data.is_comparison:
        return None
    study, scores = tried(data)
    n = len(scores)
    if n < MIN_CONFIGURATIONS or np.ptp(scores) == 0:
        return None
    shared = list(intersection_search_space(study.get_trials(deepcopy=False)))
    if not shared:
        return None
    best = max(0.1, MIN_BEST / n)
    fanova = Fanova(trees=TREES, seed=0)
    ped_anova = PedAnovaImportanceEvaluator(target_quantile=best)
    panels = []
    for estimator in (
        Estimator("fANOVA", "share of the variance", fanova, 1),
        Estimator("PED-ANOVA", "share of the divergence", ped_anova, -1),
    ):
        values = importances(study, shared, scores, estimator)
        if len(values) < 2:
            return None
        panels.append(_panel(values, by_chance(study, shared, scores, estimator), estimator))
    return Figure(
        name="importance",
        title="Importance for the score: fANOVA and PED-ANOVA",
        caption="How much the score depends on each parameter that all configurations have "
        f"(n = {n}, each with the mean over its seeds, pruned ones with their last score). fANOVA: "
        "the share of the score's variance over the search space. PED-ANOVA: how much the best "
        f"{best:.0%} differ from the rest. Diamonds: the maximum over {SHUFFLINGS} shufflings of "
        "the scores. A bar that does not exceed its diamond is gray and may be chance; of 20 "
        "parameters without influence, one is blue. If the two estimators disagree, trust neither.",
        panels=panels,
        height=0.5 + 0.28 * max(len(panel.y.ticks) for panel in panels),
    )


def tried(data: ReportData) -> tuple[optuna.Study, list[float]]:
    """Return the trained configurations as trials of an in-memory study, and their scores.

    Each configuration appears once, because only its first seed was drawn from the search space.
    Pruned configurations are included. Without them, only high scores would remain, and the
    parameters that separate high scores from low ones would seem unimportant.
    """
    trained = (trial for trial in data.ended if trial.state != TrialState.FAIL)
    configurations = Leaderboard(data.study.leaderboard.seeds).add(trained).configurations.values()
    scores = [configuration.value("mean") for configuration in configurations]
    drawn = data.study.frozen
    study = optuna.create_study(direction="maximize")
    for configuration, score in zip(configurations, scores, strict=True):
        trial = drawn[configuration.number]
        study.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=score
            )
        )
    return study, scores


def importances(
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


def by_chance(
    study: optuna.Study, shared: list[str], scores: Sequence[float], estimator: Estimator
) -> dict[str, float]:
    """Return the maximum importance of each parameter over all shufflings of the scores."""
    random = np.random.default_rng(0)
    most = dict.fromkeys(shared, 0.0)
    for _ in range(SHUFFLINGS):
        shuffled = random.permutation(np.array(scores)).tolist()
        for name, value in importances(study, shared, shuffled, estimator).items():
            most[name] = max(value, most[name])
    return most


def _panel(values: Mapping[str, float], chance: Mapping[str, float], estimator: Estimator) -> Panel:
    ranked = sorted(values, key=lambda name: values[name])
    bars = []
    for label, color, significant in (("", BLUE, True), ("may be chance", GRAY, False)):
        at = [i for i, name in enumerate(ranked) if (values[name] > chance[name]) == significant]
        heights = [values[ranked[i]] for i in at]
        bars += [
            Bars(at=at, heights=heights, width=0.7, label=label, color=color, lying=True)
        ] * bool(at)
    shuffled = Points(
        x=[chance[name] for name in ranked],
        y=list(range(len(ranked))),
        names=[f"{name}: {chance[name]:.2f} by chance" for name in ranked],
        label=f"most of {SHUFFLINGS} shufflings",
        color=BLACK,
        symbol="diamond",
        filled=False,
    )
    ticks = [(float(i), name) for i, name in enumerate(ranked)]
    return Panel(
        title=estimator.name,
        x=Axis(label=estimator.share, low=0),
        y=Axis(label="", ticks=ticks, low=-0.6, high=len(ranked) - 0.4),
        marks=[*bars, shuffled],
    )
