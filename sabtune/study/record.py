"""Read and write the record of a search in an Optuna study.

Optuna's database is the source of truth for trials. Besides the parameters, state and values that
Optuna stores, a trial has user attributes. Only this module contains the names of these attributes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from sabtune.config import RunConfig
from sabtune.errors import StoreError
from sabtune.schema import shown
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store, recorded
from sabtune.study import optuna_storage
from sabtune.study.events import Outcome, Registered, State, Version
from sabtune.training.evaluation import LengthResult, solves
from sabtune.training.trial import Progress, TrialSpec, plain

# attributes of a trial
SPEC = "assignment"  # the trial's specification, which determines everything that it does
FIXED = "fixed"  # the run of a trial whose configuration the space doesn't choose
LABEL = "label"  # the group of an enqueued trial in a comparison
RETRY_OF = "retry_of"  # the number of the failed trial that this trial repeats
LADDER = "ladder"  # length results on the selection sequences, by which trials are ranked
TEST = "test"  # length results on the test sequences, which are reported
REASON = "reason"  # why the trial failed or was pruned
CHECKPOINT = "checkpoint"  # the last checkpoint's path in the store; in format 1, its full address
SCORES = "scores"  # by updates; only with several objectives, where Optuna stores no scores
ATTEMPTS = "attempts"  # the number of times that the trial was resumed
SECONDS = "seconds"  # computing time over all attempts
MEMORY = "memory"  # peak memory in MiB
ENVIRONMENT = "environment"  # software and hardware, see `sabtune.provenance`
RESULT = "result"  # LADDER, TEST, REASON, CHECKPOINT, SECONDS and MEMORY, in one write for speed
# attributes of a study
MODEL = "model"  # the trial number and the MLflow URI of the best trial's model
TRACKING = "tracking"  # URI of the MLflow with that model, without password; None: the store's own
VERSIONS = "versions"  # the trials with registered models, and which of them is the champion
PLAN = "plan"  # the settings of the study file that a report needs
FORMAT = "format"  # the version of this format, see `STORE_FORMAT`
# keys of the plan that a later search keeps
PLACEMENT = "sharing"  # the measurements of a probe, which decide how trials share a GPU
PLACED = "placed"  # in words, the resources of each trial in the last search
COMPARISON = "contest"  # only in a comparison: the configuration of each label
KEPT = (PLACEMENT, PLACED, COMPARISON)

STORE_FORMAT = 2
"""The version of the stored format. Increase it with every change after which older versions of
sabtune can't read a store, or would damage it."""

UNMEASURED = ("seconds", "in_phase", "worst_phase")
"""The fields of a length result that may be None."""

FRESH_SEED = 10**12
"""The first seed of a comparison on fresh seeds. The seeds of searches are far below it."""

