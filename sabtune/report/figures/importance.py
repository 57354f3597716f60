"""Which parameters the score depends on, and how sure one can be of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.importance import BaseImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.search_space import intersection_search_space
from optuna.trial import TrialState

from sabtune.report.data import ReportData
from sabtune.report.figures.fanova import Fanova
from sabtune.report.figures.marks import BLACK, BLUE, GREY, Axis, Bars, Figure, Panel, Points
from sabtune.study.configurations import Leaderboard

TREES = 32
"""Of fANOVA's forest, half of Optuna's own: it takes half the time, and says the same to 0.02."""

FEW = 12
"""Configurations below which importances say nothing."""

BEST = 5
"""Configurations that PED-ANOVA sets apart at the least, as its authors advise."""

SHUFFLINGS = 19
"""Of the scores: what depends on nothing exceeds all of them 1 time in 20."""


@dataclass(frozen=True)
class Estimator:
    """sign: -1 for one that looks at low values."""

    name: str
    share: str
    evaluator: BaseImportanceEvaluator
    sign: int


def importance(data: ReportData) -> Figure | None:
    """How much the score depends on each parameter, by two estimators that often disagree, beside
    what they say of scores that depend on nothing: the same, shuffled."""
    if data.is_comparison:
        return None
    study, scores = tried(data)
    n = len(scores)
    if n < FEW or np.ptp(scores) == 0:
        return None
    shared = list(intersection_search_space(study.get_trials(deepcopy=False)))
    if not shared:
        return None
    best = max(0.1, BEST / n)
    fanova = Fanova(trees=TREES, seed=0)
    ped_anova = PedAnovaImportanceEvaluator(target_quantile=best)
    panels = []
    for estimator in (
        Estimator("fANOVA", "share of the variance", fanova, 1),
        Estimator("PED-ANOVA", "share of the divergence", ped_anova, -1),
    ):
        found = importances(study, shared, scores, estimator)
        if len(found) < 2:
            return None
        panels.append(_panel(found, by_chance(study, shared, scores, estimator), estimator))
    return Figure(
        name="importance",
        title="Importance for the score: fANOVA and PED-ANOVA",
        caption="How much the score depends on each parameter that all configurations have "
        f"(n = {n}, each with the mean of its seeds, pruned ones with their last score): by "
        "fANOVA, the share of its variance over the space; by PED-ANOVA, how far the best "
        f"{best:.0%} stand apart. Diamonds: the most that {SHUFFLINGS} shufflings of the scores "
        "gave; a bar that doesn't pass its own is grey and may be chance, and of 20 that depend on "
        "nothing one is blue. Where the two disagree, trust neither.",
        panels=panels,
        height=0.5 + 0.28 * max(len(panel.y.ticks) for panel in panels),
    )


def tried(data: ReportData) -> tuple[optuna.Study, list[float]]:
    """The configurations that were trained, each once, as a study in memory, and their scores.

    Seeds of one configuration are no further draws from the space. Complete trials alone would be
    those whose score was high: what made it so would look like nothing.
    """
    trained = (trial for trial in data.ended if trial.state != TrialState.FAIL)
    configurations = Leaderboard.of_trials(data.study, trained).configurations.values()
    scores = [configuration.value("mean") for configuration in configurations]
    drawn = data.study.get_trials(deepcopy=False)
    study = optuna.create_study(direction="maximize")
    for configuration, score in zip(configurations, scores, strict=True):
        of = drawn[configuration.number]
        study.add_trial(
            optuna.trial.create_trial(params=of.params, distributions=of.distributions, value=score)
        )
    return study, scores


def importances(
    study: optuna.Study, shared: list[str], scores: Sequence[float], estimator: Estimator
) -> dict[str, float]:
    """By parameter; nothing where it can't be told. shared: the parameters that all trials have;
    scores: of the study's trials in order."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PedAnova.*low `target` values")  # so we turn it
        try:
            found = optuna.importance.get_param_importances(
                study,
                evaluator=estimator.evaluator,
                params=shared,
                target=lambda trial: estimator.sign * scores[trial.number],
            )
            return {name: float(value) for name, value in found.items()}
        except (ValueError, RuntimeError):  # all scores alike
            return {}


def by_chance(
    study: optuna.Study, shared: list[str], scores: Sequence[float], estimator: Estimator
) -> dict[str, float]:
    """By parameter, the most that it had in any shuffling of the scores."""
    random = np.random.default_rng(0)
    most = dict.fromkeys(shared, 0.0)
    for _ in range(SHUFFLINGS):
        shuffled = random.permutation(np.array(scores)).tolist()
        for name, value in importances(study, shared, shuffled, estimator).items():
            most[name] = max(value, most[name])
    return most


def _panel(found: Mapping[str, float], chance: Mapping[str, float], estimator: Estimator) -> Panel:
    ranked = sorted(found, key=lambda name: found[name])
    bars = []
    for label, colour, beyond in (("", BLUE, True), ("may be chance", GREY, False)):
        at = [i for i, name in enumerate(ranked) if (found[name] > chance[name]) == beyond]
        heights = [found[ranked[i]] for i in at]
        bars += [
            Bars(at=at, heights=heights, width=0.7, label=label, colour=colour, lying=True)
        ] * bool(at)
    shuffled = Points(
        x=[chance[name] for name in ranked],
        y=list(range(len(ranked))),
        names=[f"{name}: {chance[name]:.2f} by chance" for name in ranked],
        label=f"most of {SHUFFLINGS} shufflings",
        colour=BLACK,
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
