"""ASHA (Li et al., MLSys 2020, arXiv 1810.05934) over a study that outlives its searches.

Tune's own keeps what it has compared in memory, and a search that goes on would begin without it;
this one is given what earlier searches reported.
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
    """The scores of all trials at every rung: `grace` updates times the powers of `reduction`."""

    def __init__(self, config: ASHA):
        self.config = config
        self.rungs: dict[int, dict[int, float]] = {}  # by rung's index: scores by trial
        self.ended: dict[int, float] = {}  # last scores of complete trials

    def goes_on(self, trial: int, step: int, score: float) -> bool:
        """Whether a trial with this score after `step` updates is to be trained further.

        At a rung that it comes to for the first time it goes on if it is among the best
        1/reduction that came there so far, itself counted; the first one always is.
        """
        rung = self.rung(step)
        if rung is None:
            return True
        scores = self.rungs.setdefault(rung, {})
        if trial in scores:
            return True
        scores[trial] = score
        baselines = self.ended | scores
        places = max(1, int(len(baselines) / self.config.reduction))
        return sum(other > score for other in baselines.values()) < places

    def end(self, trial: int, score: float) -> None:
        """Counts a complete trial with its last score at the rungs that it ended before."""
        self.ended[trial] = score

    def rung(self, step: int) -> int | None:
        """The last rung at or below `step`; None below the first."""
        if step < self.config.grace:
            return None
        exact = math.log(step / self.config.grace, self.config.reduction)
        return math.floor(exact + 1e-9)

    def remember(self, trial: int, scores: Mapping[int, float], *, complete: bool) -> None:
        """Takes in what a trial reported in an earlier search, by updates, and whether it is."""
        for step in sorted(scores):
            self.goes_on(trial, step, scores[step])
        if complete and scores:
            self.end(trial, scores[max(scores)])


class Scheduler(FIFOScheduler):
    """Tune's scheduler: first come, first served; stops what ASHA, if there is one, gives up."""

    def __init__(self, halving: Halving | None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.halving = halving

    def choose_trial_to_run(self, tune_controller: TuneController) -> TuneTrial | None:
        """The first that waits, of the few that live: FIFOScheduler looks at all there were."""
        live: set[TuneTrial] = tune_controller.get_live_trials()  # type: ignore[no-untyped-call]
        for status in (TuneTrial.PENDING, TuneTrial.PAUSED):
            waiting = [trial for trial in live if trial.status == status]
            if waiting:
                return min(waiting, key=lambda trial: int(trial.config["assignment"]["number"]))
        return None

    def on_trial_result(
        self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        if self.halving is None or result["done"] or not result["step"]:
            return TrialScheduler.CONTINUE
        number = trial.config["assignment"]["number"]
        goes_on = self.halving.goes_on(number, result["step"], result["score"])
        spared = goes_on or result["progress/solved"]  # it is about to end by itself
        return TrialScheduler.CONTINUE if spared else TrialScheduler.STOP

    def on_trial_complete(
        self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Also called of a trial that was stopped or that failed."""
        if self.halving is not None and result.get("progress/finished"):
            self.halving.end(trial.config["assignment"]["number"], result["score"])
