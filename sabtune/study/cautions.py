"""What a search space is warned of before it is searched: configurations that answer another
question than how sparse a memory can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sabtune.config import TrialConfig
from sabtune.models import SAB
from sabtune.schedule import Constant
from sabtune.study import former_names
from sabtune.study.definition import StudyFile
from sabtune.wording import counted


def cautions(file: StudyFile) -> Iterator[str]:
    """Yield a line for each former name that a study file uses.

    And one for each thing that a tenth or more of the space's configurations have.
    """
    for before, now in sorted(former_names.used.items()):
        yield f"{file.path.name} uses {before}, which is now {now}"
    configs = file.sampled()
    for holds, words in (
        (keeps_all, "keep every memory of a training sequence: lower k_top or k_att"),
        (changes_nothing, "have a schedule that changes nothing: start it above k_top"),
        (
            pruned_while_denser,
            "are first pruned while they keep more memories than at the end: " + LATER,
        ),
    ):
        found = sum(holds(file, config) for config in configs)
        if found and found >= SHARE * len(configs):
            drawn = counted(len(configs), "configuration")
            yield f"{found} of {drawn} drawn from the space {words}"


SHARE = 0.1

LATER = 'measure with Ladder(k_top="final"), or end the schedule before ASHA\'s grace'

Holds = Callable[[StudyFile, TrialConfig], bool]


def keeps_all(file: StudyFile, config: TrialConfig) -> bool:
    """Whether a step keeps every memory of a training sequence when training ends."""
    return config.model.share_kept(_steps(file)) == 1.0 and isinstance(config.model, SAB.Config)


def changes_nothing(file: StudyFile, config: TrialConfig) -> bool:
    """Whether a schedule other than constant has one k_top throughout."""
    model = config.model
    if not isinstance(model, SAB.Config) or isinstance(model.schedule, Constant):
        return False
    kept = {min(k_top, model.dense(_steps(file))) for k_top in _k_tops(file, config)}
    return len(kept) == 1


def pruned_while_denser(file: StudyFile, config: TrialConfig) -> bool:
    """Whether the first report that prunes comes before the schedule's end."""
    model, pruning = config.model, file.study.pruning
    if not isinstance(model, SAB.Config) or pruning is None or changes_nothing(file, config):
        return False
    if file.study.ladder.k_top != "scheduled" or pruning.grace >= config.train.updates:
        return False
    progress = pruning.grace / config.train.updates
    dense = model.dense(_steps(file))
    return min(model.schedule.k_top(progress, model.k_top, dense), dense) > min(model.k_top, dense)


def _k_tops(file: StudyFile, config: TrialConfig) -> set[int]:
    """Those in force at the reports of a training."""
    model, train = config.model, config.train
    assert isinstance(model, SAB.Config)
    dense = model.dense(_steps(file))
    steps = range(0, train.updates + 1, max(1, train.updates // 100))
    return {model.schedule.k_top(step / train.updates, model.k_top, dense) for step in steps}


def _steps(file: StudyFile) -> int:
    return file.study.task.build().remembered_steps
