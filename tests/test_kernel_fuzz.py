"""Compare the compiled passes with the equations on random sizes, rules, states and inputs.

Every run draws the same cases. A score that is closer to the threshold θ than the rounding error is
a tie. Any choice among ties is correct, so these tests compare only what every choice shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sabtune.models.sab import ALL
from sabtune.ops import reference, self_attention
from sabtune.ops.compiled.buffers import BUFFERS
from sabtune.ops.reference import Normalizer, Parameters, Rule, Scoring, State
from tests.fused_cases import (
    NAMES,
    Sparsity,
    by_equations,
    check_same,
    dispatch_predict,
    dispatch_sab,
    for_rule,
)

REAL = torch.float64
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-2}
TIE = {torch.float64: 1e-9, torch.float32: 1e-3}
SPOILT = (torch.nan, torch.inf, -torch.inf, 1e30, -1e30)

fuzz = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
over_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@dataclass(frozen=True)
class Case:
    """The sizes, weights and input of one call; O is the number of outputs."""

    B: int
    T: int
    I: int
    H: int
    O: int
    sparsity: Sparsity
    rule: Rule
    kind: str
    scale: float
    threads: int
    seed: int

    def draw(self, *shape: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        return torch.randn(*shape, dtype=REAL, generator=generator)

    def weights(self) -> Parameters:
        H = self.H
        shapes = [(4 * H, self.I), (4 * H, H), (4 * H,), (4 * H,), (H, H), (H, H), (H,)]
        size = self.scale * H**-0.5
        drawn = (size * self.draw(*shape, number=n) for n, shape in enumerate(shapes))
        return Parameters(**dict(zip(NAMES, drawn, strict=True)))

    def readout(self) -> tuple[Tensor, Tensor]:
        return self.draw(self.O, 2 * self.H, number=20), self.draw(self.O, number=21)

    def x(self, number: int = 30) -> Tensor:
        """Return an input of shape (B, T, I): symbols, noise or noise with other strides."""
        noise = self.draw(self.B, self.T, self.I, number=number)
        if self.kind == "one-hot":
            return torch.nn.functional.one_hot(noise.argmax(dim=2), self.I).to(REAL)
        if self.kind == "strided":
            return noise.transpose(0, 2).contiguous().transpose(0, 2)
        return noise


@st.composite
def cases(draw: Callable[[Any], Any]) -> Case:
    def whole(least: int, most: int) -> int:
        return int(draw(st.integers(least, most)))

    k_top = draw(st.one_of(st.integers(1, 12), st.just(ALL)))
    rule = Rule(
        scoring=draw(st.sampled_from(get_args(Scoring))),
        normalizer=draw(st.sampled_from(get_args(Normalizer))),
        epsilon=draw(st.sampled_from([1e-7, 1e-3, 0.1])),
    )
    return Case(
        B=whole(1, 40),
        T=whole(1, 60),
        I=whole(1, 20),
        H=whole(1, 40),
        O=whole(1, 20),
        sparsity=Sparsity(k_top=k_top, k_att=whole(1, 7), k_trunc=whole(0, 9)),
        rule=rule,
        kind=draw(st.sampled_from(["noise", "one-hot", "strided"])),
        scale=draw(st.sampled_from([0.5, 1.0])),
        threads=whole(1, 2),
        seed=whole(0, 10**6),
    )


@contextmanager
def running(case: Case) -> Iterator[None]:
    """Set the number of threads, and fill buffers with NaN to expose uninitialized reads."""
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    BUFFERS.poisoned = True
    try:
        yield
    finally:
        BUFFERS.poisoned = False
        torch.set_num_threads(before)


@contextmanager
def margin() -> Iterator[list[Tensor]]:
    """Collect the distances of the equations' scores to θ at every step, without that of θ."""
    gaps: list[Tensor] = []
    original = reference.sparse_weights

    def watched(a: Tensor, k_top: int, rule: Rule = reference.PAPER) -> Tensor:
        distance = (a.detach() - reference.threshold(a.detach(), k_top)).abs().sort(dim=1).values
        gaps.append(distance[:, 1:].flatten())
        return original(a, k_top, rule)

    reference.sparse_weights = watched
    try:
        yield gaps
    finally:
        reference.sparse_weights = original


def is_tied(gaps: list[Tensor], dtype: torch.dtype) -> bool:
    every = torch.cat(gaps)
    return every.numel() > 0 and every.min().item() < TIE[dtype]


def cast(p: Parameters, dtype: torch.dtype, *, learned: bool = False) -> Parameters:
    """Return copies of the weights; unused weights stay empty."""
    copies = {name: getattr(p, name).detach().to(dtype, copy=True) for name in NAMES}
    return Parameters(**{name: copy.requires_grad_(learned) for name, copy in copies.items()})


def state_of(state: State, dtype: torch.dtype) -> State:
    tensors = {name: getattr(state, name).to(dtype) for name in ("h", "c", "memory", "keys")}
    return State(**tensors, step=state.step)


def gradients(predict: Any, case: Case, x: Tensor, state: State) -> dict[str, Tensor]:
    """Return a call's logits, final state and the gradients of a weighted sum of its logits."""
    dtype = x.dtype
    p = cast(for_rule(case.weights(), case.rule), dtype, learned=True)
    V, b = (tensor.to(dtype).requires_grad_() for tensor in case.readout())
    x = x.clone().requires_grad_()
    logits, after = predict(x, state, p, (V, b), **case.sparsity, rule=case.rule)
    weigh = case.draw(*logits.shape, number=40).to(dtype)
    leaves = {"x": x, "V": V, "b": b} | {name: getattr(p, name) for name in NAMES}
    found = torch.autograd.grad((logits * weigh).sum(), list(leaves.values()), allow_unused=True)
    results = {"logits": logits.detach()}
    results |= {name: getattr(after, name).detach() for name in ("h", "c", "memory", "keys")}
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        results["d_" + name] = torch.zeros_like(leaf) if gradient is None else gradient
    return results


