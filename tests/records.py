"""Trial records made by hand, for tests of the code that reads them."""

from __future__ import annotations

from typing import Any

from optuna.trial import TrialState

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import SAB
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.trial import TrialSpec


def spec(number: int = 0, configuration: int | None = None, **changes: Any) -> TrialSpec:
    """Return a small trial that reports twice."""
    train = TrainConfig(updates=20, batch_size=4, report_every=10)
    trial = TrialConfig(model=SAB.Config(hidden=4, k_top=2, k_att=2, k_trunc=3), train=train)
    values: dict[str, Any] = {
        "number": number,
        "configuration": number if configuration is None else configuration,
        "run": RunConfig.of(task=Copying.Config(length=4, symbols=1), trial=trial, seed=number),
        "ladder": Ladder(lengths=(4, 8), select=(4,), sequences=8),
        "evaluation_seed": 0,
        "threads": 1,
    }
    return TrialSpec(**(values | changes))


def trial(
    number: int,
    configuration: int | None = None,
    *,
    score: float | None = None,
    state: TrialState = TrialState.COMPLETE,
    accuracy: float = 0.5,
    **changes: Any,
) -> TrialRecord:
    """Return a trial that ended with this score, or a running trial if it is None.

    changes: other fields of the record.
    """
    if score is None:
        state = TrialState.RUNNING
    complete = state == TrialState.COMPLETE and score is not None
    values: dict[str, Any] = {
        "number": number,
        "state": state,
        "values": [score] if complete and score is not None else [],
        "params": {},
        "spec": spec(number, configuration),
        "scores": {10: score} if score is not None else {},
        "ladder": [LengthResult(length=4, accuracy=accuracy, loss=0.0, sequences=8)],
        "test": [],
        "reason": "",
        "label": "",
        "retry_of": None,
        "checkpoint": None,
        "seconds": 1.0,
        "memory": 1.0,
        "started": None,
        "environment": {},
        "constraints": {},
    }
    return TrialRecord(**(values | changes))
