"""Predict the time and the placement of a search from a short probe of one trial."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sabtune.cluster.capacity import this_machine
from sabtune.errors import SabtuneError, StudyFileError
from sabtune.storage.store import Store
from sabtune.study.locks import refuse_held
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import StudyFile
from sabtune.study.wording import explain
from sabtune.tracking.mlflow_client import refuse_unusable
from sabtune.tuning.placement import Placement, first, shared
from sabtune.tuning.probe import Probe, probe
from sabtune.tuning.run import check_warm_start, checked


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted duration of a search on this machine, and the placement of its trials.

    probe: the measurements behind the prediction. hours: the duration of the whole search if no
    trial is pruned.
    """

    probe: Probe
    placement: Placement
    hours: float


def check_search(
    file: StudyFile,
    store: Store,
    *,
    new: bool = False,
    warm_start: str | None = None,
    accept_changed_code: bool = False,
) -> StudyFile:
    """Return the study file as a search uses it. Raises whatever the search would, writes nothing.

    The parameters are those of `sabtune search`.
    """
    store.check_writable()
    refuse_unusable(store.mlflow_uri, store.artifacts)
    stored = None
    if not new:
        refuse_held(file.study.name, store)
        stored = StudyRecord.find(store, file.study.name) if store.found else None
    file = checked(file, stored, accept_changed_code=accept_changed_code)
    if warm_start is not None:
        check_warm_start(warm_start, store)
    file.study.task.build().prepare(file.study.ladder.lengths)
    return file


def predict(file: StudyFile) -> Prediction:
    """Predict a search on this machine from a probe of the study's first configuration.

    The probe trains briefly, and measures one batch of each length. Raises ResourceError if no
    trial fits on this machine, and StudyFileError if the trial fails.
    """
    requested, capacity = file.study.resources, this_machine()
    capacity.check_asked(requested)
    on_gpu = bool(requested.gpus) and torch.cuda.is_available()
    spec = first(file)
    try:
        measured = probe(spec, torch.device("cuda" if on_gpu else "cpu"))
    except SabtuneError:
        raise
    except Exception as problem:  # a part of the user's own may raise anything
        label = spec.run.model.label()
        raise StudyFileError(f"{explain(file.path, problem)} (in a trial of {label})") from problem
    placement = shared(requested, capacity, measured.reading)
    trials, at_once = file.study.trials, placement.at_once
    hours = trials * measured.trial_seconds / min(at_once, trials) / 3600
    return Prediction(probe=measured, placement=placement, hours=hours)
