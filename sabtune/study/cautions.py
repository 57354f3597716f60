"""Warnings about a study file before a search.

The warnings concern former names, and configurations that don't test how sparse a memory can be.
"""

from __future__ import annotations

from collections.abc import Iterator

from sabtune.config import TrialConfig
from sabtune.models import SAB
from sabtune.parts import former_names
from sabtune.schedule import Constant
from sabtune.study.study_file import StudyFile
from sabtune.wording import counted


def cautions(file: StudyFile) -> Iterator[str]:
    """Yield a warning for each former name that a study file uses, and for each common problem.

    A problem is common if at least CAUTION_FRACTION of the sampled configurations have it.
    """
    used = former_names.used_by(file.path) if file.in_file else {}
    for former, present in used.items():
        yield f"{file.path.name} uses {former}, which is now {present}"
    configs = file.sampled()
    for has_problem, words in (
        (keeps_all, "keep every memory of a training sequence: lower k_top or k_att"),
        (changes_nothing, "have a schedule that changes nothing: start it above k_top"),
        (
            pruned_while_denser,
            "are first pruned while they keep more memories than at the end: " + DENSE_REMEDY,
        ),
    ):
        affected = sum(has_problem(file, config) for config in configs)
        if affected and affected >= CAUTION_FRACTION * len(configs):
            drawn = counted(len(configs), "configuration")
            yield f"{affected} of {drawn} drawn from the space {words}"


CAUTION_FRACTION = 0.1
"""The minimum fraction of the sampled configurations with a problem that causes a warning."""

DENSE_REMEDY = 'measure with Ladder(k_top="final"), or end the schedule before ASHA\'s grace'


def keeps_all(file: StudyFile, config: TrialConfig) -> bool:
    """Return whether a step attends to every memory of a training sequence after training."""
    return config.model.share_kept(_steps(file)) == 1.0 and isinstance(config.model, SAB.Config)


def changes_nothing(file: StudyFile, config: TrialConfig) -> bool:
    """Return whether a schedule other than Constant has the same k_top throughout training."""
    model = config.model
    if not isinstance(model, SAB.Config) or isinstance(model.schedule, Constant):
        return False
    k_tops = {min(k_top, model.dense(_steps(file))) for k_top in _k_tops(file, config)}
    return len(k_tops) == 1


def pruned_while_denser(file: StudyFile, config: TrialConfig) -> bool:
    """Return whether a model is compared at the first rung with more than its final k_top."""
    model, pruning = config.model, file.study.pruning
    if not isinstance(model, SAB.Config) or pruning is None or changes_nothing(file, config):
        return False
    if file.study.ladder.k_top != "scheduled" or pruning.grace >= config.train.updates:
        return False
    progress = pruning.grace / config.train.updates
    dense = model.dense(_steps(file))
    return min(model.schedule.k_top(progress, model.k_top, dense), dense) > min(model.k_top, dense)


def _k_tops(file: StudyFile, config: TrialConfig) -> set[int]:
    """Return the values of k_top at about 100 updates that are spread over the training."""
    model, train = config.model, config.train
    assert isinstance(model, SAB.Config)
    dense = model.dense(_steps(file))
    steps = range(0, train.updates + 1, max(1, train.updates // 100))
    return {model.schedule.k_top(step / train.updates, model.k_top, dense) for step in steps}


def _steps(file: StudyFile) -> int:
    """Return the number of steps of a training sequence that a model can remember."""
    return file.study.task.build().remembered_steps
