"""Optuna's samplers, by name, as a study wants them."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from sabtune.study.definition import StudyFile


def sampler(file: StudyFile, told: int) -> BaseSampler:
    """The study's sampler, seeded; `told`: how many trials there are already.

    TPE models the parameters of one objective together, those of a branch of the space among
    themselves, and takes running trials into account.
    """
    study = file.study
    seed = (study.seed + told) % 2**32
    match study.sampler:
        case "tpe":
            together = len(study.objectives) == 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
                return TPESampler(
                    seed=seed,
                    n_startup_trials=study.startup,
                    multivariate=together,
                    group=together,
                )
        case "gp":
            return GPSampler(
                seed=seed,
                n_startup_trials=study.startup,
                warn_independent_sampling=False,
            )
        case "cmaes":
            return CmaEsSampler(
                seed=seed, n_startup_trials=study.startup, warn_independent_sampling=False
            )
        case "random":
            return RandomSampler(seed=seed)
