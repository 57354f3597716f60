"""The watchers that show a search and log its trials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from sabtune.storage.store import Store
from sabtune.study.events import Watcher
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import StudyFile
from sabtune.terminal.live_table import Watch
from sabtune.terminal.notebook import NotebookWatch, in_notebook
from sabtune.terminal.steps import Steps
from sabtune.terminal.trial_log import Logbook


@contextmanager
def watching(
    console: Console | None,
    file: StudyFile,
    store: Store,
    retry_failed: bool = False,
    steps: Steps | None = None,
) -> Iterator[list[Watcher]]:
    """Show a search on the console or in a notebook, and log its trials; yield the watchers.

    console: The console. None: the search is only logged.

    retry_failed: Whether the search runs failed trials again. They then don't count as ended.

    steps: The steps of the search, which are shown with its trials.
    """
    name = file.study.name
    logbook = Logbook(store.log(name))
    if console is None:
        yield [logbook]
        return
    study = StudyRecord.find(store, name)
    ended = study.ended if study else 0
    if study and retry_failed:
        ended -= len(study.failed)
    earlier = study.trials if study else []
    trials = file.study.trials
    with (
        NotebookWatch(trials, ended=ended, earlier=earlier, steps=steps)
        if in_notebook()
        else Watch(console, trials, ended=ended, earlier=earlier, steps=steps)
    ) as watch:
        yield [watch, logbook]
