"""The plan of a study: the settings of its study file that a report or a later search needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

KEYS = {"baseline": "rival", "placement": "sharing", "comparison": "contest"}
"""The stored keys of the fields that are stored under another name than their own."""

KINDS: Mapping[str, type | tuple[type, ...]] = {
    "question": str,
    "study": dict,
    "objectives": list,
    "seeds": dict,
    "searched": list,
    "file": str,
    "source": str,
    "code": dict,
    "baseline": str,
    "hours": (int, float),
    "gpu_hours": (int, float),
    "placement": dict,
    "placed": str,
    "comparison": dict,
    "datasets": dict,
    "stopped": dict,
}
"""The type of each field as it is stored."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a study. A field is None if the study doesn't store it.

    `placement`, `placed`, `comparison` and `datasets` stay when a later search stores the plan of
    its file. `stopped` doesn't: the later search judges the stopping rules again.
    """

    question: str | None = None
    study: Mapping[str, Any] | None = None  # the `Study`, as plain values
    objectives: Sequence[str] | None = None
    seeds: Mapping[str, Any] | None = None  # the `Seeds`, as plain values
    searched: Sequence[int] | None = None  # the selection lengths of the search
    file: str | None = None  # the study file; "" for a study without a file
    source: str | None = None  # the text of the file, or the source of the functions
    code: Mapping[str, str] | None = None  # the digests of the code of own parts, by kind
    baseline: str | None = None  # the baseline whose space is searched
    hours: float | None = None  # the limits of the last search
    gpu_hours: float | None = None
    placement: Mapping[str, Any] | None = None  # the reading of a probe, as plain values
    placed: str | None = None  # in words, the resources of each trial in the last search
    comparison: Mapping[str, str] | None = None  # only in a comparison: the model of each label
    datasets: Mapping[str, str] | None = None  # the SHA-256 of each data set, by name
    stopped: Mapping[str, str] | None = None  # the "label" of the rule that ended it, the "reason"

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the plan from its stored values. Raises TypeError if one has a wrong type."""
        values: dict[str, Any] = {}
        for name, kind in KINDS.items():
            key = KEYS.get(name, name)
            value = stored.get(key)
            if value is not None:
                if not isinstance(value, kind):
                    raise TypeError(f"{key} is {value!r}")
                values[name] = value
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the values to store, by key."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            KEYS.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


def planned_trials(plan: Plan, existing: int) -> int | None:
    """Return the number of ended trials at which a study is complete; None if it isn't stored.

    existing: the number of trials that the study has, including waiting ones. A comparison runs
    those.
    """
    if plan.comparison is not None:
        return existing
    trials = (plan.study or {}).get("trials")
    return trials if isinstance(trials, int) else None
