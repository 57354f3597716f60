"""Check that a study file asks the same question as a stored study.

Only then are the scores of their trials comparable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from sabtune.config import PARTS, has_former_shortest
from sabtune.data.digests import differences, shown
from sabtune.errors import ConfigError, StoreError
from sabtune.parts import local
from sabtune.parts.bundle import changes
from sabtune.schema import CODE, flatten, from_dict, to_dict
from sabtune.study.attributes import SPEC
from sabtune.study.objectives import directions
from sabtune.study.plan import Plan
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import StudyFile
from sabtune.tasks import TaskConfig
from sabtune.training.evaluation import recorded_ladder, resolved

Values = Mapping[str, Any]

REMEDY = "start another study with --new, or give it another name with --study"


def with_recorded_ladder(file: StudyFile, stored: StudyRecord | None) -> StudyFile:
    """Return this file with the ladder's phases and k_top from the stored study of its name.

    Values that the file itself sets are kept. stored: the stored study; None if there is none, then
    only k_top gets its default.
    """
    ladder = file.study.ladder
    recorded = None if stored is None else asked(stored.plan).get("ladder")
    if recorded is None:
        return file.with_ladder(k_top=resolved(ladder).k_top)
    phases = ladder.phases if file.phases_given else recorded.phases
    return file.with_ladder(phases=phases, k_top=ladder.k_top or recorded.k_top)


def check_same_question(
    file: StudyFile, stored: StudyRecord, *, accept_changed_code: bool = False
) -> None:
    """Raise StoreError if scores of the file can't be compared with those of the stored study.

    A study ranks all of its trials by one score. Therefore its task, data, ladder, objectives and
    baseline must not change, and neither must the code of own tasks, models and schedules.
    Everything else may change between two searches. Raises DataError if the task's data is missing
    or damaged.

    accept_changed_code: whether the code may change.
    """
    plan = stored.plan
    study = f"study {stored.name!r} in {stored.store.shown}"
    if stored.is_comparison:
        raise StoreError(f"{study} is a comparison made by confirm or ablate: {REMEDY}")
    if plan == Plan() and _foreign(stored, file):
        raise StoreError(f"{study} wasn't made by sabtune: {REMEDY}")
    try:
        changes = list(_changes(asked(plan), plan, file))
    except ConfigError as problem:
        raise StoreError(
            f"{study} can't be compared with {file.path} ({problem}): {REMEDY}"
        ) from None
    if changes:
        raise StoreError(
            f"{file.path} asks another question than {study} ({', '.join(changes)}), "
            f"so their scores can't be compared: {REMEDY}"
        )
    if not accept_changed_code:
        _check_code(file, plan.code or {}, study)
    check_same_data(stored, file.study.task)


def check_same_data(stored: StudyRecord, task: TaskConfig) -> None:
    """Raise StoreError if the task reads other data than when the study was last searched.

    A study of a version that recorded no digests is not checked. Raises DataError if the task's
    data is missing or damaged.
    """
    recorded = stored.plan.datasets
    for name, before, now in differences(recorded, task.build().datasets()) if recorded else ():
        here = f"here it has {shown(now)}" if now else "there is none here"
        raise StoreError(
            f"study {stored.name!r} in {stored.store.shown} was searched on data set {name} with "
            f"SHA-256 {shown(before)}, but {here}: restore that data, or {REMEDY}"
        )


def _check_code(file: StudyFile, before: Mapping[str, str], study: str) -> None:
    """Raise StoreError if the code of an own part has changed.

    before: the digests of the stored study's own parts, by kind. study: the stored study in the
    message.
    """
    now = file.own_code
    for kind in before.keys() & now.keys():
        if before[kind] != now[kind]:
            files = changes(*(local.find_bundle(codes[kind]) for codes in (before, now)))
            raise StoreError(
                f"the code of {kind} has changed since the last search of {study} "
                f"({', '.join(files)}): put it back, search with --accept-changed-code, or "
                f"{REMEDY}"
            )


def asked(plan: Plan) -> dict[str, Any]:
    """Return the task and the ladder of a plan, by name; {} if the plan has no STUDY.

    Raises ConfigError if they can't be read.
    """
    if plan.study is None:
        return {}
    task = plan.study.get("task")
    if isinstance(task, Mapping) and has_former_shortest(task):
        task = {key: value for key, value in task.items() if key != "shortest"}
    return {
        "task": from_dict(TaskConfig, task, PARTS, "task"),  # type: ignore[type-abstract]
        "ladder": recorded_ladder(plan.study.get("ladder"), "ladder"),
    }


def as_asked(file: StudyFile, plan: Plan) -> StudyFile:
    """Return this file with the task and the ladder of a stored plan.

    Raises ConfigError if they can't be read.
    """
    return dataclasses.replace(file, study=dataclasses.replace(file.study, **asked(plan)))


def _foreign(stored: StudyRecord, file: StudyFile) -> bool:
    """Return whether a study without a plan can't come from a search of this file."""
    started = (trial for trial in stored.frozen if trial.datetime_start is not None)
    return stored.directions != directions(file.study.objectives) or any(
        SPEC not in trial.user_attrs for trial in started
    )


def _changes(stored: Values, plan: Plan, file: StudyFile) -> Iterator[str]:
    """Yield the differences between a stored study and a file, such as "task.length: 5 → 7"."""
    before: dict[str, Any] = {name: to_dict(value, PARTS) for name, value in stored.items()}
    study = dataclasses.replace(file.study, ladder=resolved(file.study.ladder))
    after: dict[str, Any] = {name: to_dict(getattr(study, name), PARTS) for name in stored}
    if plan.objectives is not None:
        before["objectives"] = list(plan.objectives)
        after["objectives"] = list(file.study.objectives)
    if plan != Plan():
        before["baseline"], after["baseline"] = plan.baseline, file.baseline
    for values in (before, after):  # `_check_code` compares the code
        values.get("task", {}).pop(CODE, None)
    tasks = [values.get("task", {}) for values in (before, after)]
    if plan.datasets and all(task.get("content") for task in tasks):
        for task in tasks:  # `check_same_data` compares the user's data
            task |= dict.fromkeys(["content", *study.task.data_paths])
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
