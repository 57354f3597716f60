"""Test language tasks: continuous streams of text and the state carried along."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.data import texts
from sabtune.data.texts import TEXT_SETS
from sabtune.errors import ConfigError
from sabtune.models import LSTM, SAB, ModelConfig, SelfAttention
from sabtune.ops import reference
from sabtune.seeding import Stream, generator
from sabtune.tasks import Language
from sabtune.tasks.batch import Batch, one_hot
from sabtune.training.evaluation import measure
from sabtune.training.loop import Report, Training


def read(name: str, symbols: Tensor) -> str:
    return "".join(TEXT_SETS[name].alphabet[i] for i in symbols.tolist())


def said(batch: Batch) -> list[str]:
    """Return the characters of each row, followed by the last target."""
    shown = [read("pydoc", row) for row in batch.x.argmax(dim=-1)]
    return [a + read("pydoc", row[-1:]) for a, row in zip(shown, batch.targets, strict=True)]


def training(length: int = 50) -> Any:
    task = Language.Config(length=length).build()
    return task.batches(length, Stream.TRAINING, generator(3, Stream.TRAINING))


def test_each_training_row_continues_the_previous_batch() -> None:
    text = read("pydoc", texts.load("pydoc")[Stream.TRAINING])
    source, rows, passes = training(), [""] * 8, []
    for _ in range(2 * (len(text) // 8 // 50)):
        batch = source.batch(8)
        if not batch.continues:
            passes.append(rows)
            rows = [row[:1] for row in said(batch)]
        assert [row[:1] for row in said(batch)] == [row[-1] for row in rows]
        rows = [row + more[1:] for row, more in zip(rows, said(batch), strict=True)]
    first, second = passes[1], rows
    for read_ in (first, second):
        starts = [text.index(row) for row in read_]
        ends = [start + len(row) for start, row in zip(starts, read_, strict=True)]
        # The rows follow one another and together cover nearly all of the text.
        assert all(end <= start + 1 for end, start in zip(ends, starts[1:], strict=False))
        assert sum(map(len, read_)) > 0.98 * len(text)
    assert text.index(first[0]) != text.index(second[0])
    assert text.index(first[0]) < 50


def test_a_batch_larger_than_the_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size is 9000: give at most"):
        training().batch(9000)


def test_measured_sequences_do_not_overlap_and_have_no_state() -> None:
    task = Language.Config(length=50).build()
    source = task.batches(120, Stream.TEST, generator(0, Stream.TEST))
    assert source.count is not None
    batch = source.batch(source.count)
    assert not batch.continues
    text = read("pydoc", texts.load("pydoc")[Stream.TEST])
    rows = [text[start : start + 121] for start in range(0, 120 * source.count, 120)]
    assert sorted(said(batch)) == sorted(rows)
    assert source.count == (len(text) - 1) // 120


def test_bits_per_character_by_hand() -> None:
    """Check the mean of -log2 p; a uniform guess has log2 of the alphabet's size."""
    task = Language.Config(length=4).build()
    batch = task.batches(4, Stream.TEST, generator(0, Stream.TEST)).batch(2)
    share = torch.tensor([[0.5, 0.25, 0.125, 0.5], [0.5, 0.5, 0.25, 0.125]])
    right = one_hot(batch.targets, 70).bool()
    p = ((1 - share) / 69).unsqueeze(-1).expand(-1, -1, 70)
    logits = torch.where(right, share.unsqueeze(-1), p).log()
    tally = task.tally(logits, batch)
    assert tally.mean_loss == pytest.approx((1 + 2 + 3 + 1 + 1 + 1 + 2 + 3) / 8, rel=1e-5)
    nothing = task.tally(torch.zeros(2, 4, 70), batch).mean_loss
    assert nothing == pytest.approx(math.log2(70), rel=1e-5)
    assert task.normalized_score(1 / 70, nothing) == pytest.approx(0, abs=1e-6)
    assert task.normalized_score(0.5, math.log2(70) / 4) == pytest.approx(0.75)


MODELS = [
    SAB.Config(hidden=8, k_top=2, k_att=3, k_trunc=4),
    SAB.Config(hidden=8, k_top=2, k_att=3, scoring="dot", normalizer="softmax"),
    SAB.Config(hidden=8, k_top=2, k_att=3, form="released"),
    LSTM.Config(hidden=8),
    SelfAttention.Config(hidden=8),
]
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.label())


def run_of(model: ModelConfig, **changes: Any) -> RunConfig:
    train = TrainConfig(updates=24, batch_size=4, learning_rate=0.01, report_every=3)
    return RunConfig.of(
        task=Language.Config(**({"length": 10, "memory_span": 25} | changes)),
        trial=TrialConfig(model=model, train=train),
        seed=1,
    )