optuna.logging.set_verbosity(optuna.logging.WARNING)  # sabtune shows the progress itself

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """The record of a trial in a study."""

    number: int
    state: TrialState
    values: list[float]  # one for each objective; empty unless the trial is complete
    params: dict[str, Any]
    spec: TrialSpec | None  # None if the trial ended before it got a specification
    scores: dict[int, float]  # by number of updates
    ladder: list[LengthResult]
    test: list[LengthResult]
    reason: str
    label: str
    retry_of: int | None
    checkpoint: Folder | None
    seconds: float  # computing time over all attempts
    memory: float  # peak memory in MiB
    started: datetime | None
    environment: dict[str, Any]
    constraints: dict[str, float]  # a value above 0 is a violation
    run_again: bool = False  # the trial failed, and another trial counts in its place

    @property
    def feasible(self) -> bool:
        """Return whether the trial violates no constraint."""
        return all(value <= 0 for value in self.constraints.values())

    @property
    def run(self) -> RunConfig | None:
        """Return the configuration of the training run; None if the trial has no specification."""
        return self.spec.run if self.spec else None

    @property
    def configuration(self) -> int:
        """Return the number of the first trial of the same configuration."""
        return self.spec.configuration if self.spec else self.number

    @property
    def value(self) -> float | None:
        """Return the score of a complete trial, and None for any other."""
        return self.values[0] if self.values else None

    @property
    def score(self) -> float:
        """Return the last score; 0 if there is none, or if the trial failed."""
        if self.values:
            return self.values[0]
        last = max(self.scores, default=None)
        return 0.0 if last is None or self.state == TrialState.FAIL else self.scores[last]

    @property
    def solved(self) -> bool:
        """Return whether the trial is complete and solves every selection length."""
        if self.spec is None or self.state != TrialState.COMPLETE:
            return False
        task = self.spec.run.task.build()
        return solves(self.ladder, self.spec.ladder.select, task)

    @classmethod
    def of(cls, trial: FrozenTrial, store: Store | None = None) -> Self:
        """Return the record of an Optuna trial.

        store: the store that holds the trial's checkpoints. Raises StoreError if the trial holds
        attributes that sabtune didn't write.
        """
        with readable(f"trial {trial.number}", store):
            return cls._from_trial(trial, store)

    @classmethod
    def _from_trial(cls, trial: FrozenTrial, store: Store | None) -> Self:
        attrs = trial.user_attrs | trial.user_attrs.get(RESULT, {})
        scores = {int(step): float(score) for step, score in attrs.get(SCORES, {}).items()}
        address = attrs.get(CHECKPOINT)
        checkpoint = None if address is None else Folder(address)
        if trial.state == TrialState.COMPLETE and SPEC not in attrs:
            raise ValueError("it has no specification, so sabtune didn't train it")
        return cls(
            number=trial.number,
            state=trial.state,
            values=list(trial.values or []) if trial.state == TrialState.COMPLETE else [],
            params=dict(trial.params),
            spec=TrialSpec.from_dict(attrs[SPEC]) if SPEC in attrs else None,
            scores=scores or dict(trial.intermediate_values),
            ladder=[_length_result(result) for result in attrs.get(LADDER, [])],
            test=[_length_result(result) for result in attrs.get(TEST, [])],
            reason=str(attrs.get(REASON, "")),
            label=str(attrs.get(LABEL, "")),
            retry_of=attrs.get(RETRY_OF),
            checkpoint=store.checkpoint(str(address)) if store and address else checkpoint,
            seconds=float(attrs.get(SECONDS, 0.0)),
            memory=float(attrs.get(MEMORY, 0.0)),
            started=trial.datetime_start,
            environment=dict(attrs.get(ENVIRONMENT, {})),
            constraints=dict(trial.constraints),
        )

    @property
    def outcome(self) -> Outcome | None:
        """Return how the trial ended; None if it hasn't ended."""
        states: dict[TrialState, State] = {
            TrialState.COMPLETE: "COMPLETE",
            TrialState.PRUNED: "PRUNED",
            TrialState.FAIL: "FAIL",
        }
        if self.state not in states:
            return None
        return Outcome(
            state=states[self.state],
            score=self.value,
            reason=self.reason,
            ladder=self.ladder,
            test=self.test,
            checkpoint=self.checkpoint,
        )


def _length_result(data: Mapping[str, Any]) -> LengthResult:
    """Return a length result from its stored dict.

    Raises TypeError if a value isn't a number. Only the UNMEASURED fields may also be None.
    """
    for key, value in data.items():
        numbers = value if key == "by_phase" else [value]
        if not all(
            isinstance(number, int | float) or (number is None and key in UNMEASURED)
            for number in numbers
        ):
            raise TypeError(f"the length result's {key} is {value!r}")
    return LengthResult.from_dict(data)


@contextmanager
def readable(subject: str, store: Store | None) -> Iterator[None]:
    """Convert errors in stored values into StoreError with a one-line message.

    subject: what is read, such as "trial 3".
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        shown = store.shown if store else "the study"
        raise StoreError(optuna_storage.unreadable_value(shown, problem, subject)) from problem


def records(study: optuna.Study) -> list[TrialRecord]:
    """Return every trial of the study that has started, in the order of their numbers.

    Failed trials that were run again are included, with `run_again` set; see `counted`. Raises
    StoreError if a trial can't be read.
    """
    repeated, store = run_again(study), _study_store(study)
    return [
        replace(TrialRecord.of(trial, store), run_again=trial.number in repeated)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING
    ]


def counted(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that enter scores, rankings and counts: all but those run again."""
    return [trial for trial in trials if not trial.run_again]


