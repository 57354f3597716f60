"""A study with its search space and constraints, as a study file or a script defines them."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsFloat

import optuna
from optuna.trial import FrozenTrial

from sabtune.config import PARTS, RunConfig, TrialConfig
from sabtune.errors import ConfigError, RejectedError, StudyFileError
from sabtune.parts.importing import importable
from sabtune.schema import Config, check_storable, codes, suggest, to_dict
from sabtune.study.definition import Constraints, Space, Study
from sabtune.study.example import example
from sabtune.study.parameters import STORED, CheckedTrial, branches, distributions, ends
from sabtune.study.trial_record import TrialRecord
from sabtune.study.wording import explain, location, shown

ACCEPTED_DRAWS = 10
"""The number of accepted random draws after which the check of a space ends."""

SAMPLED_DRAWS = 32
"""The number of random draws that stand for a space when it is sampled."""

REJECTED_IN_A_ROW = 50
"""The number of consecutive rejections after which a space counts as rejecting everything."""


@dataclass(frozen=True)
class StudyFile:
    """A loaded study file, or a study that a script or a notebook defines.

    path: the path of the file. study: its STUDY. space: its space, or that of a baseline.
    constraints: a function of a trial's record that returns numbers by name. A number above 0 means
    that a complete trial violates this constraint; such a trial is never the best. question: the
    docstring of the file. baseline: the name of the baseline that `space` belongs to; None if it is
    the file's own space. phases_given: whether the file sets the number of phases of its ladder.
    source: the text of the file. in_file: whether the study comes from a study file; if not, it
    comes from objects of a script or a notebook, `path` is where its space is defined, and `source`
    is the source of its functions.
    """

    path: Path
    study: Study
    space: Space
    constraints: Constraints | None = None
    question: str = ""
    baseline: str | None = None
    phases_given: bool = True
    source: str = ""
    in_file: bool = True

    def with_ladder(self, **values: Any) -> StudyFile:
        """Return this file with the given values of its ladder replaced.

        Raises StudyFileError if the ladder has too few sequences for its phases.
        """
        try:
            ladder = dataclasses.replace(self.study.ladder, **values)
        except ConfigError as problem:
            raise StudyFileError(f"{location(self.path, 'STUDY')}: {problem}") from None
        return dataclasses.replace(self, study=dataclasses.replace(self.study, ladder=ladder))

    def with_limits(self, *, trials: int | None, seed: int | None) -> StudyFile:
        """Return this file with another number of trials or another seed; None keeps the file's."""
        study = dataclasses.replace(
            self.study,
            trials=self.study.trials if trials is None else trials,
            seed=self.study.seed if seed is None else seed,
        )
        return dataclasses.replace(self, study=study)

    def without_rules(self) -> StudyFile:
        """Return this file with a study that no stopping rule ends."""
        return dataclasses.replace(self, study=dataclasses.replace(self.study, stop=None))

    def renamed(self, name: str) -> StudyFile:
        """Return this file with its study under another name."""
        return dataclasses.replace(self, study=dataclasses.replace(self.study, name=name))

    def with_points_asked_for(self) -> StudyFile:
        """Return this file with points that hold only parameters that its space suggests.

        Duplicate points are dropped. Raises StudyFileError if the space rejects a point or fails.
        """
        points = []
        for point in self.study.points:
            trial, _ = self._try_point(point, self._scratch_study())
            points.append({name: value for name, value in point.items() if name in trial.params})
        distinct = tuple(point for i, point in enumerate(points) if point not in points[:i])
        return dataclasses.replace(self, study=dataclasses.replace(self.study, points=distinct))

    def config(self, trial: optuna.Trial) -> TrialConfig:
        """Return the configuration that the space returns for `trial`.

        Raises RejectedError if the space raises TrialPruned or makes an invalid configuration, and
        StudyFileError if it fails.
        """
        if isinstance(trial, optuna.Trial):
            trial = CheckedTrial.of(trial)
        with self._file_errors():
            config: Any = self.space(trial)
            if isinstance(config, TrialConfig):
                RunConfig.of(task=self.study.task, trial=config, seed=0)  # raises if they don't fit
        if inspect.iscoroutine(config):
            config.close()
        if not isinstance(config, TrialConfig):
            raise StudyFileError(
                f"{location(self.path, self.space)}: space(trial) returned {shown(config)}: "
                "return a TrialConfig"
            )
        self._check_parts(self.space, config)
        return config

    def _check_parts(self, defined_by: str | Space, config: Config) -> None:
        """Raise StudyFileError if a worker couldn't read a configuration as it is.

        defined_by: what defines the configuration, for the message.
        """
        try:
            check_storable(config, PARTS)
        except ConfigError as problem:
            raise StudyFileError(f"{location(self.path, defined_by)}: {problem}") from problem

    def constrained(self, trial: TrialRecord) -> dict[str, float]:
        """Return the values of the constraints for a trial, by name.

        Raises StudyFileError if the constraints fail or return anything but numbers by name.
        """
        if self.constraints is None:
            return {}
        with self._file_errors():
            returned = self.constraints(trial)
        problem = f"{location(self.path, self.constraints)}: constraints(trial) returned"
        remedy = 'return numbers by name, such as {"memory": trial.memory - 1000}'
        if not isinstance(returned, Mapping):
            raise StudyFileError(f"{problem} {shown(returned)}: {remedy}")
        for name, value in returned.items():
            number = isinstance(value, SupportsFloat) and not math.isnan(float(value))
            if not isinstance(name, str) or not number:
                raise StudyFileError(f"{problem} {shown(value)} for {shown(name)}: {remedy}")
        return {name: float(value) for name, value in returned.items()}

    def try_space(self, stored_trials: Sequence[FrozenTrial] = ()) -> TrialConfig:
        """Try the space on a temporary study, and return its first configuration.

        The space is called for each point of the study. Then it is called for random draws, until
        it has accepted ACCEPTED_DRAWS or rejected REJECTED_IN_A_ROW of them.

        stored_trials: trials of a stored study that the search resumes, one for each set of
        parameters (see `branches`).

        Raises StudyFileError if the space fails or rejects every draw, if a point is outside it, or
        if it gives a parameter a range that is incompatible with that of a stored trial.
        """
        self._check_parts("STUDY", self.study.task)
        study = self._scratch_study()
        if stored_trials:
            stored = study.ask(fixed_distributions=distributions(stored_trials))
            stored.set_user_attr(STORED, self.study.name)
        for trial in stored_trials:
            with suppress(RejectedError):
                self._try_point(trial.params, study)
        points = [self._point_config(point, study) for point in self.study.points]
        return (points + [config for _, config in self._accepted_draws(study)])[0]

    def sampled(self, *, with_ends: bool = False) -> list[TrialConfig]:
        """Return configurations of the space: its points and SAMPLED_DRAWS random draws.

        Points and draws that the space rejects, or fails for, are left out. with_ends: whether to
        add configurations with one parameter at a time at either end of its range, or at each of
        its choices.
        """
        study, configs = self._scratch_study(), list[TrialConfig]()

        def add_config(point: Mapping[str, Any]) -> None:
            with suppress(StudyFileError):
                configs.append(self._try_point(point, study)[1])

        for point in (*self.study.points, *[{}] * SAMPLED_DRAWS):
            add_config(point)
        for trial in branches(study.get_trials(deepcopy=False)) if with_ends else ():
            for name, distribution in trial.distributions.items():
                for value in ends(distribution):
                    add_config(trial.params | {name: value})
        return configs

    @cached_property
    def own_code(self) -> Mapping[str, str]:
        """The digests of the code of own parts that the study uses, by kind.

        The parts are those of the task and of sampled configurations.
        """
        configs = [self.study.task, *self.sampled()]
        return codes([to_dict(config, PARTS) for config in configs])

    def largest_period(self) -> int:
        """Return the largest k_att among sampled configurations of the space; at least 1."""
        return max((config.model.period for config in self.sampled(with_ends=True)), default=1)

    def unfit(self, point: Mapping[str, Any]) -> str:
        """Return the reason why the space doesn't accept a point; "" if it does."""
        try:
            self._try_point(point, self._scratch_study())
        except StudyFileError as problem:
            return str(problem)
        return ""

    def try_constraints(self) -> None:
        """Try the constraints on an example trial.

        Raises StudyFileError if they fail, unless the failure may be due to the example's numbers.
        """
        if self.constraints is None:
            return
        trial, config = self._accepted_draws(self._scratch_study())[0]
        try:
            self.constrained(example(self.study, config, trial.params))
        except StudyFileError as problem:
            value_dependent = ArithmeticError | AssertionError | LookupError | ValueError
            if not isinstance(problem.__cause__, value_dependent):
                raise

    def _point_config(self, point: Mapping[str, Any], study: optuna.Study) -> TrialConfig:
        """Return the configuration of a point.

        Raises StudyFileError if the point is outside the space, or has a parameter that the space
        doesn't suggest.
        """
        trial, config = self._try_point(point, study)
        for name in point:
            if name not in trial.params:
                raise StudyFileError(
                    f"{location(self.path, 'STUDY')}: a point gives {name!r}, which the space "
                    f"doesn't ask for: {suggest(name, list(trial.params))}"
                )
        return config

    def _accepted_draws(self, study: optuna.Study) -> list[tuple[optuna.Trial, TrialConfig]]:
        """Return the first random draws that the space accepts, at most ACCEPTED_DRAWS.

        Raises StudyFileError if the space accepts none or fails.
        """
        accepted: list[tuple[optuna.Trial, TrialConfig]] = []
        rejected: list[RejectedError] = []
        while len(accepted) < ACCEPTED_DRAWS and len(rejected) < REJECTED_IN_A_ROW:
            try:
                accepted.append(self._try_point({}, study))
            except RejectedError as problem:
                rejected.append(problem)
        if not accepted:
            raise StudyFileError(str(rejected[0])) from rejected[0]
        return accepted

    def _scratch_study(self) -> optuna.Study:
        """Return a new, temporary study in memory that draws at random."""
        sampler = optuna.samplers.RandomSampler(seed=self.study.seed)
        return optuna.create_study(sampler=sampler)

    def _try_point(
        self, point: Mapping[str, Any], study: optuna.Study
    ) -> tuple[optuna.Trial, TrialConfig]:
        """Return a trial of `study` at a point, and the configuration of the space for it.

        Raises RejectedError if the space rejects the point, and StudyFileError if it fails.
        """
        study.enqueue_trial(dict(point))
        trial = study.ask()
        return trial, self.config(trial)

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """Convert errors of the file's code into errors with a one-line message.

        Raises RejectedError if the code rejects a configuration, and StudyFileError otherwise.
        """
        try:
            with importable(self.path.resolve().parent) if self.in_file else nullcontext():
                yield
        except KeyboardInterrupt:
            raise
        except (optuna.TrialPruned, ConfigError, RejectedError) as problem:
            raise RejectedError(explain(self.path, problem)) from problem
        except BaseException as problem:  # includes SystemExit: a study file must not end sabtune
            raise StudyFileError(explain(self.path, problem)) from problem