@every_model
def test_carrying_the_whole_state_continues_the_sequence(model: ModelConfig) -> None:
    built = model.build(5, 5, steps=20, generator=generator(0, Stream.INITIALIZATION)).double()
    x = torch.randn(3, 23, 5, generator=generator(0, Stream.TEST)).double()
    whole, _ = built(x)
    first, state = built(x[:, :11])
    rest, _ = built(x[:, 11:], built.carry(state, 100))
    assert torch.allclose(torch.cat([first, rest], dim=1), whole, atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "span", "made_at"),
    [
        (10, 100, [3, 6, 9]),
        (10, 4, [6, 9]),
        (10, 3, [9]),
        (10, 0, []),
        (9, 0, [9]),
        (12, 6, [6, 9, 12]),
    ],
)
def test_memories_older_than_the_span_are_dropped(
    steps: int, span: int, made_at: list[int]
) -> None:
    built = SAB.Config(hidden=6, k_top=2, k_att=3).build(
        2, 2, steps=9, generator=generator(0, Stream.INITIALIZATION)
    )
    x = torch.randn(2, steps, 2, generator=generator(0, Stream.TEST))
    p = built.weights()
    hidden, _, state = reference.sab(
        x, reference.initial_state(2, p), p, k_top=2, k_att=3, k_trunc=5
    )
    carried = built.carry(state, span)
    expected = torch.cat([torch.zeros(2, 1, 6), hidden[:, [t - 1 for t in made_at]]], dim=1)
    assert torch.equal(carried.memory, expected)
    assert torch.allclose(carried.keys, expected @ p.W1.T, atol=1e-6)
    assert carried.step == steps
    again = built.carry(carried, span)  # carrying it again drops nothing more
    assert torch.equal(again.memory, expected)
    assert not any(t.requires_grad for t in (carried.h, carried.c, carried.memory, carried.keys))


def test_self_attention_drops_memories_by_age() -> None:
    built = SelfAttention.Config(hidden=6).build(
        2, 2, steps=9, generator=generator(0, Stream.INITIALIZATION)
    )
    _, state = built(torch.randn(2, 10, 2, generator=generator(0, Stream.TEST)))
    assert torch.equal(built.carry(state, 3).memory, state.memory[:, 6:])


def test_carried_keys_use_the_current_weights() -> None:
    training = Training(run_of(SAB.Config(hidden=8, k_att=2)))
    next(iter(training))
    model = training.model
    assert isinstance(model, SAB)
    made = reference.key(training.carried.memory, model.weights(), model.rule)
    assert torch.equal(training.carried.keys, made)


@every_model
@pytest.mark.parametrize("stops", [[1], [3, 4]], ids=str)
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    model: ModelConfig, tmp_path: Path, stops: list[int]
) -> None:
    def timeless(reports: list[Report]) -> list[Report]:
        return [dataclasses.replace(report, updates_per_second=0.0) for report in reports]

    unbroken = Training(run_of(model))
    expected = list(unbroken)
    training, got = Training(run_of(model)), list[Report]()
    for stop in stops:
        reports = iter(training)
        while len(got) < stop:
            got.append(next(reports))
        training.save(tmp_path / str(stop))
        training = Training.resume(tmp_path / str(stop))
    got += list(training)
    assert timeless(got) == timeless(expected)
    for ours, theirs in zip(training.model.parameters(), unbroken.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_training_continues_from_the_previous_state() -> None:
    """Check that the losses differ if every sequence starts without a state."""
    carried = list(Training(run_of(LSTM.Config(hidden=8))))
    training = Training(run_of(LSTM.Config(hidden=8)))
    real = training.batches.batch

    def afresh(size: int) -> Batch:
        return dataclasses.replace(real(size), continues=False)

    training.batches.batch = afresh  # type: ignore[method-assign]
    assert [r.loss for r in training] != [r.loss for r in carried]


def test_a_state_without_a_finite_gradient_is_dropped() -> None:
    training = Training(run_of(LSTM.Config(hidden=8)))
    reports = iter(training)
    next(reports)
    assert training.carried is not None
    loss = training.task.loss
    training.task.loss = lambda logits, batch: loss(logits, batch) * math.inf  # type: ignore[method-assign]
    next(reports)
    assert training.carried is None
    training.task.loss = loss  # type: ignore[method-assign]
    assert next(reports).skipped == 0


def test_measuring_drops_old_memories_like_training() -> None:
    task = Language.Config(length=20, memory_span=30).build()
    model = SAB.Config(hidden=8, k_top=3, k_att=2).build(
        task.inputs, task.outputs, steps=50, generator=generator(0, Stream.INITIALIZATION)
    )
    most = []
    real = model.carry

    def spy(state: Any, span: int) -> Any:
        kept = real(state, span)
        most.append(kept.memory.shape[1])
        return kept

    model.carry = spy  # type: ignore[method-assign]
    result = measure(model, task, 200, sequences=3, seed=0, stream=Stream.TEST)
    assert result.sequences == 3
    assert most == [11] + [17] * 9  # m_0 and 10, then 16 states of every second step


@pytest.mark.parametrize(("key", "value"), [("length", 0), ("memory_span", -1)])
def test_a_language_value_out_of_range_is_named(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        Language.Config(**{key: value})  # type: ignore[arg-type]
