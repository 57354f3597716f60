"""MemLSTM and RelLSTM: self-attention that feeds an LSTM, without and with relevancy screening.

Source: Kerg et al., "Untangling tradeoffs between recurrence and self-attention in neural
networks", NeurIPS 2020, arXiv 2006.09471, and the code that its authors published.

Shapes: B batch, T steps, I inputs, O outputs, H hidden, M states in the buffer, R states in the
relevant set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from sabtune.errors import InputError
from sabtune.models.base import matrix_weights, uniform
from sabtune.models.lstm_like import LSTMLike, LSTMLikeConfig
from sabtune.models.weights import AttentionWeights
from sabtune.ops import reference
from sabtune.ops.checks import Named, check_count, check_state, check_tensors, check_x
from sabtune.ops.reference import Parameters
from sabtune.schema import check_whole

EMPTY = -torch.inf
"""The relevance of a place of the relevant set that holds no state."""


@dataclass(frozen=True)
class MemState:
    """The state of MemLSTM: h, c and s (B, H); every h_i so far and its W1 h_i (B, M, H)."""

    h: Tensor
    c: Tensor
    s: Tensor
    memory: Tensor
    keys: Tensor


@dataclass(frozen=True)
class RelState:
    """The state of RelLSTM.

    h, c, s: (B, H). memory, keys: the buffer, which holds the last h_i and W1 h_i (B, M, H), oldest
    first. relevance: β of each state in the buffer (B, M), so far. relevant, relevant_keys: the
    relevant set, h_i and W1 h_i (B, R, H). scores: β of each state in it (B, R), or `EMPTY`.
    made_at: the step of each state in it (B, R). step: the number of steps so far.
    """

    h: Tensor
    c: Tensor
    s: Tensor
    memory: Tensor
    keys: Tensor
    relevance: Tensor
    relevant: Tensor
    relevant_keys: Tensor
    scores: Tensor
    made_at: Tensor
    step: int


class MemLSTM(AttentionWeights, LSTMLike):
    """MemLSTM (Kerg et al., 2020, arXiv 2006.09471): an LSTM fed by attention to all its states.

    After each step t, the model attends to every state so far, h_t included. Half of the result and
    half of h_t are what the LSTM reads in the place of h_t at the next step:

        h_t, c_t = LSTMCell(x_t, (s_{t-1}, c_{t-1}))
        a_i = w3 · tanh(W1 h_i + W2 s_{t-1})  for every 1 ≤ i ≤ t;   α = softmax(a)
        s_t = (h_t + Σ α_i h_i) / 2;   y_t = V h_t + b

    where s_0 = h_0, which is not attended to. These are the equations of the authors' code, in
    which the query is the s of the step before, the attention is additive, and s_t is an average.
    The initial weights are those of the other models here: uniform, by fan-in. Time and memory grow
    with T².

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.MemLSTM.Config(hidden=32), torch.Generator()
        >>> model = sab.MemLSTM(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.memory.shape
        (torch.Size([8, 40, 9]), torch.Size([8, 40, 32]))
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LSTMLikeConfig):
        """The configuration of MemLSTM, with only the fields of an LSTM.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the gates start more open (Gers et al., 2000).

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> config = sab.MemLSTM.Config(hidden=64)
            >>> config.label(), config.legend(), config.share_kept(steps=100)
            ('mem-lstm', 'MemLSTM', 1.0)
        """

        def label(self) -> str:
            return "mem-lstm"

        def legend(self) -> str:
            return "MemLSTM"

        def share_kept(self, steps: int) -> float:
            return 1.0

        def attended(self, step: int) -> int:
            """Return the number of states that a step attends to, counted from 1."""
            return step

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> MemLSTM:
            return MemLSTM(self, inputs, outputs, generator)

    state_type: type = MemState
    config: Config

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__()
        self.config = config
        H = config.hidden
        self.add_weights(inputs, H, generator, forget_bias=config.forget_bias)
        self.V = uniform(outputs, H, fan_in=H, generator=generator)
        self.b = uniform(outputs, fan_in=H, generator=generator)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        check_x(x, self.weight_ih.shape[1])
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.config.hidden)
            state = self.start(zeros, zeros)
        self.check(x, state)
        return self.run(x, state)

    def check(self, x: Tensor, state: Any) -> None:
        """Raise InputError unless `state` fits x (B, T, I) and the weights."""
        check_state(state, self.state_type)
        B, H = x.shape[0], self.config.hidden
        named: list[Named] = [(f"state.{name}", getattr(state, name), (B, H)) for name in "hcs"]
        M = places(state.memory)
        named += [("state.memory", state.memory, (B, M, H)), ("state.keys", state.keys, (B, M, H))]
        named += [("weight_hh", self.weight_hh, (4 * H, H)), ("V", self.V, self.V.shape)]
        check_tensors(x, named)

    def run(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the logits (B, T, O) of x, and the state after it."""
        p, hidden = self.weights(), []
        h, c, s, memory, keys = state.h, state.c, state.s, state.memory, state.keys
        for gates in linear(x, p.weight_ih, p.bias_ih).unbind(dim=1):
            h, c = reference.lstm_cell(gates, s, c, p)
            memory, keys = with_last(memory, h), with_last(keys, reference.key(h, p))
            s, _ = attend(s, h, memory, keys, p)
            hidden.append(h)
        return self.readout(hidden), MemState(h, c, s, memory, keys)

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the multiply-adds of a step, which scores and sums up the states it attends to.

        See `Model.multiply_adds`. W1 h is computed once for each state.
        """
        attended = sum(self.config.attended(step) for step in range(1, steps + 1)) / steps
        return matrix_weights(self) + 2 * attended * self.config.hidden

    def readout(self, hidden: list[Tensor]) -> Tensor:
        """Compute the logits (B, T, O) from the h (B, H) of every step."""
        return linear(torch.stack(hidden, dim=1), self.V, self.b)

    def start(self, h: Tensor, c: Tensor) -> Any:
        empty = h.unsqueeze(1)[:, :0]
        return MemState(h, c, h, empty, empty)

    @torch.no_grad()
    def carry(self, state: Any, span: int) -> Any:
        memory = state.memory[:, -span - 1 :].detach()
        keys = reference.key(memory, self.weights())
        return MemState(state.h.detach(), state.c.detach(), state.s.detach(), memory, keys)


class RelLSTM(MemLSTM):
    """RelLSTM (Kerg et al., 2020, arXiv 2006.09471): MemLSTM with relevancy screening.

    It is `MemLSTM`, except that a step attends to few states: those in a buffer of the last ν =
    `short_term` states, h_t included, and those in a relevant set of at most ρ = `relevant` states.

        β(i) = the sum of α_i over the ν steps that attend to h_i while it is in the buffer

    A state that leaves the buffer enters the relevant set if that has fewer than ρ states. If not,
    it replaces the one with the smallest β, provided that its own β is larger. A state that does
    not enter is forgotten. So the set has the states with the ρ largest β, of which the older one
    stays in a tie. No gradient flows through β, but gradients flow back into every state of the
    buffer and of the set. This is the screening of the authors' code. Each sequence has a relevant
    set of its own. Time grows with T (ν + ρ). With ν ≥ T, the model is MemLSTM.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config = sab.RelLSTM.Config(hidden=32, short_term=5, relevant=3)
        >>> model = sab.RelLSTM(config, 10, 9, torch.Generator().manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.memory.shape, state.relevant.shape
        (torch.Size([8, 40, 9]), torch.Size([8, 5, 32]), torch.Size([8, 3, 32]))
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(MemLSTM.Config):
        """The configuration of RelLSTM. The defaults of ν and ρ are those of the authors' code.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the gates start more open (Gers et al., 2000).
            short_term: ν, the number of states in the buffer, at least 1.
            relevant: ρ, the largest number of states in the relevant set; 0 for none.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> config = sab.RelLSTM.Config(short_term=10, relevant=5)
            >>> config.label()
            'rel-lstm short_term=10 relevant=5'
            >>> config.legend()
            'RelLSTM (short_term=10, relevant=5)'
            >>> config.share_kept(steps=60)  # 15 of 60 states
            0.25
        """

        short_term: int = 15
        relevant: int = 15

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("short_term", self.short_term, least=1)
            check_whole("relevant", self.relevant, least=0)

        def label(self) -> str:
            return f"rel-lstm short_term={self.short_term} relevant={self.relevant}"

        def legend(self) -> str:
            return f"RelLSTM (short_term={self.short_term}, relevant={self.relevant})"

        def share_kept(self, steps: int) -> float:
            return self.attended(steps) / steps

        def attended(self, step: int) -> int:
            return min(step, self.short_term + self.relevant)

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> RelLSTM:
            return RelLSTM(self, inputs, outputs, generator)

    state_type: type = RelState
    config: Config

    def check(self, x: Tensor, state: Any) -> None:
        super().check(x, state)
        B, H, M, R = x.shape[0], self.config.hidden, places(state.memory), places(state.relevant)
        named: list[Named] = [
            ("state.relevance", state.relevance, (B, M)),
            ("state.relevant", state.relevant, (B, R, H)),
            ("state.relevant_keys", state.relevant_keys, (B, R, H)),
            ("state.scores", state.scores, (B, R)),
        ]
        check_tensors(x, named)
        made_at, wanted = state.made_at, (torch.int64, (B, R), x.device)
        if not isinstance(made_at, Tensor):
            raise InputError(f"state.made_at is of type {type(made_at).__name__}: give a Tensor")
        if (made_at.dtype, tuple(made_at.shape), made_at.device) != wanted:
            raise InputError(
                f"state.made_at is {made_at.dtype} {tuple(made_at.shape)} on {made_at.device}: "
                f"give {wanted[0]} {wanted[1]} on {wanted[2]}"
            )
        check_count("state.step", state.step, least=0)

    def run(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        p, hidden = self.weights(), []
        has_empty = bool(state.scores.isneginf().any())
        for gates in linear(x, p.weight_ih, p.bias_ih).unbind(dim=1):
            state = self.step(gates, state, p, has_empty=has_empty)
            hidden.append(state.h)
        return self.readout(hidden), state

    def step(self, gates: Tensor, before: RelState, p: Parameters, *, has_empty: bool) -> RelState:
        """Run a step from W_ih x_t + b_ih (B, 4H).

        has_empty: Whether a place of the relevant set may be empty.
        """
        h, c = reference.lstm_cell(gates, before.s, before.c, p)
        recent = replace(
            before,
            h=h,
            c=c,
            memory=with_last(before.memory, h),
            keys=with_last(before.keys, reference.key(h, p)),
            relevance=pad(before.relevance, (0, 1)),
            step=before.step + 1,
        )
        state = self.screened(recent)
        M, R = state.memory.shape[1], state.relevant.shape[1]
        memory, keys, empty = state.memory, state.keys, None
        if R:
            memory = torch.cat([memory, state.relevant], dim=1)
            keys = torch.cat([keys, state.relevant_keys], dim=1)
        if R and has_empty:
            empty = pad(state.scores.isneginf(), (M, 0))
        s, weights = attend(before.s, h, memory, keys, p, empty)
        return replace(state, s=s, relevance=state.relevance + weights[:, :M].detach())

    def screened(self, state: RelState) -> RelState:
        """Move the oldest of more than ν states in the buffer to the relevant set, or drop it.

        If the buffer has at most ν states, return `state`.
        """
        short_term, most = self.config.short_term, self.config.relevant
        if state.memory.shape[1] <= short_term:
            return state
        kept = replace(
            state,
            memory=state.memory[:, 1:],
            keys=state.keys[:, 1:],
            relevance=state.relevance[:, 1:],
        )
        m, key, beta = state.memory[:, :1], state.keys[:, :1], state.relevance[:, :1]
        made_at = torch.full_like(beta, state.step - short_term, dtype=torch.int64)
        if kept.relevant.shape[1] < most:
            return replace(
                kept,
                relevant=torch.cat([kept.relevant, m], dim=1),
                relevant_keys=torch.cat([kept.relevant_keys, key], dim=1),
                scores=torch.cat([kept.scores, beta], dim=1),
                made_at=torch.cat([kept.made_at, made_at], dim=1),
            )
        if not most:
            return kept
        lowest = kept.scores.argmin(dim=1, keepdim=True)  # the first of several
        enters = beta > kept.scores.gather(1, lowest)
        place = torch.zeros_like(kept.scores, dtype=torch.bool).scatter(1, lowest, enters)
        return replace(
            kept,
            relevant=torch.where(place.unsqueeze(2), m, kept.relevant),
            relevant_keys=torch.where(place.unsqueeze(2), key, kept.relevant_keys),
            scores=torch.where(place, beta, kept.scores),
            made_at=torch.where(place, made_at, kept.made_at),
        )

    def start(self, h: Tensor, c: Tensor) -> RelState:
        states = h.unsqueeze(1)[:, :0]
        numbers = states[..., 0]
        made_at = numbers.to(torch.int64)
        return RelState(
            h, c, h, states, states, numbers, states, states, numbers, made_at, step=0
        )  # fmt: skip

    @torch.no_grad()
    def carry(self, state: RelState, span: int) -> RelState:
        """Return `state` detached, without states that are more than `span` steps old.

        The keys are recomputed, because W1 may have changed. If the relevant set can have states
        that are young enough, it has ρ places, of which those of other states are empty.
        """
        memory = state.memory[:, -span - 1 :].detach()
        relevance, relevant = state.relevance[:, -span - 1 :], state.relevant.detach()
        scores = state.scores.masked_fill(state.made_at < state.step - span, EMPTY)
        made_at = state.made_at
        if span < self.config.short_term:
            relevant, scores, made_at = relevant[:, :0], scores[:, :0], made_at[:, :0]
        else:
            missing = self.config.relevant - relevant.shape[1]
            relevant = pad(relevant, (0, 0, 0, missing))
            scores, made_at = pad(scores, (0, missing), value=EMPTY), pad(made_at, (0, missing))
        p = self.weights()
        return RelState(
            h=state.h.detach(),
            c=state.c.detach(),
            s=state.s.detach(),
            memory=memory,
            keys=reference.key(memory, p),
            relevance=relevance,
            relevant=relevant,
            relevant_keys=reference.key(relevant, p),
            scores=scores,
            made_at=made_at,
            step=state.step,
        )


def attend(
    query: Tensor,
    h: Tensor,
    memory: Tensor,
    keys: Tensor,
    p: Parameters,
    empty: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return s (B, H) after h (B, H), and the weights α (B, M) of the memories (B, M, H).

    query: the s of the step before (B, H). empty: which memories don't exist (B, M); None if all
    do.
    """
    a = reference.scores(keys, query, p)
    if empty is not None:
        a = a.masked_fill(empty, EMPTY)
    weights = torch.softmax(a, dim=1)
    return (h + torch.einsum("bm,bmh->bh", weights, memory)) / 2, weights


def with_last(states: Tensor, last: Tensor) -> Tensor:
    """Append `last` (B, H) to states (B, M, H)."""
    return torch.cat([states, last.unsqueeze(1)], dim=1)


def places(bank: object) -> int:
    """Return M of a bank (B, M, H), or 1 if `bank` isn't one."""
    return bank.shape[1] if isinstance(bank, Tensor) and bank.dim() == 3 else 1
