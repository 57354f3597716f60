"""Test accuracy by phase with models whose accuracy is periodic by construction."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sabtune.errors import ConfigError, StudyFileError
from sabtune.models import LSTM, SAB, Model
from sabtune.seeding import Stream, generator
from sabtune.study.loading import load
from sabtune.tasks import Copying, Language, Pixels, Task
from sabtune.training import evaluation
from sabtune.training.evaluation import (
    Begun,
    Ladder,
    LengthResult,
    measure,
    measure_on,
    recorded_ladder,
    solve_length,
    solves,
)
from sabtune.training.trial import TrialSpec
from tests.records import spec

COPYING = Copying.Config(length=6, symbols=3).build()
DIGITS = Pixels.Config(images="digits", length=8, by="row").build()


class Periodic(Model):
    """A model that is right only where the steps equal those of training modulo `period`.

    The model looks up its answers by the input, so the constructor draws all sequences. No input
    may occur at two lengths.
    """

    def __init__(self, task: Task, lengths: range, sequences: int, period: int, seed: int = 0):
        super().__init__()
        self.register_parameter("none", torch.nn.Parameter(torch.zeros(())))
        self.outputs, self._period = task.outputs, period
        self.known: dict[bytes, Tensor] = {}
        for length in lengths:
            drawn = generator(seed, Stream.TEST, index=length)
            batch = task.batches(length, Stream.TEST, drawn).batch(sequences)
            fits = (task.steps(length) - task.steps(task.length)) % period == 0
            for x, targets in zip(batch.x, batch.targets, strict=True):
                said = targets if fits else (targets + 1) % task.outputs
                self.known[x.numpy().tobytes()] = said

    @property
    def period(self) -> int:
        return self._period

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen = x if state is None else torch.cat([state, x], dim=1)
        said = torch.zeros(seen.shape[:2], dtype=torch.long)
        for row, shown in enumerate(seen):
            for steps in range(1, len(shown) + 1):
                targets = self.known.get(shown[:steps].contiguous().numpy().tobytes())
                if targets is not None and len(targets) == steps:
                    said[row, :steps] = targets
                    break
        return one_hot(said, self.outputs).float()[:, -x.shape[1] :] * 50, seen

    def carry(self, state: Any, span: int) -> Any:
        raise AssertionError("no task here carries a state")

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> Any:
        raise AssertionError("it has no random state")

    def restart(self, state: Any) -> Any:
        raise AssertionError("it passes nothing on")


@pytest.mark.parametrize("task", [COPYING, DIGITS], ids=["copying", "digits"])
@pytest.mark.parametrize(("period", "first"), [(1, 12), (2, 13), (3, 12), (3, 13), (5, 20)])
def test_mean_worst_and_in_phase_accuracy(task: Task, period: int, first: int) -> None:
    phases, sequences, seed = 5, 23, 15
    model = Periodic(task, range(first, first + phases), 5, period, seed)
    result = measure(
        model,
        task,
        first,
        sequences=sequences,
        seed=seed,
        stream=Stream.TEST,
        phases=phases,
    )
    right = [
        float((task.steps(first + at) - task.steps(task.length)) % period == 0)
        for at in range(phases)
    ]
    share = [5, 5, 5, 4, 4]
    assert result.by_phase == tuple(right)
    assert result.sequences == sequences
    mean = sum(r * n for r, n in zip(right, share, strict=True)) / sequences
    assert result.accuracy == pytest.approx(mean)
    assert result.in_phase == 1.0
    assert result.worst_phase == (1.0 if period == 1 else 0.0)
    assert solves([result], [first], task) is (period == 1)


def test_fewer_lengths_than_phases_give_no_worst_phase() -> None:
    model = Periodic(COPYING, range(7, 9), 4, 3)
    kept: dict[str, Any] = {"sequences": 8, "seed": 0, "stream": Stream.TEST}
    result = measure(model, COPYING, 7, **kept, phases=2)
    assert (result.accuracy, result.in_phase, result.worst_phase) == (0.0, None, None)


def test_a_task_scored_at_every_step_has_no_phase() -> None:
    task = Language.Config(length=5).build()
    model = SAB.Config(hidden=4, k_att=3).build(
        task.inputs, task.outputs, steps=5, generator=generator(0, Stream.INITIALIZATION)
    )
    result = measure(model, task, 6, sequences=4, seed=0, stream=Stream.TEST)
    assert (result.by_phase, result.in_phase, result.worst_phase) == ((), None, None)


@pytest.mark.parametrize("kind", [LSTM.Config(hidden=8), SAB.Config(hidden=8, k_top=2, k_att=3)])
@pytest.mark.parametrize("steps", [10**6, 100])
def test_lengths_measured_together_equal_lengths_measured_alone(
    kind: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kind.build(
        COPYING.inputs, COPYING.outputs, steps=12, generator=generator(0, Stream.INITIALIZATION)
    )
    monkeypatch.setattr(evaluation, "BATCH_STEPS", steps)
    monkeypatch.setattr(evaluation, "WINDOW_STEPS", 9)
    kept: dict[str, Any] = {"seed": 1, "stream": Stream.SELECTION}
    together = measure(model, COPYING, 20, **kept, sequences=40, phases=4)
    alone = [measure(model, COPYING, length, **kept, sequences=10) for length in range(20, 24)]
    assert together.by_phase == tuple(result.accuracy for result in alone)
    steps_of = [COPYING.steps(length) for length in range(20, 24)]
    mean = sum(r.loss * n for r, n in zip(alone, steps_of, strict=True)) / sum(steps_of)
    assert together.loss == pytest.approx(mean, rel=1e-5)


def test_batch_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Spy(Periodic):
        def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            nonlocal largest
            largest = max(largest, len(x))
            return super().forward(x, state)

    monkeypatch.setattr(evaluation, "BATCH_STEPS", 3 * COPYING.steps(16))
    model = Spy(COPYING, range(12, 17), 5, 1)
    kept: dict[str, Any] = {"sequences": 25, "seed": 0, "stream": Stream.TEST}
    assert measure(model, COPYING, 12, **kept, phases=5).accuracy == 1.0
    assert largest == 3


def test_pauses_between_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SAB.Config(hidden=8, k_att=3).build(
        COPYING.inputs, COPYING.outputs, steps=12, generator=generator(0, Stream.INITIALIZATION)
    )
    monkeypatch.setattr(evaluation, "BATCH_STEPS", 4 * COPYING.steps(24))
    kept: dict[str, Any] = {"sequences": 17, "seed": 3, "stream": Stream.SELECTION}
    kept |= {"phases": 5}
    whole, begun, pauses = measure(model, COPYING, 20, **kept), Begun(), 0
    while True:
        found = measure_on(model, COPYING, 20, **kept, begun=begun, should_pause=lambda: True)
        if isinstance(found, LengthResult):
            break
        begun, pauses = Begun.from_dict(json.loads(json.dumps(asdict(found)))), pauses + 1
    assert found == whole
    assert pauses == 4
    assert LengthResult.from_dict(json.loads(json.dumps(asdict(whole)))) == whole


def test_the_solve_length_uses_the_worst_phase() -> None:
    def result(length: int, in_phase: float, worst: float) -> LengthResult:
        mean = (in_phase + worst) / 2
        return LengthResult(
            length=length,
            accuracy=mean,
            loss=0.0,
            sequences=2,
            by_phase=(in_phase, worst),
            in_phase=in_phase,
            worst_phase=worst,
        )

    results = [result(20, 1.0, 1.0), result(40, 1.0, 0.98), result(80, 0.5, 0.5)]
    assert solve_length(results) == 20
    assert solve_length(results, in_phase=True) == 40
    alone = [LengthResult(length=20, accuracy=1.0, loss=0.0, sequences=2)]  # from an older store
    assert solve_length(alone) == solve_length(alone, in_phase=True) == 20


STUDY = """
import optuna
from sabtune.config import TrainConfig, TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import LSTM, SAB
from sabtune.study.definition import Study
from sabtune.tasks import Copying, Language

