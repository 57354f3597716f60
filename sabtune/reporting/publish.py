"""Publish the report of a study in MLflow.

The report is an artifact of the search's run. Each complete trial has its own figures.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sabtune.reporting.write import QUICK, write
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.tracking import mirror

if TYPE_CHECKING:
    from sabtune.tuning.run import Ending  # loads Ray


FIGURE_SECONDS = 60.0
"""The time after which the end of a search draws no more figures of trials."""

DPI = 115
"""The resolution of a trial's figures. MLflow shows them in full size in a narrow column."""


def publish(name: str, store: Store, ending: Ending | None = None) -> str:
    """Write the report of a study and the figures of its trials, and log them to MLflow.

    name: The name of the study.

    ending: How its search ended. None: no search was running.

    Returns why MLflow doesn't have the report, or "". The reason is "" as well if there is nothing
    to log: no trial is complete, the search was interrupted, or MLflow lacks a part of the study.
    """
    if ending and (ending.behind or not (ending.complete or ending.out_of_budget)):
        return ""
    try:
        study = StudyRecord.open(store, name)
        if study.best is None:
            return ""
        with TemporaryDirectory() as folder:
            write(study, Path(folder), QUICK)
            seconds = math.inf if ending is None else FIGURE_SECONDS
            problem = mirror.keep_report(study, Path(folder), draw, seconds)
    except Exception as failure:  # the results of the search are safe, so this must not end it
        problem = " ".join(f"{type(failure).__name__}: {failure}".split())
    return problem and f"The report on {name} isn't in MLflow: {problem}"


def draw(trial: TrialRecord, folder: Path) -> None:
    """Write the figures of a trial into a folder."""
    from sabtune.reporting.figures import of_trial, still  # slow to import

    style = replace(still.DEFAULT, dpi=DPI)
    for figure in of_trial.figures(trial):
        (folder / f"{figure.name}.png").write_bytes(still.draw(figure, "png", style))
