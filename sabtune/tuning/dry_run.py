"""Predict the time and the placement of a search from a short probe of one trial."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sabtune.cluster.capacity import this_machine
from sabtune.study.study_file import StudyFile
from sabtune.tuning.placement import Placement, first, shared
from sabtune.tuning.probe import Probe, probe


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted duration of a search on this machine, and the placement of its trials.

    probe: the measurements behind the prediction. hours: the duration of the whole search if no
    trial is pruned.
    """

    probe: Probe
    placement: Placement
    hours: float


def predict(file: StudyFile) -> Prediction:
    """Predict a search on this machine from a probe of the study's first configuration.

    The probe trains briefly, and measures one batch of each length. Raises ResourceError if no
    trial fits on this machine.
    """
    requested, capacity = file.study.resources, this_machine()
    capacity.check_asked(requested)
    on_gpu = bool(requested.gpus) and torch.cuda.is_available()
    measured = probe(first(file), torch.device("cuda" if on_gpu else "cpu"))
    placement = shared(requested, capacity, measured.reading)
    trials, at_once = file.study.trials, placement.at_once
    hours = trials * measured.trial_seconds / min(at_once, trials) / 3600
    return Prediction(probe=measured, placement=placement, hours=hours)
