"""A study of a store, with its trials, results, figures and models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from optuna.trial import TrialState

from sabtune.analysis.compared import comparison
from sabtune.analysis.comparison import Comparison
from sabtune.analysis.conclusion import conclude
from sabtune.api.location import store_at
from sabtune.errors import StoreError, TrackingError
from sabtune.models import Model
from sabtune.reporting.data import gather
from sabtune.reporting.publish import publish
from sabtune.reporting.trials import OUTCOME, row
from sabtune.reporting.write import FORMATS, STYLES, write
from sabtune.storage.store import Store
from sabtune.study.events import Version
from sabtune.study.names import stored_names
from sabtune.study.record import StudyRecord
from sabtune.study.summary import question
from sabtune.study.trial_record import TrialRecord
from sabtune.study.writer import StudyWriter
from sabtune.tracking import mirror
from sabtune.training.checkpoint import MODEL_FILES, load_model

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class OpenStudy:
    """A study of a store.

    The trials and everything that derives from them are read once, when they are first used;
    `refresh` reads them again. The champion is read each time. `open_study` and `search` return an
    `OpenStudy`.

    Attributes:
        name: The name of the study.
        store: The store.
    """

    def __init__(self, name: str, store: Store):
        self.name, self.store = name, store
        self.refresh()

    def refresh(self) -> None:
        """Read the study again.

        Raises:
            StoreError: The store has no such study, or can't be read.
        """
        for cached in ("figures", "comparison"):
            self.__dict__.pop(cached, None)
        self._study = StudyRecord.open(self.store, self.name)

    @property
    def records(self) -> list[TrialRecord]:
        """The trials that have started, as `TrialRecord` objects, in the order of their numbers."""
        return self._study.trials

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each trial that has started, with the number of the trial as its index.

        The columns are those of `trials.csv` in the report: how the trial ended (`state`, `reason`,
        `score`, `updates`, `seconds`, `peak_memory_mib`, …), its whole configuration
        (`task.length`, `trial.model.k_top`, `seed`, …), the parameters that the sampler drew
        (`param.…`), and its accuracies (from 0 to 1) and losses (in the unit of the task) by length
        on the selection sequences (`ladder_accuracy_at_100`, …) and on the test sequences
        (`test_accuracy_at_100`, …). Without a trial, the table has only the first of these.
        """
        rows = [row(trial) for trial in self.records]
        return pd.DataFrame(rows, columns=None if rows else list(OUTCOME)).set_index("trial")

    def ladder(self, trial: int | None = None) -> pd.DataFrame:
        """Return the results of trials by length, on the test sequences.

        Args:
            trial: The number of a trial. Defaults to the best trial, or to every complete run of a
                confirmation or an ablation.

        Returns:
            One row for each trial and length, with the columns `trial`, `label`, `seed`, `length`,
            `times_training` (the length in training lengths), `accuracy` (from 0 to 1), `loss`
            (in the unit of the task), `in_phase`, `worst_phase` (accuracies by the phase of the
            length), `share_kept` (the share of memories that the last step attends to) and
            `sequences`.

        Raises:
            StoreError: The study has no such trial, or no trial is complete.
        """
        if trial is not None:
            chosen = [self._study.trial(trial)]
        elif self.comparison is not None:
            chosen = [each for each in self._study.counted if each.test]
        else:
            chosen = [self._best()]
        if not chosen:
            raise StoreError(f"study {self.name!r} has no complete trial yet: run it first")
        rows = [cells for each in chosen for cells in _by_length(each)]
        return pd.DataFrame(rows)

    @property
    def conclusion(self) -> str:
        """The conclusion of the study, in three sentences.

        The first says how many configurations generalize and what share of the memories they keep,
        the second describes the best configuration, and the third says what is and is not
        established.
        """
        return " ".join(conclude(self._study).sentences)

    @property
    def best(self) -> TrialRecord | None:
        """The best trial of the best configuration; None if no trial is complete and feasible."""
        return self._study.best

    @property
    def champion(self) -> Version | None:
        """The trial whose model you should use; None if there is none.

        `search` makes the best trial the champion, and `confirm` may replace it.
        """
        return StudyRecord.open(self.store, self.name).champion

    @cached_property
    def comparison(self) -> Comparison | None:
        """The comparison over fresh seeds; None unless this is a confirmation or an ablation."""
        return comparison(self._study) if self._study.is_comparison else None

    @property
    def stopped_by(self) -> str:
        """The stopping rule that ended the last search, in words; "" if none did."""
        return self._study.stopped_by

    @property
    def question(self) -> str:
        """The question of the study: the docstring of its file or of its space."""
        return question(self._study.plan)

    @property
    def source(self) -> str:
        """The text of the study file, or the source of the study's functions; "" if unknown."""
        return self._study.plan.source or ""

    def model(self, trial: int | None = None) -> Model:
        """Load a trained model, in evaluation mode and on the CPU.

        Args:
            trial: The number of the trial. Defaults to the champion, or else to the best trial.

        Returns:
            A `torch.nn.Module`: `logits, state = model(x, state)` with x (B, T, I) and logits
            (B, T, O).

        Raises:
            StoreError: There is no such trial, or it is not complete.
            CheckpointError: The checkpoint is missing or damaged.
        """
        if trial is None:
            champion = self.champion
            trial = self._best().number if champion is None else champion.trial
        chosen = self._study.trial(trial)
        if chosen.checkpoint is None or chosen.state != TrialState.COMPLETE:
            raise StoreError(
                f"trial {trial} of study {self.name!r} has no model: it isn't complete"
            )
        with chosen.checkpoint.here(MODEL_FILES) as folder:
            return load_model(folder, chosen.run)

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """The figures of the report by name, as Plotly figures that a notebook draws.

        Raises:
            StoreError: No trial is complete.
        """
        from sabtune.reporting.figures import drawings, live

        return {drawing.name: live.figure(drawing) for drawing in drawings(gather(self._study))}

    def report(
        self,
        out: str | Path = "report",
        formats: Collection[str] = FORMATS,
        *,
        style: str = STYLES[0],
    ) -> list[Path]:
        """Write the report of the study: an HTML page, tables and figures.

        Args:
            out: The folder, which is created if it doesn't exist.
            formats: Some of "html", "md", "csv", "tex", "png" and "pdf". Defaults to all.
            style: "default"; or "paper", which writes the PNG and PDF figures in the widths and
                fonts of NeurIPS and ICML, without titles, to `figures/neurips/` and
                `figures/icml/`.

        Returns:
            The paths of the files.

        Raises:
            StoreError: No trial is complete, or the folder can't be written.
            ConfigError: A format or the style is unknown, or the style is "paper" and neither
                "png" nor "pdf" is among the formats.
        """
        chosen = [formats] if isinstance(formats, str) else formats
        return write(self._study, Path(out).expanduser(), chosen, style)

    def sync(self) -> None:
        """Write to MLflow whatever it lacks of the study, including the report.

        Raises:
            TrackingError: MLflow can't be reached or used.
        """
        mirror.sync(StudyWriter.open(self.store, self.name), self.store)
        self.refresh()
        problem = publish(self.name, self.store)
        if problem:
            raise TrackingError(problem)

    def __repr__(self) -> str:
        return f"<sabtune study {self.name!r} in {self.store.shown}: {self._study.size}>"

    def _repr_html_(self) -> str:
        """Return the study for a notebook: its question and its conclusion."""
        parts = [f"<p><b>{escape(self.name)}</b>: {escape(self._study.size)}</p>"]
        if self.question:
            parts.append(f"<p>{'<br>'.join(escape(self.question).splitlines())}</p>")
        if self.stopped_by:
            parts.append(f"<p>{escape(f'Ended by {self.stopped_by}.')}</p>")
        conclusion = conclude(self._study)
        parts.append(f"<p>{escape(' '.join(conclusion.sentences))}</p>")
        if conclusion.table is not None:
            table = pd.DataFrame(conclusion.table.body, columns=conclusion.table.header)
            parts.append(table.to_html(index=False, border=0))
        return "\n".join(parts)

    def _best(self) -> TrialRecord:
        best = self.best
        if best is None:
            raise StoreError(f"study {self.name!r} has no complete trial yet: search it first")
        return best


