"""Who is told what happens in a search: the person at the terminal, MLflow, a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from sabtune.storage.folder import Folder
from sabtune.tasks import TaskConfig
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.trial import Progress, TrialSpec

State = Literal["COMPLETE", "PRUNED", "FAIL"]
"""How a trial can end, in Optuna's words."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    state: State
    score: float | None = None  # of a complete trial: what the search maximises
    reason: str = ""  # why it was pruned or failed
    ladder: Sequence[LengthResult] = ()  # on the selection sequences
    test: Sequence[LengthResult] = ()  # on the test sequences
    checkpoint: Folder | None = None  # its last


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a trial came from."""

    file: str = ""  # the study file
    commit: str = ""  # the git revision of its folder, where there is one
    changed: bool = False  # the folder had changes that weren't committed
    label: str = ""  # whom the trial stands for in a comparison


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """All that is known of one trial, for those who show it."""

    spec: TrialSpec
    history: Sequence[Progress]
    outcome: Outcome | None  # None while it runs, or waits to be taken up again
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True, kw_only=True)
class Version:
    """A trial whose model is registered, and what a comparison on fresh seeds found of its
    configuration; until one has, its score in the search is all that speaks for it."""

    trial: int
    contest: str = ""  # stored under this name; the comparison's study
    seeds: int = 0
    accuracy: float = 0.0  # the mean over those seeds
    length: int = 0  # at which

    @property
    def confirmed(self) -> bool:
        return bool(self.contest)

    @property
    def words(self) -> str:
        """Trial 17, and what speaks for it."""
        if not self.confirmed:
            return f"trial {self.trial}, unconfirmed"
        seeds = "1 fresh seed" if self.seeds == 1 else f"{self.seeds} fresh seeds"
        return (
            f"trial {self.trial}, confirmed in {self.contest}: {self.accuracy:.1%} "
            f"at length {self.length:,} over {seeds}"
        )


@dataclass(frozen=True, kw_only=True)
class Registered:
    """The trials whose models are registered, in the order of their versions, and the number of
    the one that the study stands by; None if there is none yet."""

    versions: tuple[Version, ...] = ()
    champion: int | None = None

    @property
    def champion_version(self) -> Version | None:
        """The champion's version."""
        return next((of for of in self.versions if of.trial == self.champion), None)

    def with_champion(self, trial: int) -> Registered:
        """The same with the model of this trial as the champion."""
        return replace(self, champion=trial)

    def with_version(self, version: Version) -> Registered:
        """The same with this version in its place, or as the last one."""
        known = {of.trial: of for of in self.versions} | {version.trial: version}
        return replace(self, versions=tuple(known.values()))


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All that is known of a search, for those who show it."""

    question: str = ""  # the study file's docstring
    task: TaskConfig | None = None
    ladder: Ladder | None = None
    space: Mapping[str, str] = field(default_factory=dict)  # in words, by parameter
    budget: Sequence[str] = ()  # what may be spent and how, in words
    trials: Mapping[str, int] = field(default_factory=dict)  # by state, in words
    hours: float = 0.0  # that the trials took
    best: TrialView | None = None  # without its history
    champion: Version | None = None  # the one that the study stands by
    complete: bool = False  # nothing is left to do


class Watcher(Protocol):
    """Called in the driver, between two steps of Ray Tune: be quick, and raise nothing."""

    def trial_started(self, spec: TrialSpec) -> None:
        """It starts, or is taken up again."""

    def trial_reported(self, number: int, progress: Progress) -> None: ...

    def trial_noted(self, number: int, words: str) -> None:
        """A person should know this of a trial that runs."""

    def trial_ended(self, number: int, outcome: Outcome) -> None: ...
