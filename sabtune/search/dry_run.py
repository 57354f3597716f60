"""What a search would take, from a short probe of one trial."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sabtune.cluster.capacity import this_machine
from sabtune.search.placement import Placement, first, shared
from sabtune.search.probe import Probe, probe
from sabtune.study.definition import StudyFile


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a search on this machine would take, by a probe. hours: of all of it, nothing pruned."""

    probe: Probe
    placement: Placement
    hours: float


def predict(file: StudyFile) -> Prediction:
    """Trains the study's first configuration for a moment and measures each rung once.

    Raises ResourceError if no trial can be placed here.
    """
    asked, here = file.study.resources, this_machine()
    here.check_asked(asked)
    on_gpu = bool(asked.gpus) and torch.cuda.is_available()
    made = probe(first(file), torch.device("cuda" if on_gpu else "cpu"))
    placement = shared(asked, here, made.reading)
    trials, at_once = file.study.trials, placement.at_once
    hours = trials * made.trial_seconds / min(at_once, trials) / 3600
    return Prediction(probe=made, placement=placement, hours=hours)
