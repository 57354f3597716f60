"""From a trial of the study to what it does: the space is asked, the seed is drawn."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import optuna

from sabtune.config import RunConfig
from sabtune.errors import RejectedError
from sabtune.provenance import revision, software
from sabtune.study import record
from sabtune.study.definition import StudyFile
from sabtune.study.record import TrialRecord
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import TrialSpec


class TrialSpecs:
    """Makes the assignments of one study; one that a trial has already is never made again.

    ladder, evaluation_seed: where they are not the study's own. The evaluation seed stays that of
    the first trial, so that all are measured on the same sequences even if a later search is given
    another seed. confirms: as in `TrialSpec`. Two
    trials with the same task, model and training are seeds of one configuration, however they came
    about.
    """

    def __init__(
        self,
        file: StudyFile,
        trials: Iterable[TrialRecord],
        *,
        ladder: Ladder | None = None,
        evaluation_seed: int | None = None,
        confirms: bool = False,
    ):
        self.file, self.confirms = file, confirms
        self.ladder = ladder or file.study.ladder
        trials = list(trials)
        if evaluation_seed is None:
            before = (of.spec.evaluation_seed for of in trials if of.spec)
            evaluation_seed = next(before, file.study.seed)
        self.evaluation_seed = evaluation_seed
        self.environment = software() | {"study": revision(file.path)}
        self.configurations: dict[str, int] = {}  # the first trial of each
        self.members: dict[int, int] = {}  # by configuration, a trial that is a seed of it
        for trial in trials:
            if trial.run is not None:
                self.configurations.setdefault(configuration_key(trial.run), trial.configuration)
                self.members.setdefault(trial.configuration, trial.number)

    def spec(self, trial: optuna.Trial) -> TrialSpec:
        """What `trial` is to do, written to the study.

        Raises RejectedError if the space rejects the trial, StudyFileError if it fails.
        """
        made = trial.user_attrs.get(record.SPEC)
        if made is not None:
            return TrialSpec.from_dict(made)
        study = self.file.study
        fixed: dict[str, Any] | None = trial.user_attrs.get(record.FIXED)
        run = self._run(trial, fixed)
        first = self.configurations.setdefault(configuration_key(run), trial.number)
        spec = TrialSpec(
            number=trial.number,
            configuration=(fixed or {}).get("configuration", first),
            run=run,
            ladder=self.ladder,
            evaluation_seed=self.evaluation_seed,
            threads=study.resources.cpus,
            limits=study.limits,
            confirms=self.confirms,
        )
        trial.set_user_attr(record.ENVIRONMENT, self.environment)
        trial.set_user_attr(record.SPEC, spec.to_dict())
        self.members.setdefault(spec.configuration, trial.number)
        return spec

    def another_seed(self, study: optuna.Study, configuration: int) -> optuna.Trial:
        """Begins a further seed of a configuration, as it is recorded.

        The space isn't asked: since it was, it may have come to make something else of the same
        parameters, which would be a seed of another configuration.
        """
        member = record.one(study, self.members[configuration])
        assert member.run is not None
        seed = trial_seed(self.file.study.seed, record.next_number(study))
        run = dataclasses.replace(member.run, seed=seed)
        return record.begin_again(study, member.number, run, configuration)

    def _run(self, trial: optuna.Trial, fixed: dict[str, Any] | None) -> RunConfig:
        if fixed is not None:
            if fixed["space"]:
                with suppress(RejectedError):
                    self.file.config(trial)  # so that the study knows its parameters
            return RunConfig.from_dict(fixed["run"])
        study = self.file.study
        config = self.file.config(trial)
        return RunConfig(task=study.task, trial=config, seed=trial_seed(study.seed, trial.number))


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of trial `number`: another for each trial, the same whenever it is run again."""
    return study_seed * 1_000_003 + number


def configuration_key(run: RunConfig) -> str:
    """The same for two runs that differ in nothing but their seeds.

    Of the run as it is read back: where a space gives 1 for a number that may have a fraction, the
    study's record has 1.0.
    """
    data = RunConfig.from_dict(run.to_dict()).to_dict()
    del data["seed"]
    return json.dumps(data, sort_keys=True)
