"""Reproductions: a trial trained again from its record and compared with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from optuna.trial import TrialState

from sabtune.errors import StoreError
from sabtune.parts.bundle import changes
from sabtune.parts.importing import bundle_of
from sabtune.parts.local import find_bundle
from sabtune.provenance import hardware, software
from sabtune.study.trial_record import TrialRecord
from sabtune.training.evaluation import LengthResult
from sabtune.training.trial import Progress, TrialRun, changed_datasets
from sabtune.wording import counted


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The result of training a trial again.

    metrics: The number of compared metrics.

    differences: The name, recorded value and new value of each metric that differs.

    environment: The name, recorded value and present value of each data set, by its SHA-256, and
    each software or hardware property that differs.

    code: The files that differ between the trial's code, which was run again, and the present code.
    """

    metrics: int
    differences: list[tuple[str, object, object]]
    environment: list[tuple[str, object, object]]
    code: list[str] = field(default_factory=list)


def reproduce(trial: TrialRecord, study_file: str = "") -> Reproduction:
    """Train a trial again in this process on the CPU, up to its last score, and compare metrics.

    The trial's own parts are those that it was trained with, even if their code has changed since.

    study_file: The path of the study file; "" if the study has none.

    Raises StoreError if the trial has no score, and DataError if the task's data is missing.
    """
    if trial.spec is None or not trial.scores:
        raise StoreError(
            f"trial {trial.number} ended before its first report ({trial.reason}): "
            "there is nothing to compare"
        )
    data = [(f"data set {name}", was, now) for name, was, now in changed_datasets(trial.spec)]
    torch.set_num_threads(trial.spec.threads)
    scores, last = _run(trial)
    repeated = {f"score at {counted(step, 'update')}": score for step, score in scores.items()}
    recorded = {
        f"score at {counted(step, 'update')}": score for step, score in trial.scores.items()
    }
    for name in ("ladder", "test"):
        recorded |= _flat(name, getattr(trial, name))
        repeated |= _flat(name, getattr(last, name))
    return Reproduction(
        metrics=len(recorded),
        differences=list(_differing(recorded, repeated)),
        environment=[
            *data,
            *_differing(_recorded_environment(trial), software() | hardware()),
        ],
        code=_changed_code(trial, Path(study_file)),
    )


def _changed_code(trial: TrialRecord, study_file: Path) -> list[str]:
    """Return the files that differ between the code of a trial and that of its study file."""
    digest = trial.environment.get("code")
    if digest is None or not study_file.is_file():
        return []
    return changes(find_bundle(digest), bundle_of(study_file, whole=True))


def _run(trial: TrialRecord) -> tuple[dict[int, float], Progress]:
    assert trial.spec is not None
    until = max(trial.scores)
    scores: dict[int, float] = {}
    trial.spec.run.activate()
    for progress in TrialRun(trial.spec):
        scores[progress.report.step] = progress.score
        if progress.report.step >= until and trial.state != TrialState.COMPLETE:
            break
    return scores, progress


def _flat(name: str, results: Sequence[LengthResult]) -> dict[str, float]:
    return {
        f"{name} {key} at length {result.length}": value
        for result in results
        for key, value in asdict(result).items()
        if key in ("accuracy", "loss")
    }


def _recorded_environment(trial: TrialRecord) -> dict[str, object]:
    flat = dict(trial.environment) | dict(trial.environment.get("hardware", {}))
    return {
        key: value
        for key, value in flat.items()
        if key not in ("hardware", "study", "host", "code")
    }


def _differing(
    recorded: dict[str, object] | dict[str, float], present: dict[str, object] | dict[str, float]
) -> Iterator[tuple[str, object, object]]:
    for key, value in recorded.items():
        if key not in present or present[key] != value:
            yield key, value, present.get(key)
