"""Asynchronous successive halving (ASHA) for a study that spans several searches.

The algorithm is that of Li et al., MLSys 2020, arXiv 1810.05934. Ray Tune's own ASHA scheduler
keeps its scores in memory only, so a resumed search would start without them. The scheduler in this
module also compares trials with the scores of earlier searches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sabtune.study.definition import ASHA


class Halving:
    """The scores of all trials at every rung, by which ASHA decides which trials continue.

    Rung `i` is at `grace * reduction**i` updates.
    """

    def __init__(self, config: ASHA):
        self.config = config
        self.rungs: dict[int, dict[int, float]] = {}  # scores by index of the rung, then by trial
        self.ended: dict[int, float] = {}  # last scores of complete trials, by trial

    def goes_on(self, trial: int, step: int, score: float) -> bool:
        """Return whether a trial with this score after `step` updates continues training.

        A trial is compared only when it first reaches a rung. Its competitors are the trials that
        have reached the rung so far, including itself, and all complete trials. It continues if it
        is among the best 1/reduction of them. The best one always continues.
        """
        rung = self.rung(step)
        if rung is None:
            return True
        scores = self.rungs.setdefault(rung, {})
        if trial in scores:
            return True
        scores[trial] = score
        competitors = self.ended | scores
        places = max(1, int(len(competitors) / self.config.reduction))
        return sum(other > score for other in competitors.values()) < places

    def end(self, trial: int, score: float) -> None:
        """Record a complete trial. Its last score counts at the rungs that it didn't reach."""
        self.ended[trial] = score

    def rung(self, step: int) -> int | None:
        """Return the index of the last rung at or below `step`, or None below the first rung."""
        if step < self.config.grace:
            return None
        exact = math.log(step / self.config.grace, self.config.reduction)
        return math.floor(exact + 1e-9)

    def remember(self, trial: int, scores: Mapping[int, float], *, complete: bool) -> None:
        """Add the scores of a trial from an earlier search.

        scores: the trial's scores, by number of updates. complete: whether the trial is complete.
        """
        for step in sorted(scores):
            self.goes_on(trial, step, scores[step])
        if complete and scores:
            self.end(trial, scores[max(scores)])


class Scheduler(FIFOScheduler):
    """A Ray Tune scheduler that starts trials in order and stops those that ASHA prunes.

    halving: the scores at the rungs; None to prune no trial.
    """

    def __init__(self, halving: Halving | None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.halving = halving

    def choose_trial_to_run(self, tune_controller: TuneController) -> TuneTrial | None:
        """Return the next trial to run, or None if no trial is pending or paused.

        Pending trials come before paused ones, and lower numbers before higher ones. The method
        looks at live trials only, whereas that of FIFOScheduler scans every trial that ever ran.
        """
        live: set[TuneTrial] = tune_controller.get_live_trials()  # type: ignore[no-untyped-call]
        for status in (TuneTrial.PENDING, TuneTrial.PAUSED):
            waiting = [trial for trial in live if trial.status == status]
            if waiting:
                return min(waiting, key=lambda trial: int(trial.config["assignment"]["number"]))
        return None

    def on_trial_result(
        self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Return STOP for a trial that ASHA prunes at its current rung, and CONTINUE otherwise."""
        if self.halving is None or result["done"] or not result["step"]:
            return TrialScheduler.CONTINUE
        number = trial.config["assignment"]["number"]
        goes_on = self.halving.goes_on(number, result["step"], result["score"])
        keeps_training = goes_on or result["solved"]  # a solved trial soon ends by itself
        return TrialScheduler.CONTINUE if keeps_training else TrialScheduler.STOP

    def on_trial_complete(
        self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Record the last score of a complete trial.

        Ray Tune also calls this method for stopped and failed trials, which are ignored.
        """
        if self.halving is not None and result.get("finished"):
            self.halving.end(trial.config["assignment"]["number"], result["score"])
