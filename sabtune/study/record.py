"""What the Optuna study holds of a search, written and read in this one place.

Optuna's database owns the trials. Beside parameters, state and values, which are Optuna's own, a
trial carries user attributes; nothing else in sabtune spells their names.
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

# of a trial
SPEC = "assignment"  # all that decides what it does
FIXED = "fixed"  # the run to make, whatever the space says
LABEL = "label"  # of an enqueued one: whom it stands for in a comparison
RETRY_OF = "retry_of"  # the number of the failed trial that this one runs again
LADDER = "ladder"  # rungs on the selection sequences: they chose
TEST = "test"  # rungs on the test sequences: they are reported
REASON = "reason"  # why it failed or was pruned
CHECKPOINT = "checkpoint"  # where its last one is in the store; of format 1, a whole address
SCORES = "scores"  # by updates, where Optuna takes no intermediate values: several objectives
ATTEMPTS = "attempts"  # how often it was taken up again
SECONDS = "seconds"  # that it computed for, over all attempts
MEMORY = "memory"  # MiB, the most it held
ENVIRONMENT = "environment"  # what it ran on: see `sabtune.provenance`
RESULT = "result"  # LADDER, TEST, REASON, CHECKPOINT, SECONDS and MEMORY: one write, for speed
# of the study
MODEL = "model"  # the best trial's model in MLflow: its number and its URI
TRACKING = "tracking"  # the MLflow that has it, where that isn't the store's own; no password
VERSIONS = "versions"  # the trials whose models are registered, and which is the champion
PLAN = "plan"  # what the study file says that a report must know
FORMAT = "format"  # which version of all this, see `STORE_FORMAT`
# of the plan, written by a search and kept by the next
PLACEMENT = "sharing"  # what a probe read of a GPU, by which trials share one
PLACED = "placed"  # in words, what each trial of the last search was given
COMPARISON = "contest"  # of a contest alone: what its labels stand for
KEPT = (PLACEMENT, PLACED, COMPARISON)

STORE_FORMAT = 2
"""Raised when an older sabtune could no longer read, or would spoil, what this one writes."""

UNMEASURED = ("seconds", "in_phase", "worst_phase")
"""What a rung may lack."""

FRESH_SEED = 10**12
"""The first seed of a comparison on fresh seeds; a search's seeds lie far below."""

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what goes on is for sabtune to say

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial as the study knows it."""

    number: int
    state: TrialState
    values: list[float]  # one for each objective; empty unless it is complete
    params: dict[str, Any]
    spec: TrialSpec | None  # None if it ended before it had one
    scores: dict[int, float]  # by updates
    ladder: list[LengthResult]
    test: list[LengthResult]
    reason: str
    label: str
    retry_of: int | None
    checkpoint: Folder | None
    seconds: float
    memory: float
    started: datetime | None
    environment: dict[str, Any]
    constraints: dict[str, float]  # above 0 where one is broken
    run_again: bool = False  # it failed, and another trial counts in its place

    @property
    def feasible(self) -> bool:
        """Whether it breaks no constraint."""
        return all(value <= 0 for value in self.constraints.values())

    @property
    def run(self) -> RunConfig | None:
        """What was trained."""
        return self.spec.run if self.spec else None

    @property
    def configuration(self) -> int:
        """The number of the first trial of the same configuration."""
        return self.spec.configuration if self.spec else self.number

    @property
    def value(self) -> float | None:
        """The score of a complete trial."""
        return self.values[0] if self.values else None

    @property
    def score(self) -> float:
        """The last score there is; 0 where there is none, as for a failed trial."""
        if self.values:
            return self.values[0]
        last = max(self.scores, default=None)
        return 0.0 if last is None or self.state == TrialState.FAIL else self.scores[last]

    @property
    def solved(self) -> bool:
        """Whether it was trained to the end and solves every length that chose."""
        if self.spec is None or self.state != TrialState.COMPLETE:
            return False
        task = self.spec.run.task.build()
        return solves(self.ladder, self.spec.ladder.select, task)

    @classmethod
    def of(cls, trial: FrozenTrial, store: Store | None = None) -> Self:
        """The record of an Optuna trial; store: whose files are its. Raises StoreError if the trial
        holds what sabtune didn't write."""
        with readable(f"trial {trial.number}", store):
            return cls._of(trial, store)

    @classmethod
    def _of(cls, trial: FrozenTrial, store: Store | None) -> Self:
        attrs = trial.user_attrs | trial.user_attrs.get(RESULT, {})
        scores = {int(step): float(score) for step, score in attrs.get(SCORES, {}).items()}
        kept = attrs.get(CHECKPOINT)
        checkpoint = None if kept is None else Folder(kept)
        if trial.state == TrialState.COMPLETE and SPEC not in attrs:
            raise ValueError("it says nothing of what was trained, so sabtune didn't train it")
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
            checkpoint=store.checkpoint(str(kept)) if store and kept else checkpoint,
            seconds=float(attrs.get(SECONDS, 0.0)),
            memory=float(attrs.get(MEMORY, 0.0)),
            started=trial.datetime_start,
            environment=dict(attrs.get(ENVIRONMENT, {})),
            constraints=dict(trial.constraints),
        )

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None if it hasn't."""
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
    """A rung as `plain` wrote it. Raises TypeError if it holds anything but numbers."""
    for key, value in data.items():
        numbers = value if key == "by_phase" else [value]
        if not all(
            isinstance(of, int | float) or (of is None and key in UNMEASURED) for of in numbers
        ):
            raise TypeError(f"the rung's {key} is {value!r}")
    return LengthResult.from_dict(data)


