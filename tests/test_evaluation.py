"""Test measurements over the length ladder against counts by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sabtune.errors import ConfigError
from sabtune.models import SAB, Model
from sabtune.seeding import Stream, generator
from sabtune.tasks import Copying, Language, Tally, Task, above_chance
from sabtune.training import evaluation
from sabtune.training.evaluation import (
    Begun,
    Ladder,
    LengthResult,
    length_score,
    measure,
    measure_ladder,
    measure_on,
    solve_length,
)

TASK = Copying.Config(length=5, symbols=3).build()


def judge(chance: float) -> Task:
    """Return a task with this chance level."""
    task = Copying.Config().build()
    task.chance = chance
    return task


class Oracle(Model):
    """A model that recalls correctly in the first `reach` steps and predicts blanks after them."""

    def __init__(self, reach: int):
        super().__init__()
        self.reach = reach
        self.largest = 0
        self.register_parameter("none", torch.nn.Parameter(torch.zeros(())))

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        self.largest = max(self.largest, x.shape[0] * x.shape[1])
        seen = x if state is None else torch.cat([state, x], dim=1)
        T, n = seen.shape[1], TASK.config.symbols
        said = torch.zeros(seen.shape[:2], dtype=torch.long)
        marker = int(seen[0].argmax(dim=-1).eq(TASK.marker).int().argmax())
        for i in range(n):
            if marker and marker + 1 + i < min(T, self.reach):
                said[:, marker + 1 + i] = seen[:, i].argmax(dim=-1)
        return one_hot(said, TASK.outputs).float()[:, -x.shape[1] :] * 50, seen

    def carry(self, state: Any, span: int) -> Any:
        return state[:, -span:]

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> Any:
        raise AssertionError("it has no random state")

    def restart(self, state: Any) -> Any:
        raise AssertionError("it passes nothing on")


def results(**accuracy: float) -> list[LengthResult]:
    return [
        LengthResult(length=int(key[1:]), accuracy=value, loss=0.0, sequences=1)
        for key, value in accuracy.items()
    ]


def test_a_length_counts_every_scored_prediction() -> None:
    kept = {"sequences": 10, "seed": 0, "stream": Stream.TEST}
    assert measure(Oracle(10**6), TASK, 40, **kept).accuracy == 1.0  # type: ignore[arg-type]
    # The last of three predictions, at step 46, is out of reach.
    assert measure(Oracle(45), TASK, 40, **kept).accuracy == pytest.approx(2 / 3)  # type: ignore[arg-type]


def test_a_result_has_its_time_which_equality_ignores() -> None:
    kept = {"sequences": 10, "seed": 0, "stream": Stream.TEST}
    one, other = (measure(Oracle(10**6), TASK, 40, **kept) for _ in range(2))  # type: ignore[arg-type]
    assert one.seconds is not None
    assert one.seconds > 0
    assert one == other
    old = {key: value for key, value in asdict(one).items() if key != "seconds"}
    assert LengthResult(**old) == one  # records of earlier versions have no time
    assert LengthResult(**old).seconds is None


def test_windows_do_not_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SAB.Config(hidden=8, k_top=2, k_att=2).build(
        TASK.inputs, TASK.outputs, steps=11, generator=generator(0, Stream.INITIALIZATION)
    )
    model = model.double()
    double = Copying.Config(length=5, symbols=3).build()
    draw = double.batch

    def batch(*arguments: Any) -> Any:
        made = draw(*arguments)
        return type(made)(x=made.x.double(), targets=made.targets, scored=made.scored)

    monkeypatch.setattr(double, "batch", batch)
    monkeypatch.setattr(evaluation, "BATCH_STEPS", 10**6)
    whole = measure(model, double, 50, sequences=12, seed=0, stream=Stream.TEST)
    monkeypatch.setattr(evaluation, "WINDOW_STEPS", 7)
    pieces = measure(model, double, 50, sequences=12, seed=0, stream=Stream.TEST)
    assert pieces.accuracy == whole.accuracy
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-6)


def test_memory_at_once_is_bounded() -> None:
    model = Oracle(10)
    measure(model, TASK, 30_000, sequences=5, seed=0, stream=Stream.TEST)
    assert 0 < model.largest <= evaluation.BATCH_STEPS / 30_000 * evaluation.WINDOW_STEPS


def test_sequences_depend_on_the_stream_and_not_on_the_model() -> None:
    seen: dict[str, list[Tensor]] = {"a": [], "b": [], "c": []}

    class Spy(Oracle):
        def __init__(self, name: str):
            super().__init__(10)
            self.name = name

        def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            seen[self.name].append(x)
            return super().forward(x, state)

    for name, stream in (("a", Stream.TEST), ("b", Stream.TEST), ("c", Stream.SELECTION)):
        measure_ladder(Spy(name), TASK, (5, 10), sequences=4, seed=3, stream=stream)
    assert all(torch.equal(a, b) for a, b in zip(seen["a"], seen["b"], strict=True))
    assert not any(torch.equal(a, c) for a, c in zip(seen["a"], seen["c"], strict=True))


def test_above_chance() -> None:
    assert above_chance(1.0, 0.125) == 1.0
    assert above_chance(0.125, 0.125) == 0.0
    assert above_chance(0.0, 0.125) == 0.0
    assert above_chance(0.5625, 0.125) == pytest.approx(0.5)


def test_the_length_score_averages_over_the_logarithm_of_length() -> None:
    assert length_score(results(l10=0.0, l20=1.0, l40=1.0, l80=1.0), judge(0.0)) == pytest.approx(
        1.0
    )
    # The mean is 0.75 over one octave (20 to 40) and 0.25 over two octaves (40 to 160).
    score = length_score(results(l10=1.0, l20=1.0, l40=0.5, l160=0.0), judge(0.0))
    assert score == pytest.approx((0.75 + 2 * 0.25) / 3)
    # A length between two others of the same accuracy changes nothing.
    middle = length_score(results(l10=1.0, l20=1.0, l28=1.0, l40=1.0, l160=0.0), judge(0.0))
    plain = length_score(results(l10=1.0, l20=1.0, l40=1.0, l160=0.0), judge(0.0))
    assert middle == pytest.approx(plain)
    assert length_score(results(l10=1.0, l20=0.5), judge(0.0)) == 0.5
    assert length_score(results(l10=1.0), judge(0.0)) == 0.0


def test_the_selection_score_is_the_mean_over_its_lengths() -> None:
    assert evaluation.selection_score(results(l5=1.0, l10=0.5625), judge(0.125)) == pytest.approx(
        0.75
    )


def test_the_solve_length_ends_at_the_first_length_below() -> None:
    assert solve_length(results(l10=1.0, l20=0.99, l40=0.98, l80=1.0)) == 20
    assert solve_length(results(l10=0.5, l20=1.0)) == 0
    assert solve_length(results(l10=1.0, l20=1.0)) == 20


@pytest.mark.parametrize(
    ("lengths", "message"),
    [((), "at least one length"), ((20, 10), "rising order"), ((0, 5), "at least 1")],
)
def test_the_lengths_of_a_ladder_increase(lengths: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ladder(lengths=lengths, select=(5,))
    with pytest.raises(ConfigError, match=message):
        Ladder(lengths=(5,), select=lengths)


@pytest.mark.parametrize("carries", [False, True])
def test_a_measurement_with_pauses_gives_the_same_result(
    carries: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement pauses after every batch and resumes from plain values."""
    task = Language.Config(length=5, text="pydoc").build() if carries else TASK
    model = SAB.Config(hidden=8, k_att=2).build(
        task.inputs, task.outputs, steps=5, generator=generator(0, Stream.INITIALIZATION)
    )
    kept = {"sequences": 7, "seed": 3, "stream": Stream.SELECTION}
    monkeypatch.setattr(evaluation, "BATCH_STEPS", 3 * task.steps(20))
    whole = measure(model, task, 20, **kept)  # type: ignore[arg-type]
    begun, done = Begun(), []
    while True:
        found = measure_on(
            model, task, 20, **kept, begun=begun, should_pause=lambda: True  # type: ignore[arg-type]
        )  # fmt: skip
        if isinstance(found, LengthResult):
            break
        begun = Begun.from_dict(json.loads(json.dumps(asdict(found))))
        done.append(begun.done)
    assert done == [3, 6]
    assert found == whole
    assert found.seconds is not None
    assert found.seconds > begun.seconds


def test_a_complete_measurement_is_not_repeated() -> None:
    oracle = Oracle(10**6)
    begun = Begun(done=10, tallies=(Tally(loss=1.0, steps=4, correct=1, scored=2),), seconds=2.0)
    kept = {"sequences": 10, "seed": 0, "stream": Stream.TEST}
    found = measure_on(oracle, TASK, 40, **kept, begun=begun)  # type: ignore[arg-type]
    assert isinstance(found, LengthResult)
    assert (found.accuracy, found.loss, oracle.largest) == (0.5, 0.25, 0)
