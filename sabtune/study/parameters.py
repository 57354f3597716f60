"""Checks on the parameters that a space suggests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from enum import Enum
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial

from sabtune.errors import RejectedError, StudyFileError
from sabtune.study.optuna_private import InterceptedTrial, is_on_grid
from sabtune.study.wording import shown

MAX_NAME_CHARACTERS = 512
"""The maximum length of a parameter's name that every supported database can store."""

STORED = "stored"
"""The user attribute that marks a trial in a temporary study as a stand-in for a stored study.

The trial has the distributions of the stored study. The value is the name of that study."""


class CheckedTrial(InterceptedTrial):
    """A trial that refuses parameters that the study can't store, or whose ranges are incompatible.

    Its suggest methods raise StudyFileError for a parameter that the study can't store, or that has
    an incompatible range in another trial. They raise RejectedError if a point gives a value
    outside the parameter's range.
    """

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        _check_choices(name, choices)
        return super().suggest_categorical(name, choices)

    def before(self, name: str, distribution: BaseDistribution, fixed: Mapping[str, Any]) -> None:
        _check_name(name)
        for value in fixed.values():
            if not contains(distribution, value):
                self.refused(name, distribution)
                raise RejectedError(
                    f"a point gives {name}={shown(value)}, which is outside the space: "
                    f"give a value inside, {range_of(distribution)}"
                )

    def refused(self, name: str, distribution: BaseDistribution) -> None:
        """Raise StudyFileError if another trial has an incompatible distribution for `name`."""
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


def branches(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return the first of the trials with each set of parameters that the space has suggested."""
    first: dict[frozenset[str], FrozenTrial] = {}
    for trial in trials:
        if trial.params:
            first.setdefault(frozenset(trial.params), trial)
    return list(first.values())


def distributions(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the first distribution of each parameter of the trials, by name."""
    first: dict[str, BaseDistribution] = {}
    for trial in trials:
        first = dict(trial.distributions) | first
    return first


def ends(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return the smallest and the largest value of a distribution, or all of its choices."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def contains(distribution: BaseDistribution, value: object) -> bool:
    """Return whether a distribution contains a value. A value of the wrong type isn't contained."""
    if isinstance(distribution, CategoricalDistribution):
        is_bool = isinstance(value, bool)
        return any(
            isinstance(choice, type(value))
            and isinstance(choice, bool) == is_bool
            and choice == value
            for choice in distribution.choices
        )
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    kind = int if isinstance(distribution, IntDistribution) else int | float
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    inside: bool = distribution.low <= value <= distribution.high
    return inside and is_on_grid(distribution, value)


def range_of(distribution: BaseDistribution) -> str:
    """Return a distribution in words, such as "a whole number from 2 to 5"."""
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
    if not isinstance(name, str) or not (
        name.isprintable() and 0 < len(name) <= MAX_NAME_CHARACTERS
    ):
        raise StudyFileError(
            f"a parameter is named {shown(name)}: "
            f"give a string of 1 to {MAX_NAME_CHARACTERS} printable characters"
        )


def _check_choices(name: str, choices: Iterable[Any]) -> None:
    """Raise StudyFileError if a database can't store and return these choices unchanged."""
    if isinstance(choices, Set):  # its order may differ each time
        raise StudyFileError(f"the choices of {name} are the set {shown(choices)}: give a list")
    members = list(choices)
    for choice in members:
        plain = choice is None or isinstance(choice, bool | int | float | str)
        if not plain or isinstance(choice, Enum) or choice != choice:  # NaN != NaN
            raise StudyFileError(
                f"{name} has the choice {shown(choice)}, which a database can't give back: "
                "choose among names or numbers, and look up the object in the space"
            )
    for i, choice in enumerate(members):
        for other in members[:i]:
            if choice == other and type(choice) is not type(other):
                raise StudyFileError(
                    f"{name} has the choices {shown(other)} and {shown(choice)}, which are equal: "
                    "give one of them"
                )