@contextmanager
def readable(what: str, store: Store | None) -> Iterator[None]:
    """Raises StoreError, in one line, where what a database holds can't be read."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        shown = store.shown if store else "the study"
        raise StoreError(optuna_storage.unreadable_value(shown, problem, what)) from problem


def records(study: optuna.Study) -> list[TrialRecord]:
    """Every trial of the study that has begun, by number; those with `run_again` count nowhere."""
    again, store = run_again(study), _store(study)
    return [
        replace(TrialRecord.of(trial, store), run_again=trial.number in again)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING
    ]


def counted(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that scores, rankings and counts are made of: without those run again."""
    return [trial for trial in trials if not trial.run_again]


def again_words(count: int) -> str:
    """What to add to the counts of trials where some were run again."""
    return f"; {count} failed and run again" if count else ""


def _store(study: optuna.Study) -> Store | None:
    """The store that a study was opened in; None of one that isn't in a store."""
    backend = getattr(study._storage, "_backend", study._storage)
    return backend.store if isinstance(backend, optuna_storage.Studies) else None


def one(study: optuna.Study, number: int) -> TrialRecord:
    """One trial. Raises StoreError if there is none of that number."""
    try:  # not of all trials: those that haven't ended are read from the database each time
        known = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    except KeyError:
        last = len(study.get_trials(deepcopy=False)) - 1
        raise StoreError(
            f"study {study.study_name!r} has no trial {number}: it has 0 to {last}"
        ) from None
    return TrialRecord.of(study._storage.get_trial(known), _store(study))


def enqueue(
    study: optuna.Study,
    run: RunConfig,
    *,
    params: Mapping[str, Any] | None = None,
    label: str = "",
    retry_of: int | None = None,
) -> None:
    """Has `run` made as a trial of its own, whatever the space says.

    params: what the space is to have drawn for it; None where no space has to do with it.
    """
    attrs: dict[str, Any] = {FIXED: {"run": run.to_dict(), "space": params is not None}}
    attrs |= {LABEL: label} if label else {}
    attrs |= {RETRY_OF: retry_of} if retry_of is not None else {}
    study.enqueue_trial(dict(params or {}), user_attrs=attrs)


def next_number(study: optuna.Study) -> int:
    """The number that the next trial gets."""
    return len(study.get_trials(deepcopy=False))


