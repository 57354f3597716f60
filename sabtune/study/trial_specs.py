"""Create the specifications of trials, with configurations from the space and derived seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import optuna

from sabtune import schema
from sabtune.config import RunConfig
from sabtune.errors import RejectedError
from sabtune.parts import local
from sabtune.parts.importing import bundle_of
from sabtune.provenance import revision, software
from sabtune.storage.folder import Folder
from sabtune.study.attributes import ENVIRONMENT, FIXED, SPEC
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_record import TrialRecord
from sabtune.study.writer import StudyWriter
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import TrialSpec


class TrialSpecs:
    """A factory for the trial specifications of one study.

    trials: the trials that the study already has. code: the store's folder of code, which gets the
    study file with its modules, and the code of own parts. ladder: the ladder of all trials; None
    for that of the study file. evaluation_seed: the seed of the sequences that all trials are
    measured on; None for that of the study's first trial, even if the study file has another seed
    now. confirms: see `TrialSpec`.

    Trials with the same task, model and training configuration are seeds of one configuration,
    whether the space suggested them or they were enqueued.
    """

    def __init__(
        self,
        file: StudyFile,
        trials: Iterable[TrialRecord],
        code: Folder,
        *,
        ladder: Ladder | None = None,
        evaluation_seed: int | None = None,
        confirms: bool = False,
    ):
        self.file, self.confirms, self.code = file, confirms, code
        self.ladder = ladder or file.study.ladder
        trials = list(trials)
        if evaluation_seed is None:
            recorded = (trial.spec.evaluation_seed for trial in trials if trial.spec)
            evaluation_seed = next(recorded, file.study.seed)
        self.evaluation_seed = evaluation_seed
        self.environment = software() | {"study": revision(file.path)}
        if file.in_file:
            whole = bundle_of(file.path, whole=True)
            whole.write(code)
            local.add_bundle(whole)
            self.environment |= {"code": whole.digest}
        self.stored: set[str] = set()  # the digests of the own parts whose code is in the store
        self.configurations: dict[str, int] = {}  # the first trial of each configuration, by key
        self.members: dict[int, int] = {}  # a trial of each configuration, by configuration
        for trial in trials:
            if trial.run is not None:
                self.configurations.setdefault(configuration_key(trial.run), trial.configuration)
                self.members.setdefault(trial.configuration, trial.number)

    def spec(self, trial: optuna.Trial) -> TrialSpec:
        """Return the specification of `trial`, and store it in the study.

        A specification that is already stored is returned unchanged. Raises RejectedError if the
        space rejects the trial, StudyFileError if it fails, and DataError if the task's data is
        missing.
        """
        stored = trial.user_attrs.get(SPEC)
        if stored is not None:
            return TrialSpec.from_dict(stored)
        study = self.file.study
        fixed: dict[str, Any] | None = trial.user_attrs.get(FIXED)
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
            datasets=dict(run.task.build().datasets()),
        )
        content = spec.to_dict()
        new = {*schema.codes(content).values()} - self.stored
        local.write_bundles(new, self.code)
        self.stored |= new
        trial.set_user_attr(ENVIRONMENT, self.environment)
        trial.set_user_attr(SPEC, content)
        self.members.setdefault(spec.configuration, trial.number)
        return spec

    def another_seed(self, study: StudyWriter, configuration: int) -> optuna.Trial:
        """Start a trial of a recorded configuration under another seed.

        The configuration is taken from an earlier trial. The space isn't called again, because its
        code may have changed, so that it returns another configuration for the same parameters.
        """
        record = study.read()
        member = record.trial(self.members[configuration])
        assert member.run is not None
        seed = trial_seed(self.file.study.seed, len(record.frozen))
        run = dataclasses.replace(member.run, seed=seed)
        return study.begin_again(member.number, run, configuration)

    def _run(self, trial: optuna.Trial, fixed: dict[str, Any] | None) -> RunConfig:
        """Return the run of a trial: the fixed one, or the space's configuration and a seed."""
        if fixed is not None:
            if fixed["space"]:
                with suppress(RejectedError):
                    self.file.config(trial)  # records the parameters in the study
            return RunConfig.from_dict(fixed["run"])
        study = self.file.study
        config = self.file.config(trial)
        return RunConfig.of(
            task=study.task, trial=config, seed=trial_seed(study.seed, trial.number)
        )


FRESH_SEED = 10**12
"""The first seed of a comparison on fresh seeds. The seeds of searches are far below it."""


def trial_seed(study_seed: int, number: int) -> int:
    """Return the seed of a trial, which depends only on the study's seed and the trial's number."""
    return study_seed * 1_000_003 + number


def configuration_key(run: RunConfig) -> str:
    """Return a key that is equal for runs that differ only in their seeds.

    The run is converted as if it were stored and read again: an int in a float field becomes a
    float.
    """
    data = RunConfig.from_dict(run.to_dict()).to_dict()
    del data["seed"]
    if data["task"].get("content"):  # the user's data is the same wherever it is
        data["task"] |= dict.fromkeys(run.task.data_paths)
    return json.dumps(data, sort_keys=True)
