"""The fields of the configuration that differ between the trials of a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sabtune.models import SAB
from sabtune.models.sab import ALL
from sabtune.reporting.data import ReportData
from sabtune.schema import KIND, flatten
from sabtune.study.trial_record import TrialRecord

Value = float | str

LEADING_FIELDS = ("k_top", "k_att", "k_trunc")
"""Fields that come first in figures."""

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

MIN_DECADES, MIN_DECADES_OF_COUNTS = 0.7, 1.6
"""Orders of magnitude above which fractional and whole numbers get a logarithmic scale."""

MAX_TICKS = 5
"""Maximum number of distinct values up to which each value gets a tick."""


@dataclass(frozen=True)
class Field:
    """A field of the configuration, with its value in each trial by the number of the trial."""

    name: str
    values: dict[int, Value]
    linear: bool = False  # whether the scale is linear, whatever the values span

    @property
    def label(self) -> str:
        """The name, with its unit."""
        unit = UNITS.get(self.name, "")
        return f"{self.name} ({unit})" if unit else self.name

    @cached_property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, int | float) for value in self.values.values())

    @cached_property
    def distinct(self) -> list[Value]:
        """The different values, sorted."""
        return sorted(set(self.values.values()), key=None if self.numeric else str)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value of a numeric field."""
        return float(self.distinct[0]), float(self.distinct[-1])

    @cached_property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self.numeric and all(float(value).is_integer() for value in self.distinct)

    @cached_property
    def log(self) -> bool:
        """Whether the field gets a logarithmic scale."""
        if self.linear or not self.numeric or self.ends[0] <= 0:
            return False
        span = float(np.log10(self.ends[1] / self.ends[0]))
        return span > (MIN_DECADES_OF_COUNTS if self.whole else MIN_DECADES)

    @cached_property
    def ticks(self) -> list[float]:
        """The ticks of a numeric field: all values if there are few, or else round numbers."""
        low, high = self.ends
        if len(self.distinct) <= MAX_TICKS:
            return [float(value) for value in self.distinct]
        if self.log:
            powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))))
            candidates = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
            return [tick for tick in candidates if low <= tick <= high] or [low, high]
        step = 10.0 ** np.floor(np.log10((high - low) / MAX_TICKS))
        step *= next(
            factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= MAX_TICKS
        )
        step = max(step, 1.0) if self.whole else step
        return [step * i for i in range(int(np.ceil(low / step)), int(high / step) + 1)]


def fields(data: ReportData, trials: Iterable[TrialRecord]) -> list[Field]:
    """Return the fields that differ between the trials: `LEADING_FIELDS`, then the others."""
    columns: dict[str, dict[int, Value]] = {}
    steps = data.task.steps(data.run.task.length)
    for trial in trials:
        for key, value in _flat(trial, steps).items():
            columns.setdefault(key, {})[trial.number] = value
    varying = {key: values for key, values in columns.items() if len(set(values.values())) > 1}
    varying_fields = [Field(name, varying[key]) for key, name in _names(list(varying)).items()]
    place = {name: i for i, name in enumerate(LEADING_FIELDS)}
    return sorted(varying_fields, key=lambda field: place.get(field.name, len(LEADING_FIELDS)))


def without_bound(data: ReportData, trials: Iterable[TrialRecord]) -> str:
    """Return a sentence on where an unlimited k_top and k_trunc are drawn; "" if there are none."""
    steps = data.task.steps(data.run.task.length)
    models = [trial.run.model for trial in trials if trial.run]
    clauses = []
    if any(isinstance(model, SAB.Config) and model.k_top >= ALL for model in models):
        clauses.append("a k_top of all is drawn at the number of memories of a training sequence")
    if any(getattr(model, "k_trunc", 1) == 0 for model in models):
        clauses.append(f"no truncation is drawn at the {steps:,} steps of a training sequence")
    return f" {' and '.join(clauses).capitalize()}." if clauses else ""


def _flat(trial: TrialRecord, steps: int) -> dict[str, Value]:
    """Return the flat configuration of a trial, with numbers for unlimited k_top and k_trunc."""
    assert trial.run is not None
    model = trial.run.model
    flat = flatten(trial.run.to_dict()["trial"])
    if isinstance(model, SAB.Config) and model.k_top >= ALL:
        flat["model.k_top"] = model.dense(steps)
    if flat.get("model.k_trunc") == 0:
        flat["model.k_trunc"] = steps
    return {
        key: value if type(value) in (int, float) else str(value) for key, value in flat.items()
    }


def _names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest unambiguous name of each key, as in "k_top" for "model.k_top"."""
    short = {key: key.removesuffix(f".{KIND}").rpartition(".")[2] for key in keys}
    names = list(short.values())
    return {key: name if names.count(name) == 1 else key for key, name in short.items()}
