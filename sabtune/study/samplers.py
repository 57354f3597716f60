"""Optuna's samplers, configured for a study."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from sabtune.study.study_file import StudyFile


def sampler(file: StudyFile, existing_trials: int) -> BaseSampler:
    """Return the seeded sampler of a study.

    existing_trials: the number of trials that the study already has. It is added to the seed, so
    that a resumed search doesn't repeat earlier draws.

    With a single objective, TPE is multivariate: it models the parameters of each branch of the
    space jointly.
    """
    study = file.study
    seed = (study.seed + existing_trials) % 2**32
    match study.sampler:
        case "tpe":
            single = len(study.objectives) == 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # raised for `group`
                return TPESampler(
                    seed=seed,
                    n_startup_trials=study.startup,
                    multivariate=single,
                    group=single,
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