def again_words(count: int) -> str:
    """Return the end of a text that counts trials: how many were run again; "" if none were."""
    return f"; {count} failed and run again" if count else ""


def _study_store(study: optuna.Study) -> Store | None:
    """Return the store of a study; None if the study is in no store."""
    backend = getattr(study._storage, "_backend", study._storage)
    return backend.store if isinstance(backend, optuna_storage.Studies) else None


def one(study: optuna.Study, number: int) -> TrialRecord:
    """Return the trial with this number. Raises StoreError if there is none."""
    try:  # reading a single trial is faster: Optuna doesn't cache trials that haven't ended
        trial_id = _trial_id(study, number)
    except KeyError:
        last = len(study.get_trials(deepcopy=False)) - 1
        raise StoreError(
            f"study {study.study_name!r} has no trial {number}: it has 0 to {last}"
        ) from None
    return TrialRecord.of(study._storage.get_trial(trial_id), _study_store(study))


def enqueue(
    study: optuna.Study,
    run: RunConfig,
    *,
    params: Mapping[str, Any] | None = None,
    label: str = "",
    retry_of: int | None = None,
) -> None:
    """Enqueue a trial whose configuration and seed are those of `run`, not chosen by the space.

    params: the parameters to record as drawn from the space; None if the run doesn't come from the
    space. label: the trial's group in a comparison. retry_of: the number of the failed trial that
    this trial repeats.
    """
    attrs: dict[str, Any] = {FIXED: {"run": run.to_dict(), "space": params is not None}}
    attrs |= {LABEL: label} if label else {}
    attrs |= {RETRY_OF: retry_of} if retry_of is not None else {}
    study.enqueue_trial(dict(params or {}), user_attrs=attrs)


def next_number(study: optuna.Study) -> int:
    """Return the number of the next trial that the study creates."""
    return len(study.get_trials(deepcopy=False))


def begin_again(
    study: optuna.Study, earlier: int, run: RunConfig, configuration: int
) -> optuna.Trial:
    """Start a trial of `run`, recorded with the parameters of an earlier trial.

    The space isn't called. earlier: the number of the earlier trial. configuration: the number of
    the configuration that the new trial belongs to.
    """
    template = study._storage.get_trial(_trial_id(study, earlier))
    fixed = {"run": run.to_dict(), "space": False, "configuration": configuration}
    started = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=template.params,
        distributions=template.distributions,
        user_attrs={FIXED: fixed},
    )
    return optuna.Trial(study, study._storage.create_new_trial(study._study_id, started))


def waiting(study: optuna.Study) -> list[int]:
    """Return the numbers of the enqueued trials that haven't started."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial.number for trial in trials]


def begin(study: optuna.Study, number: int) -> optuna.Trial:
    """Start the waiting trial with this number.

    Optuna's `Study.ask` isn't used, because it always starts the first waiting trial.
    """
    trial_id = _trial_id(study, number)
    study._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    return optuna.Trial(study, trial_id)


def reopen(study: optuna.Study, number: int) -> optuna.Trial:
    """Open a trial that hasn't ended, to write to it."""
    return optuna.Trial(study, _trial_id(study, number))


def _trial_id(study: optuna.Study, number: int) -> int:
    """Return the ID of a trial in Optuna's storage."""
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def told(trial: optuna.Trial) -> int:
    """Return the number of updates at a trial's last stored score; 0 if it has none.

    Scores that another process stored after the trial was opened don't count.
    """
    return max(TrialRecord.of(trial._cached_frozen_trial).scores, default=0)