def _by_length(trial: TrialRecord) -> Iterator[dict[str, Any]]:
    """Yield the cells of a trial's results, one row for each length."""
    if trial.run is None or not trial.test:
        raise StoreError(f"trial {trial.number} isn't complete: give a complete trial")
    for result in trial.test:
        yield {
            "trial": trial.number,
            "label": trial.label or trial.run.model.label(),
            "seed": trial.run.seed,
            "length": result.length,
            "times_training": result.length / trial.run.task.length,
            "accuracy": result.accuracy,
            "loss": result.loss,
            "in_phase": result.in_phase,
            "worst_phase": result.worst_phase,
            "share_kept": trial.run.share_kept(result.length),
            "sequences": result.sequences,
        }


def open_study(
    name: str,
    store: str | Path | None = None,
    *,
    files: str | Path | None = None,
    tracking: str | None = None,
) -> OpenStudy:
    """Open a study of a store.

    Args:
        name: The name of the study.
        store: The folder of all studies, or the URL of a PostgreSQL database as a string. Defaults
            to `sabtune-store` in the current folder.
        files: The location of checkpoints and backups. Defaults to $SABTUNE_FILES, or else the
            store's folder.
        tracking: The MLflow that `OpenStudy.sync` writes to, as for `search`.

    Returns:
        The study.

    Raises:
        StoreError: The store has no such study, or can't be read. The message lists its studies.

    Example:
        >>> import sabtune as sab
        >>> found = sab.open_study("quick")
        >>> found.trials[["state", "trial.model.k_top"]]  # doctest: +SKIP
    """
    return OpenStudy(name, store_at(store, files, tracking).existing())


def study_names(store: str | Path | None = None, *, files: str | Path | None = None) -> list[str]:
    """Return the names of the studies of a store, sorted.

    Args:
        store: As for `open_study`.
        files: As for `open_study`.

    Raises:
        StoreError: There is no store, or it can't be read.
    """
    return sorted(stored_names(store_at(store, files).existing()))


def report(
    study: str,
    out: str | Path = "report",
    formats: Collection[str] = FORMATS,
    *,
    style: str = STYLES[0],
    store: str | Path | None = None,
    files: str | Path | None = None,
) -> list[Path]:
    """Write the report of a study: an HTML page, tables and figures.

    Args:
        study: The name of a study of the store.
        out: As for `OpenStudy.report`.
        formats: As for `OpenStudy.report`.
        style: As for `OpenStudy.report`.
        store: As for `open_study`.
        files: As for `open_study`.

    Returns:
        The paths of the files.

    Raises:
        StoreError: There is no such study, no trial is complete, or the folder can't be written.
        ConfigError: As for `OpenStudy.report`.

    Example:
        >>> import sabtune as sab
        >>> [path.name for path in sab.report("quick", "report", ["md"])]
        ['ladder.md']
    """
    return open_study(study, store, files=files).report(out, formats, style=style)
