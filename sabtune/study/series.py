"""The studies of one search: that of a study file, or those of all of its baselines.

Importing this module takes no time, so that the command line can offer `ALL_BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from sabtune.storage.store import Store
    from sabtune.study.study_file import StudyFile

ALL_BASELINES: Literal["all"] = "all"
"""What stands for every baseline of a study. No baseline has this name."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The studies of one search, in the order in which they are searched.

    files: the studies, at least one. name: the name of the study; with all baselines, each study
    has the name NAME.BASELINE. own_name: that name in the file. baseline: the baseline that was
    asked for, `ALL_BASELINES`, or None.
    """

    files: Sequence[StudyFile]
    name: str
    own_name: str
    baseline: str | None

    @classmethod
    def of(cls, files: Sequence[StudyFile], baseline: str | None) -> Self:
        """Return the series of loaded studies."""
        name = files[0].study.name
        if baseline == ALL_BASELINES:
            name = name.removesuffix(f".{files[0].baseline}")
        return cls(files=files, name=name, own_name=name, baseline=baseline)

    @property
    def is_renamed(self) -> bool:
        """Whether the name is another than in the file."""
        return self.name != self.own_name

    @property
    def baselines(self) -> list[str]:
        """The names of all baselines; [] unless all are searched."""
        return [file.baseline or "" for file in self.files if self.baseline == ALL_BASELINES]

    @property
    def job_name(self) -> str:
        """The name under which a cluster lists the search: NAME.all with all baselines."""
        return f"{self.name}.{ALL_BASELINES}" if self.baselines else self.name

    def renamed(self, name: str) -> Self:
        """Return the studies under another name. Raises ConfigError if it is invalid."""
        self.files[0].renamed(name)  # before it has a baseline's
        names = [f"{name}.{baseline}" for baseline in self.baselines] or [name]
        files = [file.renamed(own) for file, own in zip(self.files, names, strict=True)]
        return replace(self, files=files, name=name)

    def with_free_name(self, store: Store) -> Self:
        """Return the studies under names that no study in the store has."""
        from sabtune.study import names  # imports Optuna, which takes a second

        if self.baselines:
            return self.renamed(names.free_base(self.name, self.baselines, store))
        return self.renamed(names.free_name(self.name, store))

    def changed(self, change: Callable[[StudyFile], StudyFile]) -> Self:
        """Return the series with a change of each study."""
        return replace(self, files=[change(file) for file in self.files])
