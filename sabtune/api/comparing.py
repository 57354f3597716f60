"""Confirm, ablate, extrapolate and reproduce the results of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from sabtune import interrupts
from sabtune.api.location import store_at
from sabtune.api.opened import OpenStudy
from sabtune.api.searching import (
    notifier_of,
    raise_unless_ended,
    say_and_notify,
    say_problems,
)
from sabtune.compare import extrapolate as measuring
from sabtune.compare import reproduce as reproducing
from sabtune.compare.extrapolate import Extrapolation
from sabtune.compare.reproduce import Reproduction
from sabtune.compare.run import (
    ComparisonPlan,
    plan_ablation,
    plan_confirmation,
    run_comparison,
    update_champion_of,
)
from sabtune.data.place import using
from sabtune.reporting.publish import publish
from sabtune.schema import check, check_lengths, check_whole
from sabtune.storage.store import Store
from sabtune.study.backups import restored
from sabtune.study.record import StudyRecord
from sabtune.terminal.console import line_printer, make_console
from sabtune.terminal.notebook import in_notebook
from sabtune.terminal.steps import REPORT_STEP, Steps
from sabtune.terminal.watching import watching
from sabtune.tuning.run import silent


def confirm(
    studies: str | Sequence[str],
    *,
    top: int = 3,
    seeds: int = 10,
    lengths: Sequence[int] | None = None,
    notify: str | Sequence[str] | None = None,
    store: str | Path | None = None,
    files: str | Path | None = None,
    tracking: str | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> OpenStudy:
    """Retrain the best configurations on fresh seeds and measure them at new lengths.

    Search scores are optimistic: they picked the winner. Scores on fresh seeds are not. A finished
    confirmation updates the champion of the first study.

    Args:
        studies: The name of a study of the store, or of several. The first one is confirmed; each
            other one takes part with its best configuration.
        top: The number of the best configurations of the first study.
        seeds: The number of fresh seeds of each configuration.
        lengths: The lengths to measure. Defaults to the training length and lengths between and
            beyond those of the ladder.
        notify: As for `search`.
        store: As for `search`.
        files: As for `search`.
        tracking: As for `search`.
        data_dir: As for `search`.
        progress: Show the progress of the runs.

    Returns:
        The study NAME.confirm that contains the runs. Its `comparison` has the statistics.

    Raises:
        ConfigError: An argument is out of range.
        StoreError: A study doesn't exist or has no complete trial, or the studies have different
            tasks.
        KeyboardInterrupt: You interrupted it. Call it again to resume.

        The other errors are those of `search`.

    Example:
        >>> import sabtune as sab
        >>> confirmed = sab.confirm("quick", top=1, seeds=2, progress=False)
        >>> confirmed.comparison.groups[0].n
        2
    """
    plan = partial(plan_confirmation, top=top, seeds=seeds, lengths=lengths)
    with using(data_dir):
        return _compare(plan, studies, store_at(store, files, tracking), progress, notify)


def ablate(
    studies: str | Sequence[str],
    *,
    seeds: int = 5,
    changes: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    notify: str | Sequence[str] | None = None,
    store: str | Path | None = None,
    files: str | Path | None = None,
    tracking: str | None = None,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> OpenStudy:
    """Change the best configuration one setting at a time and measure the effect of each change.

    Args:
        studies: The name of a study of the store, or of several.
        seeds: The number of fresh seeds of each variant.
        changes: The settings to change, among "k_top", "k_att", "k_trunc", "schedule", "form",
            "initial" and "lengths". Defaults to all.
        lengths: As for `confirm`.
        notify: As for `search`.
        store: As for `search`.
        files: As for `search`.
        tracking: As for `search`.
        data_dir: As for `search`.
        progress: Show the progress of the runs.

    Returns:
        The study NAME.ablate that contains the runs. Its `comparison` has the statistics.

    Raises:
        ConfigError: An argument is out of range, or a change is unknown.
        StoreError: A study doesn't exist or has no complete trial.
        KeyboardInterrupt: You interrupted it. Call it again to resume.

        The other errors are those of `search`.

    Example:
        >>> import sabtune as sab
        >>> ablated = sab.ablate("quick", seeds=1, changes=["k_att"], progress=False)
        >>> sorted(set(ablated.ladder()["label"]))
        ['k_att → 1', 'winner']
    """
    plan = partial(plan_ablation, seeds=seeds, changes=changes, lengths=lengths)
    with using(data_dir):
        return _compare(plan, studies, store_at(store, files, tracking), progress, notify)


def extrapolate(
    study: str,
    lengths: Sequence[int],
    *,
    trials: Sequence[int] | None = None,
    sequences: int = 64,
    phases: int = 1,
    store: str | Path | None = None,
    files: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Measure trained models at lengths that their trials did not test.

    Args:
        study: The name of a study of the store.
        lengths: The lengths to measure.
        trials: The numbers of complete trials. Defaults to the best trial.
        sequences: The number of test sequences at each length.
        phases: The number of consecutive lengths, L to L + phases - 1, over which the sequences of
            length L are spread.
        store: As for `open_study`.
        files: As for `open_study`.
        data_dir: As for `search`.

    Returns:
        One row for each trial and length: `trial`, `length`, `accuracy` (from 0 to 1), `loss`
        (in the unit of the task), `in_phase`, `worst_phase`, `sequences`, `seconds` and
        `peak_memory_mib`.

    Raises:
        ConfigError: An argument is out of range.
        StoreError: There is no such study or trial, or the trial isn't complete.
        CheckpointError: A model can't be read.

    Example:
        >>> import sabtune as sab
        >>> sab.extrapolate("quick", [12, 24], sequences=16)["length"].tolist()
        [12, 24]
    """
    check_lengths("lengths", lengths)
    check_whole("sequences", sequences, least=1)
    check_whole("phases", phases, least=1)
    opened = StudyRecord.open(store_at(store, files).existing(), study)
    rows = []
    for trial in measuring.chosen(opened, trials):
        with _threads_kept(), using(data_dir):
            measured = list(measuring.extrapolate(trial, lengths, sequences, phases))
        rows += [_cells(trial.number, each) for each in measured]
    return pd.DataFrame(rows)