STUDY = Study(name="phases", task=TASK, ladder=LADDER, trials=2)

def space(trial):
SPACE

def lstm(trial):
    return TrialConfig(model=LSTM.Config(), train=TrainConfig())

def wide(trial):
    model = SAB.Config(k_att=trial.suggest_int("k_att", 1, 9))
    return TrialConfig(model=model, train=TrainConfig())

BASELINES = MORE
"""

PLAIN = "Ladder(lengths=(20, 40), select=(20,))"
NEVER = """
    k_att = trial.suggest_int("k_att", 1, 500)
    if k_att == 500:
        raise optuna.TrialPruned("too much")
"""


@pytest.mark.parametrize(
    ("space", "ladder", "baselines", "phases"),
    [
        ('k_att = trial.suggest_int("k_att", 1, 5)', PLAIN, "{}", 5),
        ('k_att = trial.suggest_int("k_att", 1, 700)', PLAIN[:-1] + ", sequences=700)", "{}", 700),
        ('k_att = 2 ** trial.suggest_int("log", 0, 7)', PLAIN, "{}", 128),
        ('k_att = trial.suggest_categorical("k_att", [7, 1, 2])', PLAIN, "{}", 7),
        ("k_att = 4", PLAIN, "{}", 4),
        ('k_att = trial.suggest_int("k_att", 1, 5)', PLAIN, "{'lstm': lstm, 'wide': wide}", 9),
        ("k_att = 4", PLAIN[:-1] + ", phases=2)", "{}", 2),
    ],
)  # fmt: skip
def test_every_phase_of_the_space_and_its_baselines_is_measured(
    tmp_path: Path, space: str, ladder: str, baselines: str, phases: int
) -> None:
    made = (
        f"    {space}\n    return TrialConfig(model=SAB.Config(k_att=k_att), train=TrainConfig())"
    )
    text = STUDY.replace("SPACE", made).replace("LADDER", ladder).replace("MORE", baselines)
    path = tmp_path / "phases.py"
    path.write_text(text.replace("TASK", "Copying.Config(length=20)"))
    assert load(path).study.ladder.phases == phases
    if "lstm" in baselines:
        assert load(path, "lstm").study.ladder.phases == phases
    path.write_text(text.replace("TASK", "Language.Config(length=20)"))
    assert load(path).study.ladder.phases == (2 if "phases" in ladder else 1)


def test_too_few_sequences_for_the_phases_is_one_line(tmp_path: Path) -> None:
    made = "    return TrialConfig(model=SAB.Config(k_att=20), train=TrainConfig())"
    ladder = PLAIN[:-1] + ", sequences=12)"
    text = STUDY.replace("SPACE", made).replace("LADDER", ladder).replace("MORE", "{}")
    path = tmp_path / "phases.py"
    path.write_text(text.replace("TASK", "Copying.Config(length=20)"))
    with pytest.raises(StudyFileError, match="sequences is 12: give at least one a phase, 20"):
        load(path)
    with pytest.raises(ConfigError, match="sequences is 3: give at least one a phase, 4"):
        Ladder(lengths=(5,), select=(5,), sequences=3, phases=4)


def test_a_ladder_of_an_earlier_version_has_one_phase() -> None:
    old = {"lengths": [5, 10], "select": [5], "sequences": 32, "solved_reports": None}
    assert recorded_ladder(old).phases == 1
    assert recorded_ladder(old | {"phases": 3}).phases == 3


def test_a_ladder_of_an_earlier_version_uses_the_scheduled_k_top() -> None:
    old = {"lengths": [5, 10], "select": [5], "sequences": 32, "solved_reports": None}
    assert recorded_ladder(old).k_top == "scheduled"
    assert recorded_ladder(old | {"k_top": None}).k_top == "final"
    content = spec().to_dict()
    del content["ladder"]["k_top"]
    assert TrialSpec.from_dict(content).ladder.k_top == "scheduled"
