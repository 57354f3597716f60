"""The record of a trial, read from the attributes of an Optuna trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar

from optuna.trial import FrozenTrial, TrialState

from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.attributes import (
    CHECKPOINT,
    ENVIRONMENT,
    LABEL,
    LADDER,
    MEMORY,
    MULTIPLY_ADDS,
    PARAMETERS,
    REASON,
    RESULT,
    RETRY_OF,
    SCORES,
    SECONDS,
    SPEC,
    TEST,
)
from sabtune.study.events import Outcome
from sabtune.study.optuna_storage import unreadable_value
from sabtune.study.states import final_state
from sabtune.training.evaluation import LengthResult, solves
from sabtune.training.trial import TrialSpec

N = TypeVar("N", int, float)

UNMEASURED = ("seconds", "in_phase", "worst_phase")
"""The fields of a length result that may be None."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """The record of a trial in a study."""

    number: int
    state: TrialState
    values: list[float]  # one for each objective; empty unless the trial is complete
    params: dict[str, Any]
    spec: TrialSpec | None  # None if the trial ended before it got a specification
    scores: dict[int, float]  # by number of updates
    ladder: list[LengthResult]
    test: list[LengthResult]
    reason: str
    label: str
    retry_of: int | None
    checkpoint: Folder | None
    seconds: float  # computing time over all attempts
    memory: float  # peak memory in MiB
    started: datetime | None
    environment: dict[str, Any]
    constraints: dict[str, float]  # a value above 0 is a violation
    ended: datetime | None = None
    parameters: int | None = None  # of the model; None before the end, and in version 0.1
    multiply_adds: float | None = None  # of a step, forward; None where `parameters` is
    run_again: bool = False  # the trial failed, and another trial counts in its place

    @property
    def feasible(self) -> bool:
        """Return whether the trial violates no constraint."""
        return all(value <= 0 for value in self.constraints.values())

    @property
    def run(self) -> RunConfig | None:
        """Return the configuration of the training run; None if the trial has no specification."""
        return self.spec.run if self.spec else None

    @property
    def configuration(self) -> int:
        """Return the number of the first trial of the same configuration."""
        return self.spec.configuration if self.spec else self.number

    @property
    def value(self) -> float | None:
        """Return the score of a complete trial, and None for any other."""
        return self.values[0] if self.values else None

    @property
    def score(self) -> float:
        """Return the last score; 0 if there is none, or if the trial failed."""
        if self.values:
            return self.values[0]
        last = max(self.scores, default=None)
        return 0.0 if last is None or self.state == TrialState.FAIL else self.scores[last]

    @property
    def solved(self) -> bool:
        """Return whether the trial is complete and solves every selection length."""
        if self.spec is None or self.state != TrialState.COMPLETE:
            return False
        task = self.spec.run.task.build()
        return solves(self.ladder, self.spec.ladder.select, task)

    @classmethod
    def of(cls, trial: FrozenTrial, store: Store | None = None) -> Self:
        """Return the record of an Optuna trial.

        store: the store that holds the trial's checkpoints. Raises StoreError if the trial holds
        attributes that sabtune didn't write.
        """
        with readable(f"trial {trial.number}", store):
            return cls._from_trial(trial, store)

    @classmethod
    def _from_trial(cls, trial: FrozenTrial, store: Store | None) -> Self:
        attrs = trial.user_attrs | trial.user_attrs.get(RESULT, {})
        scores = {int(step): float(score) for step, score in attrs.get(SCORES, {}).items()}
        address = attrs.get(CHECKPOINT)
        checkpoint = None if address is None else Folder(address)
        if trial.state == TrialState.COMPLETE and SPEC not in attrs:
            raise ValueError("it has no specification, so sabtune didn't train it")
        return cls(
            number=trial.number,
            state=trial.state,
            values=list(trial.values or []) if trial.state == TrialState.COMPLETE else [],
            params=dict(trial.params),
            spec=TrialSpec.from_dict(attrs[SPEC]) if SPEC in attrs else None,
            scores=scores or dict(trial.intermediate_values),
            ladder=[_length_result(result) for result in attrs.get(LADDER, [])],
            test=[_length_result(result) for result in attrs.get(TEST, [])],
            reason=str(attrs.get(REASON, "")),
            label=str(attrs.get(LABEL, "")),
            retry_of=attrs.get(RETRY_OF),
            checkpoint=store.checkpoint(str(address)) if store and address else checkpoint,
            seconds=float(attrs.get(SECONDS, 0.0)),
            memory=float(attrs.get(MEMORY, 0.0)),
            started=trial.datetime_start,
            environment=dict(attrs.get(ENVIRONMENT, {})),
            constraints=dict(trial.constraints),
            ended=trial.datetime_complete,
            parameters=_number(attrs, PARAMETERS, int),
            multiply_adds=_number(attrs, MULTIPLY_ADDS, float),
        )

    @property
    def outcome(self) -> Outcome | None:
        """Return how the trial ended; None if it hasn't ended."""
        state = final_state(self.state)
        if state is None:
            return None
        return Outcome(
            state=state,
            score=self.value,
            reason=self.reason,
            ladder=self.ladder,
            test=self.test,
            checkpoint=self.checkpoint,
        )


def _number(attributes: Mapping[str, Any], name: str, kind: type[N]) -> N | None:
    """Return a stored number; None if the trial has none."""
    value = attributes.get(name)
    return None if value is None else kind(value)


def _length_result(data: Mapping[str, Any]) -> LengthResult:
    """Return a length result from its stored dict.

    Raises TypeError if a value isn't a number. Only the UNMEASURED fields may also be None.
    """
    for key, value in data.items():
        numbers = value if key == "by_phase" else [value]
        if not all(
            isinstance(number, int | float) or (number is None and key in UNMEASURED)
            for number in numbers
        ):
            raise TypeError(f"the length result's {key} is {value!r}")
    return LengthResult.from_dict(data)


@contextmanager
def readable(subject: str, store: Store | None) -> Iterator[None]:
    """Convert errors in stored values into StoreError with a one-line message.

    subject: what is read, such as "trial 3".
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        shown = store.shown if store else "the study"
        raise StoreError(unreadable_value(shown, problem, subject)) from problem


def counted(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that enter scores, rankings and counts: all but those run again."""
    return [trial for trial in trials if not trial.run_again]