def _cells(trial: int, measured: Extrapolation) -> dict[str, int | float | None]:
    result = measured.result
    return {
        "trial": trial,
        "length": result.length,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "in_phase": result.in_phase,
        "worst_phase": result.worst_phase,
        "sequences": result.sequences,
        "seconds": result.seconds,
        "peak_memory_mib": measured.memory,
    }


def reproduce(
    study: str,
    trial: int,
    *,
    store: str | Path | None = None,
    files: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> Reproduction:
    """Train a trial again from its record, and compare every metric bit for bit.

    Args:
        study: The name of a study of the store.
        trial: The number of a trial.
        store: As for `open_study`.
        files: As for `open_study`.
        data_dir: As for `search`.

    Returns:
        The number of compared metrics, those that differ, and the differences of the environment.

    Raises:
        StoreError: There is no such study or trial, or the trial has no score.

    Example:
        >>> import sabtune as sab
        >>> sab.reproduce("quick", 0).differences
        []
    """
    place = store_at(store, files).existing()
    with _threads_kept(), using(data_dir):
        opened = StudyRecord.open(place, study)
        return reproducing.reproduce(opened.trial(trial), opened.plan.file or "")


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Restore PyTorch's number of threads, which a trial sets to its own."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _compare(
    make_plan: Callable[..., ComparisonPlan],
    studies: str | Sequence[str],
    store: Store,
    progress: bool,
    notify: str | Sequence[str] | None,
) -> OpenStudy:
    """Plan and run a comparison as `sabtune confirm` does, and return its study."""
    names = [studies] if isinstance(studies, str) else list(studies)
    check(len(names) > 0, "studies", studies, "the name of a study")
    notifier = notifier_of(notify)
    console = make_console() if progress else None
    steps = Steps(None if in_notebook() else console)
    say = line_printer(console) if console else silent
    plan = make_plan(restored(store, say).existing(), names, say=say)
    interrupts.forget()
    with steps, notifier.failures(plan.name, say):
        with watching(console, plan.renamed_file, plan.store, steps=steps) as watchers:
            ending, _ = run_comparison(plan, watchers, say, steps)
        steps(REPORT_STEP)
        for name in (plan.name, plan.name.rpartition(".")[0]):
            say_problems(publish(name, plan.store, ending), ending, say)
        champion, behind = update_champion_of(plan, ending)
    if champion is not None:
        say(f"Champion of {plan.champion_of}: {champion.words}")
    if behind:
        say(f"MLflow doesn't show the champion: {behind}")
    say_and_notify(notifier, plan.name, plan.store, ending, say)
    raise_unless_ended(ending, f"study {plan.name!r}")
    return OpenStudy(plan.name, plan.store)
