"""Compare the figures of what the best model recalls with the model itself."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sabtune.config import RunConfig
from sabtune.models import LSTM, SAB
from sabtune.reporting.data import ReportData, gather
from sabtune.reporting.figures import memory
from sabtune.reporting.figures.marks import (
    Bars,
    Heat,
    Points,
    Rule,
)
from sabtune.seeding import Stream, generator
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.attributes import SPEC
from sabtune.study.record import StudyRecord
from sabtune.training import checkpoint
from sabtune.training.diagnostics import recall_map
from sabtune.training.loop import Training
from tests.reports import frozen, marks

pytest_plugins = ("tests.report_data",)


def test_the_recall_map_equals_the_models_and_marks_the_sources(recalling: ReportData) -> None:
    figure, *_ = memory.memory(recalling)
    (heat,) = marks(figure.panels[0], Heat)
    directory = recalling.best.checkpoint
    assert directory is not None
    model = checkpoint.load_model(Path(directory.address))
    assert isinstance(model, SAB)
    drawn = generator(0, Stream.TEST, index=30)
    batch = recalling.task.batches(30, Stream.TEST, drawn).batch(memory.HISTOGRAM_SEQUENCES)
    steps = recall_map(model, batch.x).by_step()[0]
    T = 30 + 2 * 3
    assert heat.z.shape == (T, T // 3)
    for row in range(T):
        for column in range(T // 3):
            there = float(steps[row, 3 * column + 2])  # the states of steps 3, 6, …
            cell = heat.z[row, column]
            assert np.isnan(cell) if there == 0 else cell == pytest.approx(there)
    circles = marks(figure.panels[0], Points)[-1]
    assert list(zip(circles.y, circles.x, strict=True)) == [(34, 1), (35, 2), (36, 3)]
    shown, asked = batch.x[0].argmax(dim=-1), batch.targets[0]
    for t, i in zip(circles.y, circles.x, strict=True):
        assert shown[int(i) - 1] == asked[int(t) - 1]


def test_at_long_lengths_only_scored_steps_are_shown(
    recalling: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell is the largest weight of the states between its edges."""
    monkeypatch.setattr(memory, "MAX_CELLS", 12)
    _, figure, _ = memory.memory(recalling)
    (heat,) = marks(figure.panels[0], Heat)
    far = max(result.length for result in recalling.best.test)
    assert far > 30
    assert f"{far:,}" in figure.title
    directory = recalling.best.checkpoint
    assert directory is not None
    model = checkpoint.load_model(Path(directory.address))
    assert isinstance(model, SAB)
    batch = recalling.task.batches(far, Stream.TEST, generator(0, Stream.TEST, index=far)).batch(1)
    found = recall_map(model, batch.x)
    T = far + 2 * 3
    assert heat.x[0] == 0.5
    assert heat.x[-1] == 0.5 + 3 * (T // 3)
    assert heat.z.shape == (3, len(heat.x) - 1)
    made_at = found.made_at[1:].tolist()
    for row, cells in enumerate(heat.z):
        weights = found.weights[0, T - 3 + row, 1:].tolist()
        for low, high, cell in zip(heat.x, heat.x[1:], cells, strict=False):
            pooled = max(w for w, at in zip(weights, made_at, strict=True) if low < at < high)
            assert np.isnan(cell) if pooled == 0 else cell == pytest.approx(pooled)
    circles = marks(figure.panels[0], Points)[-1]
    assert list(zip(circles.y, circles.x, strict=True)) == [(1, 1), (2, 2), (3, 3)]


def test_distances_are_shares_of_the_weight(recalling: ReportData) -> None:
    *_, figure = memory.memory(recalling)
    every, scored = marks(figure.panels[0], Bars)
    assert sum(every.heights) == pytest.approx(100, abs=0.1)
    assert sum(scored.heights) == pytest.approx(100, abs=0.1)
    assert every.at == list(range(1, 36))
    (rule,) = marks(figure.panels[0], Rule)
    assert rule.x == 33


def test_long_sequences_are_pooled(recalling: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = marks(memory.memory(recalling)[0].panels[0], Heat)[0].z
    monkeypatch.setattr(memory, "MAX_CELLS", 10)
    pooled = marks(memory.memory(recalling)[0].panels[0], Heat)[0]
    assert pooled.z.shape == (9, 6)
    assert np.nanmax(pooled.z) == pytest.approx(np.nanmax(whole))
    assert (len(pooled.y), len(pooled.x)) == (10, 7)


def test_a_model_without_memory_or_checkpoint_has_no_recall_map(
    recalling: ReportData, found: ReportData, tmp_path: Path
) -> None:
    assert memory.memory(found) == []
    gone = replace(recalling.best, checkpoint=Folder.at(tmp_path / "gone"))
    without = copy(recalling.study)
    without.ranked = [replace(recalling.ranked[0], complete=[gone])]
    assert memory.memory(replace(recalling, study=without)) == []
    study = optuna.create_study(study_name="lstm", direction="maximize")
    made = frozen(0, LSTM.Config(hidden=8), 0.5, TrialState.COMPLETE, checkpoint=tmp_path)
    Training(RunConfig.from_dict(made.user_attrs[SPEC]["run"])).save(tmp_path)
    study.add_trial(made)
    assert memory.memory(gather(StudyRecord(study, Store(tmp_path)))) == []


def test_a_task_without_sources_has_no_circles(
    recalling: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recalling.task, "sources", lambda x: None)
    *recalls, distances = memory.memory(recalling)
    assert len(recalls) == 2
    assert all(marks(recall.panels[0], Points) == [] for recall in recalls)
    assert marks(distances.panels[0], Rule) == []
