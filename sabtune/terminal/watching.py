"""The watchers that show a search and log its trials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.events import Watcher
from sabtune.study.study_file import StudyFile
from sabtune.terminal.live_table import Watch
from sabtune.terminal.notebook import NotebookWatch, in_notebook
from sabtune.terminal.trial_log import Logbook
from sabtune.tuning.run import failed


@contextmanager
def watching(
    console: Console | None, file: StudyFile, store: Store, retry_failed: bool = False
) -> Iterator[list[Watcher]]:
    """Show a search on the console or in a notebook, and log its trials; yield the watchers.

    console: The console. None: the search is only logged.

    retry_failed: Whether the search runs failed trials again. They then don't count as ended.
    """
    name = file.study.name
    logbook = Logbook(store.log(name))
    if console is None:
        yield [logbook]
        return
    study = record.open_study(store, name) if name in record.names(store) else None
    ended = record.ended(study) if study else 0
    if study and retry_failed:
        ended -= len(failed(study))
    earlier = record.records(study) if study else []
    trials = file.study.trials
    with (
        NotebookWatch(trials, ended=ended, earlier=earlier)
        if in_notebook()
        else Watch(console, trials, ended=ended, earlier=earlier)
    ) as watch:
        yield [watch, logbook]
