"""Whether a study file asks what a study of the store asked, so that their scores compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import optuna

from sabtune.config import PARTS
from sabtune.errors import ConfigError, StoreError
from sabtune.schema import flatten, from_dict, to_dict
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.definition import StudyFile
from sabtune.study.objectives import directions
from sabtune.tasks import TaskConfig
from sabtune.training.evaluation import recorded_ladder, resolved

Values = Mapping[str, Any]

REMEDY = "start another study with --new, or give it another name with --study"


def with_recorded_ladder(file: StudyFile, store: Store) -> StudyFile:
    """Return the same file, its ladder with the phases and the k_top that its study in the store
    is measured with, where the file itself doesn't say."""
    name, own = file.study.name, file.study.ladder
    known = None
    if name in record.names(store):
        known = asked(record.plan(record.open_study(store, name))).get("ladder")
    if known is None:
        return file.with_ladder(k_top=resolved(own).k_top)
    phases = own.phases if file.phases_given else known.phases
    return file.with_ladder(phases=phases, k_top=own.k_top or known.k_top)


def check_same_question(file: StudyFile, store: Store) -> None:
    """Raise StoreError if the store has a study of this name whose scores mean something else.

    The task, the ladder, the objectives and the baseline stay the same: a study ranks all of its
    trials by one score. Everything else may change between two searches.
    """
    name = file.study.name
    if name not in record.names(store):
        return
    study = record.open_study(store, name)
    plan = record.plan(study)
    who = f"study {name!r} in {store.shown}"
    if record.COMPARISON in plan:
        raise StoreError(f"{who} is a comparison made by confirm or ablate: {REMEDY}")
    if not plan and _foreign(study, file):
        raise StoreError(f"{who} wasn't made by sabtune: {REMEDY}")
    try:
        changed = list(_changed(asked(plan), plan, file))
    except ConfigError as problem:
        raise StoreError(
            f"{who} can't be compared with {file.path} ({problem}): {REMEDY}"
        ) from None
    if changed:
        raise StoreError(
            f"{file.path} asks something else than {who} ({', '.join(changed)}), "
            f"so their scores can't be compared: {REMEDY}"
        )


def asked(plan: Values) -> dict[str, Any]:
    """The task and the ladder that a study was searched with; nothing where it doesn't say.

    Raises ConfigError if they can't be read.
    """
    study = plan.get("study")
    if not isinstance(study, Mapping):
        return {}
    task = study.get("task")
    if isinstance(task, Mapping):
        task = {key: value for key, value in task.items() if key != "shortest"}  # now of training
    return {
        "task": from_dict(TaskConfig, task, PARTS, "task"),  # type: ignore[type-abstract]
        "ladder": recorded_ladder(study.get("ladder"), "ladder"),
    }


def as_asked(file: StudyFile, plan: Values) -> StudyFile:
    """The same file with the task and the ladder that its study was searched with.

    Raises ConfigError if they can't be read.
    """
    return dataclasses.replace(file, study=dataclasses.replace(file.study, **asked(plan)))


def _foreign(study: optuna.Study, file: StudyFile) -> bool:
    """Whether a study without a plan holds what no search of this file has begun."""
    begun = [of for of in study.get_trials(deepcopy=False) if of.datetime_start is not None]
    return _directions(study) != directions(file.study.objectives) or any(
        record.SPEC not in trial.user_attrs for trial in begun
    )


def _directions(study: optuna.Study) -> list[str]:
    return [direction.name.lower() for direction in study.directions]


def _changed(known: Values, plan: Values, file: StudyFile) -> Iterator[str]:
    """What is other in the file, as in "task.length: 5 → 7"."""
    before: dict[str, Any] = {name: to_dict(value, PARTS) for name, value in known.items()}
    study = dataclasses.replace(file.study, ladder=resolved(file.study.ladder))
    after: dict[str, Any] = {name: to_dict(getattr(study, name), PARTS) for name in known}
    if "objectives" in plan:
        before["objectives"], after["objectives"] = plan["objectives"], list(file.study.objectives)
    if plan:
        before["baseline"], after["baseline"] = plan.get("rival"), file.baseline
    old, new = flatten(before), flatten(after)
    kind = "task.kind"
    if old.get(kind) != new.get(kind):  # all its values are other ones
        yield f"{kind}: {old[kind]} → {new[kind]}"
        old, new = (
            {key: value for key, value in of.items() if not key.startswith("task.")}
            for of in (old, new)
        )
    for key in old | new:
        if old.get(key) != new.get(key):
            yield f"{key}: {_shown(old.get(key))} → {_shown(new.get(key))}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
