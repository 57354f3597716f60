"""Compare MemLSTM and RelLSTM with a loop over one sequence at a time, whose memories are lists."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sabtune.errors import ConfigError, InputError
from sabtune.models import MemLSTM, RelLSTM
from sabtune.seeding import Stream, generator

B, T, I, O, H = 4, 40, 3, 5, 6


def built(config: MemLSTM.Config) -> Any:
    """Return a model whose attention is far from uniform."""
    drawn = generator(0, Stream.INITIALIZATION)
    model = config.build(I, O, steps=T, generator=drawn).double()
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "W1", "W2", "w3"):
            model.get_parameter(name).mul_(4)
    return model


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed, Stream.TEST))


@dataclass(eq=False)
class Remembered:
    h: Tensor  # (H,)
    step: int
    relevance: float = 0.0


@dataclass
class Sequence:
    """One sequence of a model: `step` computes the logits (O,) of the next step."""

    model: MemLSTM
    h: Tensor = field(default_factory=lambda: torch.zeros(H, dtype=torch.float64))
    c: Tensor = field(default_factory=lambda: torch.zeros(H, dtype=torch.float64))
    steps: int = 0
    replaced: int = 0

    def __post_init__(self) -> None:
        self.s = self.h
        self.recent: list[Remembered] = []
        self.relevant: list[Remembered] = []
        self.left: list[Remembered] = []  # all that have left the buffer

    def step(self, x: Tensor) -> Tensor:
        p: dict[str, Tensor] = dict(self.model.named_parameters())
        config = self.model.config
        cell = nn.LSTMCell(I, H, dtype=torch.float64)
        weights = {name: p[name] for name in cell.state_dict()}
        self.h, self.c = torch.func.functional_call(cell, weights, (x, (self.s, self.c)))
        self.steps += 1
        self.recent.append(Remembered(self.h, self.steps))
        if isinstance(config, RelLSTM.Config) and len(self.recent) > config.short_term:
            self.screen(self.recent.pop(0), config.relevant)
        attended = self.recent + self.relevant
        query = p["W2"] @ self.s
        scores = [p["w3"] @ torch.tanh(p["W1"] @ each.h + query) for each in attended]
        alpha = torch.softmax(torch.stack(scores), dim=0)
        for each, weight in zip(self.recent, alpha, strict=False):
            each.relevance += weight.item()
        found = torch.stack([a * each.h for a, each in zip(alpha, attended, strict=True)])
        self.s = 0.5 * (self.h + found.sum(dim=0))
        return p["V"] @ self.h + p["b"]

    def screen(self, oldest: Remembered, most: int) -> None:
        self.left.append(oldest)
        if len(self.relevant) < most:
            self.relevant.append(oldest)
        elif most:
            lowest = min(self.relevant, key=lambda each: each.relevance)
            if oldest.relevance > lowest.relevance:
                self.relevant[self.relevant.index(lowest)] = oldest
                self.replaced += 1

    def forget(self, span: int) -> None:
        for states in (self.recent, self.relevant):
            states[:] = [each for each in states if self.steps - each.step <= span]


CONFIGS = [
    MemLSTM.Config(hidden=H),
    RelLSTM.Config(hidden=H, short_term=4, relevant=3),
    RelLSTM.Config(hidden=H, short_term=1, relevant=1),
    RelLSTM.Config(hidden=H, short_term=3, relevant=50),
    RelLSTM.Config(hidden=H, short_term=5, relevant=0),
]
over_configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.label())


@over_configs
def test_values_and_gradients_are_those_of_a_plain_loop(config: MemLSTM.Config) -> None:
    model, x = built(config), noise(B, T, I).requires_grad_()
    sequences = [Sequence(model) for _ in range(B)]
    theirs = torch.stack(
        [torch.stack([s.step(x_t) for x_t in of]) for s, of in zip(sequences, x, strict=True)]
    )
    ours, state = model(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    leaves, cotangent = [x, *model.parameters()], noise(B, T, O, seed=1)
    found, expected = (
        torch.autograd.grad((logits * cotangent).sum(), leaves) for logits in (ours, theirs)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    if isinstance(config, RelLSTM.Config):
        for sequence, scores, made_at in zip(sequences, state.scores, state.made_at, strict=True):
            assert {each.step for each in sequence.relevant} == set(made_at.tolist())
            best = sorted((each.relevance for each in sequence.left), reverse=True)
            wanted = torch.tensor(best[: config.relevant], dtype=torch.float64)
            torch.testing.assert_close(scores.sort(descending=True).values, wanted)


def test_sequences_of_a_batch_keep_different_states() -> None:
    """Without this, the comparison above would not exercise the screening."""
    model, x = built(CONFIGS[1]), noise(B, T, I)
    sequences = [Sequence(model) for _ in range(B)]
    with torch.no_grad():
        for sequence, of in zip(sequences, x, strict=True):
            for x_t in of:
                sequence.step(x_t)
    assert sum(sequence.replaced for sequence in sequences) > 5
    kept = {tuple(sorted(row)) for row in model(x)[1].made_at.tolist()}
    assert len(kept) > 1


@pytest.mark.parametrize("short_term", [T, T + 7])
def test_a_buffer_of_every_state_makes_it_mem_lstm(short_term: int) -> None:
    screened = built(RelLSTM.Config(hidden=H, short_term=short_term, relevant=2))
    every, x = built(MemLSTM.Config(hidden=H)), noise(B, T, I)
    logits, state = screened(x)
    assert torch.equal(logits, every(x)[0])
    assert state.relevant.shape[1] == 0
    assert not torch.allclose(built(CONFIGS[1])(x)[0], logits)


@pytest.mark.parametrize("span", [0, 3, 5, 12, 1000])
@over_configs
def test_carrying_drops_the_states_that_are_too_old(config: MemLSTM.Config, span: int) -> None:
    model, x = built(config), noise(B, T, I)
    with torch.no_grad():
        _, state = model(x[:, :20])
        ours, after = model(x[:, 20:], model.carry(state, span))
        theirs = []
        for of in x:
            sequence = Sequence(model)
            for x_t in of[:20]:
                sequence.step(x_t)
            sequence.forget(span)
            theirs.append(torch.stack([sequence.step(x_t) for x_t in of[20:]]))
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-10, atol=1e-10)
    assert model(x[:, :3], model.carry(after, span))[0].isfinite().all()


def test_the_state_does_not_grow_with_the_sequence() -> None:
    model = built(RelLSTM.Config(hidden=H, short_term=4, relevant=3))
    with torch.no_grad():
        for steps in (T, 2 * T):
            _, state = model(noise(B, steps, I))
            assert state.memory.shape == (B, 4, H)
            assert state.relevant.shape == (B, 3, H)
            assert state.step == steps


def test_wrong_values_get_one_line() -> None:
    for values in ({"short_term": 0}, {"relevant": -1}, {"short_term": 2.5}):
        (name,) = values
        with pytest.raises(ConfigError, match=f"{name} is .*: give a whole number"):
            RelLSTM.Config(**values)
    model, x = built(CONFIGS[1]), noise(B, T, I)
    _, state = model(x)
    for name, value in (
        ("s", state.s[:2]),
        ("scores", state.scores[:, :1]),
        ("made_at", state.made_at.double()),
        ("made_at", None),
        ("relevance", state.relevance.float()),
        ("step", -1),
    ):
        with pytest.raises(InputError, match=rf"^state\.{name} is "):
            model(x, replace(state, **{name: value}))
