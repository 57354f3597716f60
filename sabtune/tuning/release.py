"""Release the memory of ended trials, which Ray Tune keeps until the end of the search."""

from __future__ import annotations

from ray.tune.experiment import Trial as TuneTrial


def release(trial: TuneTrial) -> None:
    """Release the results, checkpoints and statistics of a trial that has ended.

    Ray Tune keeps all results that came with a checkpoint, and statistics of every number in them:
    in all about 70 KiB per trial of 5 reports. The study has what is needed of them.
    """
    metadata = trial.run_metadata
    manager = metadata.checkpoint_manager
    if manager is not None:
        metadata.checkpoint_manager = type(manager)(manager.checkpoint_config)
    metadata.last_result = {}
    metadata.metric_analysis, metadata.metric_n_steps = {}, {}
    trial.evaluated_params = {}
