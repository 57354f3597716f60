"""Events of a search, and the watchers that receive them.

The terminal, MLflow and the backups of a store are watchers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sabtune.storage.folder import Folder
from sabtune.study.states import State
from sabtune.tasks import TaskConfig
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.trial import Progress, TrialSpec


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a trial."""

    state: State
    score: float | None = None  # the score that the search maximizes; None unless complete
    reason: str = ""  # why the trial was pruned or failed
    ladder: Sequence[LengthResult] = ()  # on the selection sequences
    test: Sequence[LengthResult] = ()  # on the test sequences
    checkpoint: Folder | None = None  # the last checkpoint


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The study file, its code, the commit and the label that a trial comes from."""

    file: str = ""  # the study file
    commit: str = ""  # the git commit of its folder, if it is in a repository
    changed: bool = False  # whether the repository had uncommitted changes
    code: str = ""  # the digest of the study file with the local modules that it imports
    label: str = ""  # the trial's group in a comparison


@dataclass(frozen=True, kw_only=True)
class TrialView:
    """A trial as the terminal and MLflow show it."""

    spec: TrialSpec
    history: Sequence[Progress]
    outcome: Outcome | None  # None while the trial runs, or waits to be resumed
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True, kw_only=True)
class Version:
    """A trial whose model is registered, and its confirmation on fresh seeds, if there is one."""

    trial: int
    contest: str = ""  # the name of the confirmation; the store uses this key
    seeds: int = 0  # the number of fresh seeds
    accuracy: float = 0.0  # the mean over the fresh seeds, from 0 to 1
    length: int = 0  # the length at which the accuracy was measured

    @property
    def confirmed(self) -> bool:
        """Return whether a confirmation has measured the trial's configuration."""
        return bool(self.contest)

    @property
    def words(self) -> str:
        """Return a description, such as "trial 17, confirmed in …" or "trial 17, unconfirmed"."""
        if not self.confirmed:
            return f"trial {self.trial}, unconfirmed"
        seeds = "1 fresh seed" if self.seeds == 1 else f"{self.seeds} fresh seeds"
        return (
            f"trial {self.trial}, confirmed in {self.contest}: {self.accuracy:.1%} "
            f"at length {self.length:,} over {seeds}"
        )


@dataclass(frozen=True, kw_only=True)
class Registered:
    """The registered models of a study, in the order of their versions, and the champion."""

    versions: tuple[Version, ...] = ()
    champion: int | None = None  # the champion's trial, if there is a champion

    @property
    def champion_version(self) -> Version | None:
        """Return the version of the champion, or None."""
        return next((version for version in self.versions if version.trial == self.champion), None)

    def with_champion(self, trial: int) -> Registered:
        """Return a copy with the model of this trial as the champion."""
        return replace(self, champion=trial)

    def with_version(self, version: Version) -> Registered:
        """Return a copy with this version added, or replaced if its trial is registered already."""
        by_trial = {other.trial: other for other in self.versions} | {version.trial: version}
        return replace(self, versions=tuple(by_trial.values()))


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """The model that MLflow keeps for a study: its trial's number and its URI."""

    trial: int
    uri: str


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A study as the terminal and MLflow show it."""

    conclusion: str = ""  # what the study shows, as Markdown
    question: str = ""  # the study file's docstring
    task: TaskConfig | None = None
    ladder: Ladder | None = None
    space: Mapping[str, str] = field(default_factory=dict)  # in words, by parameter
    budget: Sequence[str] = ()  # the budget and how it is spent, in words
    trials: Mapping[str, int] = field(default_factory=dict)  # the number of trials, by state
    hours: float = 0.0  # the computing time of all trials
    best: TrialView | None = None  # the best trial, without its history
    champion: Version | None = None
    complete: bool = False  # whether nothing is left to do
    stopped: str = ""  # the stopping rule that ended the last search, in words


class Watcher(Protocol):
    """An observer of a search.

    Its methods are called in the driver between two steps of Ray Tune. They must be fast and must
    not raise.
    """

    def trial_started(self, spec: TrialSpec) -> None:
        """Handle the start of a trial, or its resumption."""

    def trial_reported(self, number: int, progress: Progress) -> None:
        """Handle new progress of a trial."""

    def trial_noted(self, number: int, words: str) -> None:
        """Handle a note for the user about a running trial."""

    def trial_ended(self, number: int, outcome: Outcome) -> None:
        """Handle the end of a trial."""
