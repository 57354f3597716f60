"""What the trials of a search differ in, as it stands in their configurations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sabtune.models import SAB
from sabtune.models.sab import ALL
from sabtune.report.material import Material
from sabtune.schema import KIND, flatten
from sabtune.search.record import TrialRecord

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
    "warmup": "share of the updates",
    "decay": "share of the updates",
}

DECADES, DECADES_OF_COUNTS = 0.7, 1.6
"""Orders of magnitude that values span, from which on they are drawn on a logarithmic scale."""


@dataclass(frozen=True)
class Field:
    """A part of the configuration that takes several values; by trial's number."""

    name: str
    values: dict[int, Value]

    @property
    def label(self) -> str:
        unit = UNITS.get(self.name, "")
        return f"{self.name} ({unit})" if unit else self.name

    @property
    def numeric(self) -> bool:
        return all(isinstance(value, int | float) for value in self.values.values())

    @property
    def numbers(self) -> list[float]:
        """Every value, of a numeric field."""
        return [float(value) for value in self.values.values()]

    @property
    def distinct(self) -> list[Value]:
        """In their order; words as they come first."""
        found = dict.fromkeys(self.values.values())
        return sorted(found) if self.numeric else sorted(found, key=str)  # type: ignore[type-var]

    @property
    def log(self) -> bool:
        """Whether a logarithmic scale shows it better."""
        if not self.numeric or min(self.numbers) <= 0:
            return False
        whole = all(number.is_integer() for number in self.numbers)
        span = float(np.log10(max(self.numbers) / min(self.numbers)))
        return span > (DECADES_OF_COUNTS if whole else DECADES)


def fields(material: Material, trials: Iterable[TrialRecord]) -> list[Field]:
    """What differs among the trials: k_top, k_att and k_trunc first, the rest in its order."""
    columns: dict[str, dict[int, Value]] = {}
    steps = material.task.steps(material.run.task.length)
    for trial in trials:
        for key, value in _flat(trial, steps).items():
            columns.setdefault(key, {})[trial.number] = value
    varying = {key: of for key, of in columns.items() if len(set(of.values())) > 1}
    found = [Field(name, varying[key]) for key, name in _names(list(varying)).items()]
    place = {name: i for i, name in enumerate(FIRST)}
    return sorted(found, key=lambda field: place.get(field.name, len(FIRST)))


def without_bound(material: Material, trials: Iterable[TrialRecord]) -> str:
    """A sentence on where trials stand that keep every memory, or don't truncate; or ""."""
    steps = material.task.steps(material.run.task.length)
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
    if isinstance(model, SAB.Config):
        flat["model.k_top"] = min(model.k_top, model.dense(steps))
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
