"""Check that a study file asks the same question as a stored study.

Only then are the scores of their trials comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import optuna

from sabtune.config import PARTS
from sabtune.errors import ConfigError, StoreError
from sabtune.parts import local
from sabtune.parts.bundle import changes
from sabtune.schema import CODE, flatten, from_dict, to_dict
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.objectives import directions
from sabtune.study.study_file import StudyFile
from sabtune.tasks import TaskConfig
from sabtune.training.evaluation import recorded_ladder, resolved

Values = Mapping[str, Any]

OWN_CODE = "code"
"""The key of a plan that holds the digests of the code of own parts, by kind."""

REMEDY = "start another study with --new, or give it another name with --study"


def with_recorded_ladder(file: StudyFile, store: Store) -> StudyFile:
    """Return this file with the ladder's phases and k_top from the stored study of its name.

    Values that the file itself sets are kept. Without a stored study, only k_top gets its default.
    Raises StoreError if the stored study can't be read.
    """
    name, ladder = file.study.name, file.study.ladder
    stored = None
    if name in record.names(store):
        stored = asked(record.plan(record.open_study(store, name))).get("ladder")
    if stored is None:
        return file.with_ladder(k_top=resolved(ladder).k_top)
    phases = ladder.phases if file.phases_given else stored.phases
    return file.with_ladder(phases=phases, k_top=ladder.k_top or stored.k_top)


def check_same_question(
    file: StudyFile, store: Store, *, accept_changed_code: bool = False
) -> None:
    """Raise StoreError if scores of the file can't be compared with those of the stored study.

    A study ranks all of its trials by one score. Therefore its task, ladder, objectives and
    baseline must not change, and neither must the code of own tasks, models and schedules.
    Everything else may change between two searches.

    accept_changed_code: whether the code may change.
    """
    name = file.study.name
    if name not in record.names(store):
        return
    study = record.open_study(store, name)
    plan = record.plan(study)
    stored = f"study {name!r} in {store.shown}"
    if record.COMPARISON in plan:
        raise StoreError(f"{stored} is a comparison made by confirm or ablate: {REMEDY}")
    if not plan and _foreign(study, file):
        raise StoreError(f"{stored} wasn't made by sabtune: {REMEDY}")
    try:
        changes = list(_changes(asked(plan), plan, file))
    except ConfigError as problem:
        raise StoreError(
            f"{stored} can't be compared with {file.path} ({problem}): {REMEDY}"
        ) from None
    if changes:
        raise StoreError(
            f"{file.path} asks another question than {stored} ({', '.join(changes)}), "
            f"so their scores can't be compared: {REMEDY}"
        )
    if not accept_changed_code:
        _check_code(file, plan.get(OWN_CODE, {}), stored)


def _check_code(file: StudyFile, before: Mapping[str, str], stored: str) -> None:
    """Raise StoreError if the code of an own part has changed.

    before: the digests of the stored study's own parts, by kind. stored: the study in the message.
    """
    now = file.own_code()
    for kind in before.keys() & now.keys():
        if before[kind] != now[kind]:
            files = changes(*(local.find_bundle(codes[kind]) for codes in (before, now)))
            raise StoreError(
                f"the code of {kind} has changed since the last search of {stored} "
                f"({', '.join(files)}): put it back, search with --accept-changed-code, or "
                f"{REMEDY}"
            )


def asked(plan: Values) -> dict[str, Any]:
    """Return the task and the ladder of a plan, by name; {} if the plan has no STUDY.

    Raises ConfigError if they can't be read.
    """
    study = plan.get("study")
    if not isinstance(study, Mapping):
        return {}
    task = study.get("task")
    if isinstance(task, Mapping):  # in version 0.1, "shortest" was a setting of the task
        task = {key: value for key, value in task.items() if key != "shortest"}
    return {
        "task": from_dict(TaskConfig, task, PARTS, "task"),  # type: ignore[type-abstract]
        "ladder": recorded_ladder(study.get("ladder"), "ladder"),
    }


def as_asked(file: StudyFile, plan: Values) -> StudyFile:
    """Return this file with the task and the ladder of a stored plan.

    Raises ConfigError if they can't be read.
    """
    return dataclasses.replace(file, study=dataclasses.replace(file.study, **asked(plan)))


def _foreign(study: optuna.Study, file: StudyFile) -> bool:
    """Return whether a study without a plan can't come from a search of this file."""
    trials = study.get_trials(deepcopy=False)
    started = [trial for trial in trials if trial.datetime_start is not None]
    return _directions(study) != directions(file.study.objectives) or any(
        record.SPEC not in trial.user_attrs for trial in started
    )


def _directions(study: optuna.Study) -> list[str]:
    return [direction.name.lower() for direction in study.directions]


def _changes(stored: Values, plan: Values, file: StudyFile) -> Iterator[str]:
    """Yield the differences between a stored study and a file, such as "task.length: 5 → 7"."""
    before: dict[str, Any] = {name: to_dict(value, PARTS) for name, value in stored.items()}
    study = dataclasses.replace(file.study, ladder=resolved(file.study.ladder))
    after: dict[str, Any] = {name: to_dict(getattr(study, name), PARTS) for name in stored}
    if "objectives" in plan:
        before["objectives"], after["objectives"] = plan["objectives"], list(file.study.objectives)
    if plan:
        before["baseline"], after["baseline"] = plan.get("rival"), file.baseline
    for values in (before, after):  # `_check_code` compares the code
        values.get("task", {}).pop(CODE, None)
    old, new = flatten(before), flatten(after)
    kind = "task.kind"
    if old.get(kind) != new.get(kind):  # the settings of different tasks aren't comparable
        yield f"{kind}: {old[kind]} → {new[kind]}"
        old, new = (
            {key: value for key, value in values.items() if not key.startswith("task.")}
            for values in (old, new)
        )
    for key in old | new:
        if old.get(key) != new.get(key):
            yield f"{key}: {_to_text(old.get(key))} → {_to_text(new.get(key))}"


def _to_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
