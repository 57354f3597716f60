"""The scores of the eager pass, forward and backward, for each scoring function.

Only the K top scores of a step have a gradient. The backward pass recomputes them, so no step
stores anything of size (B, M, H). The gradient with respect to a memory's key accumulates here over
the steps that recalled the memory. At the step that made the memory, it is added to dL/dh.

tanh u is computed as 2σ - 1 with σ = sigmoid(2u), and its derivative as 4(σ - σ²), because on a CPU
PyTorch's sigmoid takes a tenth of the time of its tanh. The factor w3 of the derivative is applied
at the end, where it costs no pass over (B, K, H).

dL/d of A is the gradient of the loss L with respect to A. ĥ is the query, h' of `ops.reference`.

Shapes: B batch, H hidden, M memories, K top scores, n steps. A row is a memory's index in a bank
(B, M, H) that is flattened to (B · M, H).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from sabtune.ops.reference import Parameters, Rule

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def tanh(x: Tensor) -> Tensor:
    """Compute tanh by the sigmoid, which is faster on a CPU."""
    return torch.sigmoid(2 * x).mul_(2).sub_(1)


def sigmoid_slope_(s: Tensor) -> Tensor:
    """Replace s, the values of a sigmoid, by its derivative s - s² in place."""
    return s.addcmul_(s, s, value=-1)


def gather_rows(bank: Tensor, rows: Tensor | None, M: int) -> Tensor:
    """Return the memories (B, K, H) at `rows` (B, K) of a bank (B, M, H); the first M if None."""
    if rows is None:
        return bank[:, :M]
    H = bank.shape[2]
    return bank.view(-1, H).index_select(0, rows.flatten()).view(*rows.shape, H)


def add_to_rows(bank: Tensor, rows: Tensor | None, M: int, values: Tensor) -> None:
    """Add `values` (B, K, …) to the rows that `gather_rows` reads, which must not repeat."""
    if rows is None:
        bank[:, :M] += values
    else:
        bank.view(-1, *bank.shape[2:]).index_add_(0, rows.flatten(), values.flatten(0, 1))


def outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the sum (H, H) over B and M of the outer products of two tensors (B, M, H)."""
    return rows.flatten(0, 1).T @ columns.flatten(0, 1)