def report(trial: optuna.Trial, progress: Progress) -> None:
    """Store the score of a trial at the number of updates of this progress."""
    step = progress.report.step
    if len(trial.study.directions) == 1:
        trial.report(progress.score, step)
    else:
        scores = trial.user_attrs.get(SCORES, {})
        trial.set_user_attr(SCORES, scores | {str(step): progress.score})


def end(
    trial: optuna.Trial,
    outcome: Outcome,
    values: Sequence[float] | None,
    last: Progress | None,
) -> TrialRecord:
    """Store how a trial ended, and return its record.

    values: one for each objective; None unless the trial is complete. last: the last progress; None
    if the trial made none. The state is written last, so that the record of an ended trial is never
    partial.
    """
    result: dict[str, Any] = {
        LADDER: plain(outcome.ladder),
        TEST: plain(outcome.test),
        REASON: outcome.reason,
    }
    result |= {SECONDS: last.seconds, MEMORY: last.memory} if last is not None else {}
    result |= {CHECKPOINT: recorded(outcome.checkpoint)} if outcome.checkpoint is not None else {}
    trial.set_user_attr(RESULT, result)
    frozen = trial.study.tell(trial, values, state=TrialState[outcome.state])
    return TrialRecord.of(frozen, _study_store(trial.study))


def ended(study: optuna.Study) -> int:
    """Return the number of trials that have ended, without failed trials that were run again."""
    trials = study.get_trials(deepcopy=False, states=ENDED)
    repeated = run_again(study)
    return sum(trial.number not in repeated for trial in trials)


def run_again(study: optuna.Study) -> set[int]:
    """Return the numbers of failed trials that were run again, or are enqueued to be."""
    trials_attrs = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return {attrs[RETRY_OF] for attrs in trials_attrs if RETRY_OF in attrs}


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """The model that MLflow keeps for the study: its trial's number and its URI."""

    trial: int
    uri: str


def model(study: optuna.Study) -> KeptModel | None:
    """Return the model that MLflow keeps for the study, or None.

    Raises StoreError if the stored value can't be read.
    """
    stored = study.user_attrs.get(MODEL)
    with readable(f"the kept model of study {study.study_name!r}", _study_store(study)):
        return KeptModel(**stored) if stored else None


def set_model(study: optuna.Study, content: KeptModel) -> None:
    """Store which model MLflow keeps for the study."""
    study.set_user_attr(MODEL, asdict(content))


def tracking(study: optuna.Study) -> str | None:
    """Return the URI of the MLflow that has the model; None if it is the store's own."""
    return study.user_attrs.get(TRACKING)


def set_tracking(study: optuna.Study, uri: str | None) -> None:
    """Store the URI of the MLflow that has the model; None for the store's own."""
    if tracking(study) != uri:
        study.set_user_attr(TRACKING, uri)


def registered(study: optuna.Study) -> Registered:
    """Return the registered models of the study and its champion.

    Raises StoreError if the stored value can't be read.
    """
    stored = study.user_attrs.get(VERSIONS, {"versions": [], "champion": None})
    with readable(f"the champion of study {study.study_name!r}", _study_store(study)):
        versions = tuple(Version(**version) for version in stored["versions"])
        return Registered(versions=versions, champion=stored["champion"])


def set_registered(study: optuna.Study, content: Registered) -> None:
    """Store the registered models of the study and its champion."""
    if registered(study) != content:
        study.set_user_attr(VERSIONS, asdict(content))


def plan(study: optuna.Study) -> Mapping[str, Any]:
    """Return the plan of a study: the settings of its study file that a report needs."""
    content: Mapping[str, Any] = study.user_attrs.get(PLAN, {})
    return content


@contextmanager
def plan_of(study: optuna.Study) -> Iterator[Mapping[str, Any]]:
    """Yield the plan of a study. Raises StoreError if the block can't read a value of the plan."""
    with readable(f"the plan of study {study.study_name!r}", _study_store(study)):
        yield plan(study)