def begin_again(
    study: optuna.Study, earlier: int, run: RunConfig, configuration: int
) -> optuna.Trial:
    """Begins a trial that makes `run` with the parameters of an earlier one; the space isn't asked.

    configuration: the number of the one that it counts for.
    """
    known = study._storage.get_trial(_id(study, earlier))
    fixed = {"run": run.to_dict(), "space": False, "configuration": configuration}
    begun = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=known.params,
        distributions=known.distributions,
        user_attrs={FIXED: fixed},
    )
    return optuna.Trial(study, study._storage.create_new_trial(study._study_id, begun))


def waiting(study: optuna.Study) -> list[int]:
    """The numbers of the trials that were enqueued and have not begun."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial.number for trial in trials]


def begin(study: optuna.Study, number: int) -> optuna.Trial:
    """Has a trial that waits run, whichever came before it: `Study.ask` takes the first."""
    known = _id(study, number)
    study._storage.set_trial_state_values(known, TrialState.RUNNING)
    return optuna.Trial(study, known)


def reopen(study: optuna.Study, number: int) -> optuna.Trial:
    """A trial that hasn't ended, to write to."""
    return optuna.Trial(study, _id(study, number))


def _id(study: optuna.Study, number: int) -> int:
    """The storage's own number of a trial."""
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)


def told(trial: optuna.Trial) -> int:
    """The updates of the last report that the study had of a trial when it was opened."""
    return max(TrialRecord.of(trial._cached_frozen_trial).scores, default=0)


def report(trial: optuna.Trial, progress: Progress) -> None:
    """Writes one report's score."""
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
    """Writes how a trial ended; the state last, so that a record with a state is whole."""
    result: dict[str, Any] = {
        LADDER: plain(outcome.ladder),
        TEST: plain(outcome.test),
        REASON: outcome.reason,
    }
    result |= {SECONDS: last.seconds, MEMORY: last.memory} if last is not None else {}
    result |= {CHECKPOINT: recorded(outcome.checkpoint)} if outcome.checkpoint is not None else {}
    trial.set_user_attr(RESULT, result)
    ended = trial.study.tell(trial, values, state=TrialState[outcome.state])
    return TrialRecord.of(ended, _store(trial.study))


def ended(study: optuna.Study) -> int:
    """How many trials have ended, those left out that were run again under another number."""
    trials = study.get_trials(deepcopy=False, states=ENDED)
    again = run_again(study)
    return sum(trial.number not in again for trial in trials)


def run_again(study: optuna.Study) -> set[int]:
    """The numbers of failed trials that were run again, or are about to be."""
    attrs = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return {of[RETRY_OF] for of in attrs if RETRY_OF in of}


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """The model that MLflow keeps for the study."""

    trial: int
    uri: str


def model(study: optuna.Study) -> KeptModel | None:
    """What `set_model` wrote, if it did."""
    kept = study.user_attrs.get(MODEL)
    with readable(f"the kept model of study {study.study_name!r}", _store(study)):
        return KeptModel(**kept) if kept else None


def set_model(study: optuna.Study, kept: KeptModel) -> None:
    """Writes down which trial's model MLflow keeps, and where."""
    study.set_user_attr(MODEL, asdict(kept))


def tracking(study: optuna.Study) -> str | None:
    """The URI of the MLflow that has the model; None if it is the store's own."""
    return study.user_attrs.get(TRACKING)


def set_tracking(study: optuna.Study, uri: str | None) -> None:
    """Writes down which MLflow has the model."""
    if tracking(study) != uri:
        study.set_user_attr(TRACKING, uri)


def registered(study: optuna.Study) -> Registered:
    """What `set_registered` wrote."""
    kept = study.user_attrs.get(VERSIONS, {"versions": [], "champion": None})
    with readable(f"the champion of study {study.study_name!r}", _store(study)):
        versions = tuple(Version(**of) for of in kept["versions"])
        return Registered(versions=versions, champion=kept["champion"])


