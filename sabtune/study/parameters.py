"""The parameters of a space, checked as the space asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from enum import Enum
from typing import Any, Self

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from sabtune.errors import RejectedError, StudyFileError
from sabtune.study.wording import shown

LONGEST_NAME = 512
"""Characters of a parameter's name that every database takes."""

STORED = "stored"
"""The attribute of a trial on a thrown-away study that has the distributions of a stored one."""


class CheckedTrial(optuna.Trial):
    """A trial that refuses what the study can't store, or can't combine with its other trials.

    Raises StudyFileError from the line that suggests it, and RejectedError where a value that was
    fixed beforehand is outside its range.
    """

    @classmethod
    def of(cls, trial: optuna.Trial) -> Self:
        """Return the same trial, checked."""
        checked = cls.__new__(cls)
        vars(checked).update(vars(trial))
        return checked

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        _check_choices(name, choices)
        return super().suggest_categorical(name, choices)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        _check_name(name)
        if name in self._fixed_params and name not in self._cached_frozen_trial.params:
            value = self._fixed_params[name]
            if not contains(distribution, value):
                self._refuse_change(name, distribution)
                raise RejectedError(
                    f"a point gives {name}={shown(value)}, which is outside the space: "
                    f"give a value inside, {range_of(distribution)}"
                )
        try:
            return super()._suggest(name, distribution)
        except ValueError:
            self._refuse_change(name, distribution)
            raise

    def _refuse_change(self, name: str, distribution: BaseDistribution) -> None:
        """Raises StudyFileError if another trial has drawn `name` in an incompatible way."""
        trials = self.study.get_trials(deepcopy=False)
        earlier = next((trial for trial in trials if name in trial.distributions), None)
        if earlier is None:
            return
        before = earlier.distributions[name]
        try:
            check_distribution_compatibility(before, distribution)
        except ValueError:
            stored = earlier.user_attrs.get(STORED)
            remedy = "give each a parameter name of its own"
            if stored is not None:
                remedy = (
                    f"search with --new --warm-start {stored}, or give the parameter another name"
                )
            raise StudyFileError(
                f"{name} is {range_of(distribution)}, and was {range_of(before)} in "
                f"{'the study' if stored else 'another trial'}: {remedy}"
            ) from None


def branches(study: optuna.Study) -> list[FrozenTrial]:
    """Return the first trial of each set of parameters that the space has asked for."""
    found: dict[frozenset[str], FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.params:
            found.setdefault(frozenset(trial.params), trial)
    return list(found.values())


def distributions(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return what each parameter of the trials was drawn from first."""
    found: dict[str, BaseDistribution] = {}
    for trial in trials:
        found = dict(trial.distributions) | found
    return found


def ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the least and the largest value of a distribution; of choices, every one."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Whether the distribution can give this value, of the type that it gives."""
    if isinstance(distribution, CategoricalDistribution):
        whether = isinstance(value, bool)
        return any(
            isinstance(choice, type(value))
            and isinstance(choice, bool) == whether
            and choice == value
            for choice in distribution.choices
        )
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    kind = int if isinstance(distribution, IntDistribution) else int | float
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    inside: bool = distribution.low <= value <= distribution.high
    return inside and distribution._contains(value)


def range_of(distribution: BaseDistribution) -> str:
    """Say what a parameter is drawn from: "a whole number from 2 to 5"."""
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {shown(list(distribution.choices))}"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    whole = isinstance(distribution, IntDistribution)
    words = "a whole number" if whole else "a number"
    words += f" from {distribution.low} to {distribution.high}"
    if distribution.step not in (None, 1):
        words += f" in steps of {distribution.step}"
    return words + (" on a log scale" if distribution.log else "")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not (name.isprintable() and 0 < len(name) <= LONGEST_NAME):
        raise StudyFileError(
            f"a parameter is named {shown(name)}: "
            f"give a text of 1 to {LONGEST_NAME} printable characters"
        )


def _check_choices(name: str, choices: Iterable[Any]) -> None:
    """Raises StudyFileError if a database couldn't give these choices back as they are."""
    if isinstance(choices, Set):  # in another order each time
        raise StudyFileError(f"the choices of {name} are the set {shown(choices)}: give a list")
    members = list(choices)
    for choice in members:
        plain = choice is None or isinstance(choice, bool | int | float | str)
        if not plain or isinstance(choice, Enum) or choice != choice:  # NaN is unlike itself
            raise StudyFileError(
                f"{name} has the choice {shown(choice)}, which a database can't give back: "
                "choose among names or numbers, and look up what they stand for"
            )
    for i, choice in enumerate(members):
        for other in members[:i]:
            if choice == other and type(choice) is not type(other):
                raise StudyFileError(
                    f"{name} has the choices {shown(other)} and {shown(choice)}, which are equal: "
                    "give one of them"
                )