def set_plan(study: optuna.Study, content: Mapping[str, Any]) -> None:
    """Store the plan of a study, and the version of the format."""
    if plan(study) != content:
        study.set_user_attr(PLAN, dict(content))
    if study.user_attrs.get(FORMAT) != STORE_FORMAT:
        study.set_user_attr(FORMAT, STORE_FORMAT)


def names(store: Store) -> list[str]:
    """Return the names of the studies in a store; [] if it has no database yet."""
    if not optuna_storage.exists(store):
        return []
    return [study.study_name for study in store_of(store).get_all_studies()]


def store_of(store: Store, *, write: bool = False) -> optuna_storage.Studies:
    """Open the database of a store.

    write: whether to open the database for writing too, and to create it if it doesn't exist.

    Raises StoreError if the database can't be used, or if a newer version of sabtune or an
    incompatible version of Optuna wrote it. The message doesn't contain the password.
    """
    storage = optuna_storage.writing(store) if write else optuna_storage.reading(store)
    formats = [study.user_attrs.get(FORMAT, 0) for study in storage.get_all_studies()]
    for version in formats:
        if not isinstance(version, int):
            raise StoreError(
                f"{store.shown} is damaged (a study has format {shown(version)}): "
                "restore a backup of it, or give another --store"
            )
    latest = max(formats, default=0)
    if latest > STORE_FORMAT:
        raise StoreError(
            f"{store.shown} was written by a newer sabtune (format {latest}; this version reads "
            f"up to format {STORE_FORMAT}): update sabtune, or give another --store"
        )
    return storage


def open_study(store: Store, name: str, *, write: bool = False) -> optuna.Study:
    """Open a study of a store.

    write: whether to open the study for writing too.

    Raises StoreError if the store has no such study, or if sabtune didn't create it. If there is no
    such study, the message lists those that exist.
    """
    storage = store_of(store)
    existing = sorted(study.study_name for study in storage.get_all_studies())
    if name not in existing:
        raise StoreError(
            f"{store.shown} has no study {name!r}: {_existing_studies(name, existing)}"
        )
    study = optuna.load_study(study_name=name, storage=storage)
    refuse_others(study, store)
    if not write:
        return study
    storage.engine.dispose()
    return optuna.load_study(study_name=name, storage=store_of(store, write=True))


def is_ours(study: optuna.Study) -> bool:
    """Return whether sabtune created a study: it has a plan, or sabtune started all its trials."""
    if PLAN in study.user_attrs:
        return True
    trials = study.get_trials(deepcopy=False)
    started = [trial for trial in trials if trial.datetime_start is not None]
    return all({SPEC, FIXED} & trial.user_attrs.keys() for trial in started)


def refuse_others(study: optuna.Study, store: Store) -> None:
    """Raise StoreError if sabtune didn't create a study, or if its plan is damaged."""
    if not is_ours(study):
        raise StoreError(
            f"study {study.study_name!r} in {store.shown} wasn't made by sabtune: "
            "give the name of another study"
        )
    with readable(f"the plan of study {study.study_name!r}", store):
        content = dict(study.user_attrs.get(PLAN, {}))
        for key, kind in PLANNED.items():
            if key in content and not isinstance(content[key], kind):
                raise TypeError(f"{key} is {content[key]!r}")


PLANNED = {
    "question": str,
    "study": dict,
    "objectives": list,
    "seeds": dict,
    "searched": list,
    "file": str,
    "source": str,
    COMPARISON: dict,
}
"""The types of values in a plan, by key."""


MAX_SHOWN_STUDIES = 20
"""The maximum number of studies that a message lists."""


def _existing_studies(name: str, existing: Sequence[str]) -> str:
    """Return the end of a message: the studies that exist, and the one with the closest name."""
    if not existing:
        return "it has no studies yet; run `sabtune search` first"
    near = difflib.get_close_matches(name, existing, n=1)
    hidden = len(existing) - MAX_SHOWN_STUDIES
    others = f", and {hidden} more" if hidden > 0 else ""
    words = f"it has {', '.join(existing[:MAX_SHOWN_STUDIES])}{others}"
    return f"did you mean {near[0]!r}? {words}" if near else words