class Scores(ABC):
    """The scores of one call, forward and backward.

    keys: (B, M, H), with room for the memories that the call adds. M0: the number of memories from
    before the call, which come first. count: the largest number of top scores that a step uses.
    """

    def __init__(self, p: Parameters, keys: Tensor, M0: int, count: int):
        self.p, self.keys, self.M0, self.count = p, keys, M0, count
        B, M, _ = keys.shape
        self.first_row = torch.arange(0, B * M, M, device=keys.device).unsqueeze(1)

    def remember(self, m: Tensor, at: int) -> None:
        """Add the memory m (B, H) at index `at`."""
        self.keys[:, at] = m @ self.p.W1.T

    @abstractmethod
    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        """Return the top scores (B, K) of the first M memories for ĥ (B, H), and their rows.

        The scores are in descending order. If M is at most `count`, all scores are returned, the
        oldest memory's first, and the rows are None. Scores may lack a constant that is the same
        for all memories of an example, if only their differences matter.
        """

    @abstractmethod
    def start_backward(self) -> None:
        """Allocate the gradients that the backward pass accumulates."""

    @abstractmethod
    def project(self, query: Tensor) -> Tensor:
        """Return q, the part of the scores that depends on ĥ (…, H)."""

    @abstractmethod
    def backward(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        """Accumulate a step's gradients from dL/da (B, K), and return dL/dq in the shape of q."""

    @abstractmethod
    def add_query_gradient(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        """Add the contribution of dL/dq to a step's dL/dĥ (B, H)."""

    @abstractmethod
    def add_weight_gradients(self, dq: Tensor, query: Tensor) -> None:
        """Add the contribution of n steps' dL/dq and ĥ (n, B, H) to the weights' gradients."""

    @abstractmethod
    def add_memory_gradient(self, dh: Tensor, at: int) -> None:
        """Add the contribution of the key at index `at` to dL/dh (B, H) of its memory."""

    @abstractmethod
    def weight_gradients(self, memory: Tensor) -> Gradients:
        """Return dL/d of W1, W2 and w3, given the memories (B, M, H); None for an unused one."""

    @abstractmethod
    def carried_key_gradient(self) -> Tensor:
        """Return dL/d of the M0 keys (B, M0, H) from before the call."""


class QueryScores(Scores):
    """Scores of the keys W1 m and of W2 ĥ, whose order changes with the query at every step."""

    W_query: Tensor  # W2, scaled as `scores` needs it
    key_gain: Tensor  # (H, 1) or (1, 1): the factor that `unscaled_gradients` leaves out
    query_gain: Tensor  # the same for W2 ĥ

    @abstractmethod
    def scores(self, keys: Tensor, q: Tensor) -> Tensor:
        """Compute a (B, M) for keys (B, M, H) and q (B, H)."""

    @abstractmethod
    def unscaled_gradients(self, keys: Tensor, q: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        """Return dL/d of keys (B, K, H) and of W2 ĥ (B, H), each without its gain."""

    def project(self, query: Tensor) -> Tensor:
        return query @ self.W_query.T

    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        a = self.scores(self.keys[:, :M], self.project(query))
        if self.count >= M:
            return a, None
        a, index = a.topk(self.count)
        return a, index + self.first_row

    def start_backward(self) -> None:
        self.d_keys = torch.zeros_like(self.keys)
        self.d_W2 = torch.zeros_like(self.p.W2)
        self.d_w3 = torch.zeros_like(self.p.w3)
        self.gained_W1 = self.key_gain * self.p.W1
        self.gained_W2 = self.query_gain * self.p.W2

    def backward(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        dk, dq = self.unscaled_gradients(gather_rows(self.keys, rows, M), q, da)
        add_to_rows(self.d_keys, rows, M, dk)
        return dq

    def add_query_gradient(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        dh.addmm_(dq, self.gained_W2)

    def add_weight_gradients(self, dq: Tensor, query: Tensor) -> None:
        self.d_W2.addmm_(dq.flatten(0, 1).T, query.flatten(0, 1))

    def add_memory_gradient(self, dh: Tensor, at: int) -> None:
        dh.addmm_(self.d_keys[:, at], self.gained_W1)

    def weight_gradients(self, memory: Tensor) -> Gradients:
        d_W1 = self.key_gain * outer(self.d_keys[:, self.M0 :], memory[:, self.M0 :])
        return d_W1, self.query_gain * self.d_W2, self.d_w3

    def carried_key_gradient(self) -> Tensor:
        return self.d_keys[:, : self.M0] * self.key_gain.T


class Mlp(QueryScores):
    """a = w3 · tanh(W1 m + W2 ĥ)."""

    def __init__(self, p: Parameters, keys: Tensor, M0: int, count: int):
        super().__init__(p, keys, M0, count)
        self.W_query, self.twice_w3 = 2 * p.W2, 2 * p.w3
        self.key_gain = self.query_gain = 4 * p.w3.unsqueeze(1)

    @cached_property
    def scratch(self) -> Tensor:
        """A buffer that all steps share: allocating one per step causes page faults."""
        return torch.empty_like(self.keys).flatten()

    def scores(self, keys: Tensor, q: Tensor) -> Tensor:
        u = self.scratch[: keys.numel()].view(keys.shape)
        torch.add(q.unsqueeze(1), keys, alpha=2, out=u).sigmoid_()
        return u @ self.twice_w3  # without the constant -Σ w3

    def unscaled_gradients(self, keys: Tensor, q: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.add(q.unsqueeze(1), keys, alpha=2).sigmoid_()
        # the -1 of tanh drops out, because Σ dL/da = 0
        self.d_w3.addmv_(s.flatten(0, 1).T, da.flatten(), alpha=2)
        sigmoid_slope_(s)
        dq = torch.bmm(da.unsqueeze(1), s).squeeze(1)
        return s.mul_(da.unsqueeze(2)), dq


class EarlyMlp(Mlp):
    """The scores of `Mlp` with their constant, because in the early form they may be weights."""

    def scores(self, keys: Tensor, q: Tensor) -> Tensor:
        return super().scores(keys, q) - self.p.w3.sum()

    def unscaled_gradients(self, keys: Tensor, q: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        gradients = super().unscaled_gradients(keys, q, da)
        self.d_w3 -= da.sum()
        return gradients


class Dot(QueryScores):
    """a = (W1 m) · (W2 ĥ) / √H."""

    def __init__(self, p: Parameters, keys: Tensor, M0: int, count: int):
        super().__init__(p, keys, M0, count)
        self.key_gain = p.W1.new_ones(1, 1)
        self.query_gain = p.W1.new_full((1, 1), 1 / math.sqrt(keys.shape[2]))
        self.W_query = self.query_gain * p.W2

    def scores(self, keys: Tensor, q: Tensor) -> Tensor:
        return torch.bmm(q.unsqueeze(1), keys.mT).squeeze(1)  # keys @ q takes 8 times as long

    def unscaled_gradients(self, keys: Tensor, q: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        return da.unsqueeze(2) * q.unsqueeze(1), torch.bmm(da.unsqueeze(1), keys).squeeze(1)


class MemoryScores(Scores):
    """Scores whose order does not depend on the query.

    A running list of the top scores is updated with each new memory.
    """

    def __init__(self, p: Parameters, keys: Tensor, M0: int, count: int):
        super().__init__(p, keys, M0, count)
        self.memory_scores = keys.new_empty(keys.shape[:2])
        self.memory_scores[:, :M0] = self.scores(keys[:, :M0])
        self.top: Tensor | None = None
        self.top_memories = 0  # how many memories `top` was selected from

    @abstractmethod
    def scores(self, keys: Tensor) -> Tensor:
        """Compute a (B, M) for keys (B, M, H)."""

    @abstractmethod
    def key_gradient(self, d_scores: Tensor, keys: Tensor) -> Tensor:
        """Return dL/d of the keys (B, M, H) from dL/da (B, M)."""

    def remember(self, m: Tensor, at: int) -> None:
        super().remember(m, at)
        self.memory_scores[:, at] = self.scores(self.keys[:, at])

    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        if self.count >= M:
            return self.memory_scores[:, :M], None
        if self.top is None:
            self.top, index = self.memory_scores[:, :M].topk(self.count)
            self.rows = index + self.first_row
        elif self.top_memories < M:
            scores = torch.cat([self.top, self.memory_scores[:, M - 1 : M]], dim=1)
            rows = torch.cat([self.rows, self.first_row + (M - 1)], dim=1)
            self.top, index = scores.topk(self.count)
            self.rows = rows.gather(1, index)
        self.top_memories = M
        return self.top, self.rows

    def start_backward(self) -> None:
        self.d_scores = torch.zeros_like(self.memory_scores)

    def project(self, query: Tensor) -> Tensor:
        return query[..., :0]

    def backward(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        add_to_rows(self.d_scores, rows, M, da)
        return q

    def add_query_gradient(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        """Do nothing: the scores do not depend on the query."""

    def add_weight_gradients(self, dq: Tensor, query: Tensor) -> None:
        """Do nothing: the query has no weights."""

    def carried_key_gradient(self) -> Tensor:
        return self.key_gradient(self.d_scores[:, : self.M0], self.keys[:, : self.M0])


class Separable(MemoryScores):
    """a = w3 · tanh(W1 m)."""

    def scores(self, keys: Tensor) -> Tensor:
        return tanh(keys) @ self.p.w3

    def key_gradient(self, d_scores: Tensor, keys: Tensor) -> Tensor:
        slope = sigmoid_slope_(torch.sigmoid(2 * keys))
        return slope.mul_(4 * self.p.w3).mul_(d_scores.unsqueeze(-1))

    def add_memory_gradient(self, dh: Tensor, at: int) -> None:
        dh.addmm_(self.key_gradient(self.d_scores[:, at], self.keys[:, at]), self.p.W1)

    def weight_gradients(self, memory: Tensor) -> Gradients:
        d_keys = self.key_gradient(self.d_scores[:, self.M0 :], self.keys[:, self.M0 :])
        d_w3 = tanh(self.keys).flatten(0, 1).T @ self.d_scores.flatten()
        return outer(d_keys, memory[:, self.M0 :]), None, d_w3


class Released(MemoryScores):
    """a = w · [tanh ĥ; tanh m], where w3 holds w."""

    def __init__(self, p: Parameters, keys: Tensor, M0: int, count: int):
        self.w_query, self.w_key = p.w3.chunk(2)
        super().__init__(p, keys, M0, count)

    def scores(self, keys: Tensor) -> Tensor:
        return keys @ self.w_key

    def key_gradient(self, d_scores: Tensor, keys: Tensor) -> Tensor:
        return d_scores.unsqueeze(-1) * self.w_key

    def remember(self, m: Tensor, at: int) -> None:
        self.keys[:, at] = tanh(m)
        self.memory_scores[:, at] = self.scores(self.keys[:, at])

    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        a, rows = super().highest(query, M)
        return a + (tanh(query) @ self.w_query).unsqueeze(1), rows

    def start_backward(self) -> None:
        super().start_backward()
        self.d_w_query = torch.zeros_like(self.w_query)

    def backward(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        super().backward(da, rows, M, q)
        return da.sum(dim=1, keepdim=True)

    def project(self, query: Tensor) -> Tensor:
        return query[..., :1]  # one column, to hold dL/dq

    def add_query_gradient(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        dh += dq * self.w_query * (1 - tanh(query).square())

    def add_weight_gradients(self, dq: Tensor, query: Tensor) -> None:
        self.d_w_query += tanh(query).flatten(0, 1).T @ dq.flatten()

    def add_memory_gradient(self, dh: Tensor, at: int) -> None:
        d_keys = self.key_gradient(self.d_scores[:, at], self.keys[:, at])
        dh += d_keys * (1 - self.keys[:, at].square())

    def weight_gradients(self, memory: Tensor) -> Gradients:
        d_w_key = self.keys.flatten(0, 1).T @ self.d_scores.flatten()
        return None, None, torch.cat([self.d_w_query, d_w_key])


def make_scores(p: Parameters, rule: Rule, keys: Tensor, M0: int, count: int) -> Scores:
    """Return the scores of a call under `rule`."""
    if rule.form == "released":
        return Released(p, keys, M0, count)
    if rule.form == "early":
        return EarlyMlp(p, keys, M0, count)
    kinds: dict[str, type[Scores]] = {"mlp": Mlp, "dot": Dot, "separable": Separable}
    return kinds[rule.scoring](p, keys, M0, count)
