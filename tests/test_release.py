"""Test that the memory of ended trials is released in Ray Tune's own objects."""

from __future__ import annotations

import pickle
from pathlib import Path

from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint
from ray.tune.experiment import Trial

from sabtune.tuning.release import release
from sabtune.tuning.trainable import WorkerResult
from tests.experiments import progress


def test_an_ended_trial_keeps_no_results(tmp_path: Path) -> None:
    """The results of a trial, of which Ray Tune keeps one for each checkpoint, are gone."""
    trial = Trial("a trainable", stub=True, config={"assignment": {"number": 3}})
    manager = trial.run_metadata.checkpoint_manager
    assert manager is not None
    empty = len(pickle.dumps(trial.run_metadata))
    for number in range(1, 6):
        result = {"training_iteration": number, "score": number / 6, "text": str(number) * 1000}
        trial.update_last_result(result)  # type: ignore[no-untyped-call]
        manager.register_checkpoint(_TrainingResult(Checkpoint(str(tmp_path)), result))
    assert len(pickle.dumps(trial.run_metadata)) > empty + 5000
    release(trial)
    assert len(pickle.dumps(trial.run_metadata)) < empty + 200
    assert trial.checkpoint is None
    assert trial.config == {"assignment": {"number": 3}}
    trial.get_json_state()  # Ray Tune writes the state of all trials when a search ends


def test_ray_tune_finds_few_numbers_in_a_result() -> None:
    """Ray Tune keeps statistics of each number in a result, so progress is one text for it."""
    told = progress(step=5)
    result = WorkerResult(progress=told, hardware={"threads": 1}, seconds=2.5).to_result()
    received = WorkerResult.from_result(result)
    assert received.progress is not None
    assert received.progress.to_dict() == told.to_dict()
    assert (received.hardware, received.seconds) == ({"threads": 1}, told.seconds)
    numbers = {name for name, value in result.items() if not isinstance(value, str)}
    assert numbers == {"step", "score", "done", "finished", "solved"}
