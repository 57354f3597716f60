"""What the trials of a search differ in, as it stands in their configurations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sabtune.models import SAB
from sabtune.models.sab import ALL
from sabtune.report.data import ReportData
from sabtune.schema import KIND, flatten
from sabtune.study.record import TrialRecord

Value = float | str

FIRST = ("k_top", "k_att", "k_trunc")
"""What this is all about."""

UNITS = {
    "k_top": "memories",
    "k_att": "steps",
    "k_trunc": "steps",
    "hidden": "units",
    "updates": "updates",
    "batch_size": "sequences",
    "clip_norm": "gradient norm",
    "warmup": "share of the updates",
    "decay": "share of the updates",
}

DECADES, DECADES_OF_COUNTS = 0.7, 1.6
"""Orders of magnitude that values span, from which on they are drawn on a logarithmic scale."""

FEW = 5
"""Values that are each written at an axis."""


@dataclass(frozen=True)
class Field:
    """A part of the configuration that takes several values; by trial's number."""

    name: str
    values: dict[int, Value]
    linear: bool = False  # whatever it spans

    @property
    def label(self) -> str:
        unit = UNITS.get(self.name, "")
        return f"{self.name} ({unit})" if unit else self.name

    @cached_property
    def numeric(self) -> bool:
        return all(isinstance(value, int | float) for value in self.values.values())

    @cached_property
    def distinct(self) -> list[Value]:
        """In their order."""
        return sorted(set(self.values.values()), key=None if self.numeric else str)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest, of a numeric field."""
        return float(self.distinct[0]), float(self.distinct[-1])

    @cached_property
    def whole(self) -> bool:
        """Whether it counts something."""
        return self.numeric and all(float(value).is_integer() for value in self.distinct)

    @cached_property
    def log(self) -> bool:
        """Whether a logarithmic scale shows it better."""
        if self.linear or not self.numeric or self.ends[0] <= 0:
            return False
        span = float(np.log10(self.ends[1] / self.ends[0]))
        return span > (DECADES_OF_COUNTS if self.whole else DECADES)

    @cached_property
    def ticks(self) -> list[float]:
        """Of a numeric field: each value where they are few, else round ones between its ends."""
        low, high = self.ends
        if len(self.distinct) <= FEW:
            return [float(value) for value in self.distinct]
        if self.log:
            powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))))
            found = [by * 10.0**power for power in powers for by in (1, 2, 5)]
            return [tick for tick in found if low <= tick <= high] or [low, high]
        step = 10.0 ** np.floor(np.log10((high - low) / FEW))
        step *= next(by for by in (1, 2, 5, 10) if (high - low) / (step * by) <= FEW)
        step = max(step, 1.0) if self.whole else step
        return [step * i for i in range(int(np.ceil(low / step)), int(high / step) + 1)]


def fields(data: ReportData, trials: Iterable[TrialRecord]) -> list[Field]:
    """What differs among the trials: k_top, k_att and k_trunc first, the rest in its order."""
    columns: dict[str, dict[int, Value]] = {}
    steps = data.task.steps(data.run.task.length)
    for trial in trials:
        for key, value in _flat(trial, steps).items():
            columns.setdefault(key, {})[trial.number] = value
    varying = {key: of for key, of in columns.items() if len(set(of.values())) > 1}
    found = [Field(name, varying[key]) for key, name in _names(list(varying)).items()]
    place = {name: i for i, name in enumerate(FIRST)}
    return sorted(found, key=lambda field: place.get(field.name, len(FIRST)))


def without_bound(data: ReportData, trials: Iterable[TrialRecord]) -> str:
    """A sentence on where trials stand that keep every memory, or don't truncate; or ""."""
    steps = data.task.steps(data.run.task.length)
    models = [trial.run.trial.model for trial in trials if trial.run]
    said = []
    if any(isinstance(model, SAB.Config) and model.k_top >= ALL for model in models):
        said.append("a k_top of all at the number of memories of a training sequence")
    if any(getattr(model, "k_trunc", 1) == 0 for model in models):
        said.append(f"no truncation at the {steps:,} steps of a training sequence")
    return f" {' and '.join(said).capitalize()}." if said else ""


def _flat(trial: TrialRecord, steps: int) -> dict[str, Value]:
    assert trial.run is not None
    model = trial.run.trial.model
    flat = flatten(trial.run.to_dict()["trial"])
    if isinstance(model, SAB.Config) and model.k_top >= ALL:
        flat["model.k_top"] = model.dense(steps)
    if flat.get("model.k_trunc") == 0:
        flat["model.k_trunc"] = steps
    return {
        key: value if type(value) in (int, float) else str(value) for key, value in flat.items()
    }


def _names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest names that tell the keys apart: k_top of model.k_top, schedule of its kind."""
    short = {key: key.removesuffix(f".{KIND}").rpartition(".")[2] for key in keys}
    names = list(short.values())
    return {key: name if names.count(name) == 1 else key for key, name in short.items()}
