"""An example of a complete trial, on which a study file's constraints are tried."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from sabtune.config import RunConfig, TrialConfig
from sabtune.study.trial_record import TrialRecord
from sabtune.training.evaluation import LengthResult
from sabtune.training.trial import TrialSpec

if TYPE_CHECKING:
    from sabtune.study.definition import Study


def example(study: Study, config: TrialConfig, params: Mapping[str, Any]) -> TrialRecord:
    """Return the record of a trial with made-up results.

    The accuracy is 0.5 at every length, the time is 1 s, the memory is 1 MiB, and the model has one
    parameter and one multiply-add.
    """
    spec = TrialSpec(
        number=0,
        configuration=0,
        run=RunConfig.of(task=study.task, trial=config, seed=study.seed),
        ladder=study.ladder,
        evaluation_seed=study.seed,
        threads=study.resources.cpus,
        limits=study.limits,
    )
    sequences = study.ladder.sequences
    return TrialRecord(
        number=0,
        state=TrialState.COMPLETE,
        values=[0.5] * len(study.objectives),
        params=dict(params),
        spec=spec,
        scores={config.train.updates: 0.5},
        ladder=[
            LengthResult(length=length, accuracy=0.5, loss=1.0, sequences=sequences, seconds=1.0)
            for length in study.ladder.lengths
        ],
        test=[],
        reason="",
        label="",
        retry_of=None,
        checkpoint=None,
        seconds=1.0,
        memory=1.0,
        started=datetime.now(),
        environment={},
        constraints={},
        parameters=1,
        multiply_adds=1.0,
    )