def set_registered(study: optuna.Study, content: Registered) -> None:
    """Writes down whose models are registered, and whose the study stands by."""
    if registered(study) != content:
        study.set_user_attr(VERSIONS, asdict(content))


def plan(study: optuna.Study) -> Mapping[str, Any]:
    """What `set_plan` wrote: the STUDY, the file and its question, what seeds are compared by."""
    content: Mapping[str, Any] = study.user_attrs.get(PLAN, {})
    return content


@contextmanager
def plan_of(study: optuna.Study) -> Iterator[Mapping[str, Any]]:
    """The plan, to take apart. Raises StoreError where what it holds can't be read."""
    with readable(f"the plan of study {study.study_name!r}", _store(study)):
        yield plan(study)


def set_plan(study: optuna.Study, content: Mapping[str, Any]) -> None:
    """Writes down what a report must know of the study file, and the format of it all."""
    if plan(study) != content:
        study.set_user_attr(PLAN, dict(content))
    if study.user_attrs.get(FORMAT) != STORE_FORMAT:
        study.set_user_attr(FORMAT, STORE_FORMAT)


def names(store: Store) -> list[str]:
    """The studies of a store; none where it has no database yet."""
    if not optuna_storage.exists(store):
        return []
    return [study.study_name for study in store_of(store).get_all_studies()]


def store_of(store: Store, *, write: bool = False) -> optuna_storage.Studies:
    """The store's database, to read or, made if need be, to write. Raises StoreError, without the
    password, if it can't be used, or if a newer sabtune or another Optuna has written it."""
    opened = optuna_storage.writing(store) if write else optuna_storage.reading(store)
    formats = [of.user_attrs.get(FORMAT, 0) for of in opened.get_all_studies()]
    for written in formats:
        if not isinstance(written, int):
            raise StoreError(
                f"{store.shown} is damaged (a study has format {shown(written)}): "
                "put a copy of it in its place, or give another --store"
            )
    written = max(formats, default=0)
    if written > STORE_FORMAT:
        raise StoreError(
            f"{store.shown} was written by a newer sabtune (format {written}, and this one knows "
            f"{STORE_FORMAT}): update sabtune, or give another --store"
        )
    return opened


def open_study(store: Store, name: str, *, write: bool = False) -> optuna.Study:
    """A study to read, or also to write. Raises StoreError, with those that exist, if there is none
    such, or if sabtune didn't make it."""
    opened = store_of(store)
    known = sorted(study.study_name for study in opened.get_all_studies())
    if name not in known:
        raise StoreError(f"{store.shown} has no study {name!r}: {_existing(name, known)}")
    study = optuna.load_study(study_name=name, storage=opened)
    refuse_others(study, store)
    if not write:
        return study
    opened.engine.dispose()
    return optuna.load_study(study_name=name, storage=store_of(store, write=True))


def is_ours(study: optuna.Study) -> bool:
    """Whether sabtune made a study: it has a plan, or nothing yet but what sabtune began."""
    if PLAN in study.user_attrs:
        return True
    begun = [of for of in study.get_trials(deepcopy=False) if of.datetime_start is not None]
    return all({SPEC, FIXED} & trial.user_attrs.keys() for trial in begun)


def refuse_others(study: optuna.Study, store: Store) -> None:
    """Raises StoreError of a study that sabtune didn't make, and of one whose plan is damaged."""
    if not is_ours(study):
        raise StoreError(
            f"study {study.study_name!r} in {store.shown} wasn't made by sabtune: "
            "give the name of another"
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
    COMPARISON: dict,
}
"""What a plan holds, and of which type."""


SHOWN = 20
"""The most names of studies in a message."""


def _existing(name: str, known: Sequence[str]) -> str:
    if not known:
        return "it has none yet, search one first"
    near = difflib.get_close_matches(name, known, n=1)
    others = f", and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    words = f"it has {', '.join(known[:SHOWN])}{others}"
    return f"did you mean {near[0]!r}? {words}" if near else words