def compare(found: dict[str, Tensor], truth: dict[str, Tensor], dtype: torch.dtype) -> None:
    if dtype is torch.float32:  # a gradient through w_i / Σ w can be only rounding error
        assert all(tensor.isfinite().all() for tensor in found.values())
        truth = {name: tensor for name, tensor in truth.items() if not name.startswith("d_")}
    check_same(found, truth, TOLERANCE[dtype])


@over_dtypes
@fuzz
@given(case=cases(), before=st.integers(0, 30))
def test_values_and_gradients(dtype: torch.dtype, case: Case, before: int) -> None:
    """Check a call that continues from the state after `before` steps."""
    p = for_rule(case.weights(), case.rule)
    with margin() as gaps:
        state = reference.initial_state(case.B, p)
        if before:
            with torch.no_grad():
                first = replace(case, T=before).x(31)
                state = reference.sab(first, state, p, **case.sparsity, rule=case.rule)[2]
        truth = gradients(by_equations, case, case.x(), state)
    with running(case):
        found = gradients(dispatch_predict, case, case.x().to(dtype), state_of(state, dtype))
    if is_tied(gaps, dtype):
        assert all(tensor.isfinite().all() for tensor in found.values())
    else:
        compare(found, truth, dtype)


@over_dtypes
@fuzz
@given(case=cases(), lengths=st.lists(st.integers(1, 20), min_size=5, max_size=5))
def test_two_continuations_of_one_state(dtype: torch.dtype, case: Case, lengths: list[int]) -> None:
    """Continue two sequences with a common start in turn, without gradients."""
    p = for_rule(case.weights(), case.rule)
    stretches = [replace(case, T=T).x(50 + n) for n, T in enumerate(lengths)]
    turns = [(0, None), (1, 0), (2, 0), (3, 1), (4, 2)]  # (segment, the segment it continues)
    results = []
    for predict, real in ((dispatch_predict, dtype), (by_equations, REAL)):
        V, b = case.readout()
        weights, readout = cast(p, real), (V.to(real), b.to(real))
        states: list[State] = []
        logits = []
        with running(case), margin() as gaps, torch.no_grad():
            for n, origin in turns:
                start = reference.initial_state(case.B, weights)
                state = start if origin is None else states[origin]
                x = stretches[n].to(real)
                y, after = predict(x, state, weights, readout, **case.sparsity, rule=case.rule)
                logits.append(y)
                states.append(after)
        results.append(
            {f"logits {n}": y for n, y in enumerate(logits)}
            | {f"memory {n}": state.memory for n, state in enumerate(states)}
            | {f"keys {n}": state.keys for n, state in enumerate(states)}
        )
    if is_tied(gaps, dtype):
        assert all(tensor.isfinite().all() for tensor in results[0].values())
    else:
        compare(results[0], results[1], dtype)


@over_dtypes
@fuzz
@given(case=cases(), value=st.sampled_from(SPOILT), place=st.integers(0, 10**6))
def test_a_spoiled_example_does_not_affect_others(
    dtype: torch.dtype, case: Case, value: float, place: int
) -> None:
    p = cast(for_rule(case.weights(), case.rule), dtype)
    x = case.x().to(dtype).contiguous()
    spoilt = x.clone()
    spoilt.view(-1)[place % x.numel()] = value
    which = place % x.numel() // (case.T * case.I)
    others = [b for b in range(case.B) if b != which]
    found = []
    with running(case):
        for each in (x, spoilt):
            state = reference.initial_state(case.B, p)
            leaf = each.clone().requires_grad_()
            hidden, summary, _ = dispatch_sab(leaf, state, p, **case.sparsity, rule=case.rule)
            (gradient,) = torch.autograd.grad((hidden + summary).sum(), leaf)
            found.append((hidden.detach(), summary.detach(), gradient))
    for clean, beside in zip(*found, strict=True):
        assert torch.equal(clean[others], beside[others])


@over_dtypes
@fuzz
@given(case=cases(), before=st.integers(0, 20))
def test_self_attention(dtype: torch.dtype, case: Case, before: int) -> None:
    p = case.weights()
    with torch.no_grad():
        ends = case.draw(2, case.B, case.H, number=60).tanh()
        state = self_attention.start(*ends)
        if before:
            state = self_attention.equations(replace(case, T=before).x(61), state, p)[2]
    results = []
    for attend, real in ((self_attention.attend, dtype), (self_attention.equations, REAL)):
        weights = cast(p, real, learned=True)
        x = case.x().to(real).requires_grad_()
        tensors = (state.h, state.c, state.memory, state.keys)
        with running(case):
            hidden, summary, after = attend(
                x, self_attention.State(*(t.to(real) for t in tensors)), weights
            )
            weigh = case.draw(*hidden.shape, number=62).to(real)
            leaves = {"x": x} | {name: getattr(weights, name) for name in NAMES}
            total = (hidden * weigh + summary).sum()
            found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        results.append(
            {"hidden": hidden.detach(), "summary": summary.detach(), "keys": after.keys.detach()}
            | {f"d_{name}": gradient for name, gradient in zip(leaves, found, strict=True)}
        )
    compare(results[0], results[1], dtype)
