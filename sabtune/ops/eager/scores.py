"""Scores of the eager pass, and what they hand back: each scoring in both directions.

Only the K highest scores of a step have a gradient, so they are made again on the way back and
nothing of size (B, M, H) is kept a step. Credit for a memory gathers here, by its key, as the steps
that recalled it go by backwards, and joins dL/dh at the step that made it.

tanh u is 2σ - 1 with σ = sigmoid 2u, and its slope 4(σ - σ²): on a CPU torch's sigmoid takes a
tenth of its tanh's time. w3's part in the slope is left to the end, where it costs no pass over
(B, K, H).

B batch, H hidden, M memories, K kept, n steps. Rows number the memories of all examples through.
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
    return torch.sigmoid(2 * x).mul_(2).sub_(1)


def less_square(s: Tensor) -> Tensor:
    """s - s², in place."""
    return s.addcmul_(s, s, value=-1)


def picked(bank: Tensor, rows: Tensor | None, M: int) -> Tensor:
    """Of a bank (B, M, H) what is at `rows` (B, K), or the first M: (B, K, H)."""
    if rows is None:
        return bank[:, :M]
    H = bank.shape[2]
    return bank.view(-1, H).index_select(0, rows.flatten()).view(*rows.shape, H)


def put_back(bank: Tensor, rows: Tensor | None, M: int, more: Tensor) -> None:
    """Adds `more` (B, K, …) to where `picked` took it from; no row is there twice in a step."""
    if rows is None:
        bank[:, :M] += more
    else:
        bank.view(-1, *bank.shape[2:]).index_add_(0, rows.flatten(), more.flatten(0, 1))


def outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Σ over B and M of the outer products of two (B, M, H)."""
    return rows.flatten(0, 1).T @ columns.flatten(0, 1)


class Scores(ABC):
    """The scores of one call.

    keys: (B, M, H), with room for the memories that the call makes, M0 of them there before it.
    kept: how many scores of a step are of use.
    """

    def __init__(self, p: Parameters, keys: Tensor, M0: int, kept: int):
        self.p, self.keys, self.M0, self.kept = p, keys, M0, kept
        B, M, _ = keys.shape
        self.first = torch.arange(0, B * M, M, device=keys.device).unsqueeze(1)

    def remember(self, m: Tensor, at: int) -> None:
        """Takes a memory m (B, H) in, as number `at`."""
        self.keys[:, at] = m @ self.p.W1.T

    @abstractmethod
    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        """Of the first M memories the `kept` highest scores (B, K) for ĥ (B, H), falling, and rows.

        All in their own order, and None, while they are no more than are kept. A constant may be
        missing from scores of which only the differences count.
        """

    @abstractmethod
    def start(self) -> None:
        """Gets ready for the way back."""

    @abstractmethod
    def queries(self, query: Tensor) -> Tensor:
        """q, what the scores want of ĥ (…, H)."""

    @abstractmethod
    def back(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        """Takes a step's dL/da (B, K) in; returns dL/dq in the shape of q."""

    @abstractmethod
    def into_query(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        """Adds to a step's dL/dĥ (B, H) what its dL/dq gives."""

    @abstractmethod
    def end_steps(self, dq: Tensor, query: Tensor) -> None:
        """Adds to the weights' gradients what dL/dq of several steps gives, ĥ being (n, B, H)."""

    @abstractmethod
    def into_memory(self, dh: Tensor, at: int) -> None:
        """Adds to dL/dh (B, H) of memory number `at` what came to it by its key."""

    @abstractmethod
    def of_weights(self, memory: Tensor) -> Gradients:
        """dL/d of W1, W2 and w3, None where there is none, given the memories (B, M, H)."""

    @abstractmethod
    def of_carried_keys(self) -> Tensor:
        """dL/d of the M0 keys from before the call."""


class OfQuery(Scores):
    """Scores that have to be made anew at every step, from keys W1 m and a query W2 ĥ."""

    W_query: Tensor  # W2, scaled as `scores` wants it
    key_gain: Tensor  # (H, 1) or (1, 1): what `partial` leaves out
    query_gain: Tensor

    @abstractmethod
    def scores(self, keys: Tensor, q: Tensor) -> Tensor:
        """a (B, M) for keys (B, M, H) and q (B, H)."""

    @abstractmethod
    def partial(self, keys: Tensor, q: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        """From dL/da (B, K) dL/d of keys (B, K, H) and W2 ĥ (B, H), each but for its gain."""

    def queries(self, query: Tensor) -> Tensor:
        return query @ self.W_query.T

    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        a = self.scores(self.keys[:, :M], self.queries(query))
        if self.kept >= M:
            return a, None
        a, chosen = a.topk(self.kept)
        return a, chosen + self.first

    def start(self) -> None:
        self.d_keys = torch.zeros_like(self.keys)
        self.d_W2 = torch.zeros_like(self.p.W2)
        self.d_w3 = torch.zeros_like(self.p.w3)
        self.back_W1 = self.key_gain * self.p.W1
        self.back_W2 = self.query_gain * self.p.W2

    def back(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        dk, dq = self.partial(picked(self.keys, rows, M), q, da)
        put_back(self.d_keys, rows, M, dk)
        return dq

    def into_query(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        dh.addmm_(dq, self.back_W2)

    def end_steps(self, dq: Tensor, query: Tensor) -> None:
        self.d_W2.addmm_(dq.flatten(0, 1).T, query.flatten(0, 1))

    def into_memory(self, dh: Tensor, at: int) -> None:
        dh.addmm_(self.d_keys[:, at], self.back_W1)

    def of_weights(self, memory: Tensor) -> Gradients:
        d_W1 = self.key_gain * outer(self.d_keys[:, self.M0 :], memory[:, self.M0 :])
        return d_W1, self.query_gain * self.d_W2, self.d_w3

    def of_carried_keys(self) -> Tensor:
        return self.d_keys[:, : self.M0] * self.key_gain.T


class Mlp(OfQuery):
    """a = w3 · tanh(W1 m + W2 ĥ)."""

    def __init__(self, p: Parameters, keys: Tensor, M0: int, kept: int):
        super().__init__(p, keys, M0, kept)
        self.W_query, self.twice_w3 = 2 * p.W2, 2 * p.w3
        self.key_gain = self.query_gain = 4 * p.w3.unsqueeze(1)

    @cached_property
    def scratch(self) -> Tensor:
        """For all steps: a fresh one for each is page faults without end."""
        return torch.empty_like(self.keys).flatten()

    def scores(self, keys: Tensor, q: Tensor) -> Tensor:
        u = self.scratch[: keys.numel()].view(keys.shape)
        torch.add(q.unsqueeze(1), keys, alpha=2, out=u).sigmoid_()
        return u @ self.twice_w3  # less the constant Σ w3

    def partial(self, keys: Tensor, q: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.add(q.unsqueeze(1), keys, alpha=2).sigmoid_()
        self.d_w3.addmv_(s.flatten(0, 1).T, da.flatten(), alpha=2)  # Σ dL/da is 0
        less_square(s)
        dq = torch.bmm(da.unsqueeze(1), s).squeeze(1)
        return s.mul_(da.unsqueeze(2)), dq


class Dot(OfQuery):
    """a = (W1 m) · (W2 ĥ) / √H."""

    def __init__(self, p: Parameters, keys: Tensor, M0: int, kept: int):
        super().__init__(p, keys, M0, kept)
        self.key_gain = p.W1.new_ones(1, 1)
        self.query_gain = p.W1.new_full((1, 1), 1 / math.sqrt(keys.shape[2]))
        self.W_query = self.query_gain * p.W2

    def scores(self, keys: Tensor, q: Tensor) -> Tensor:
        return torch.bmm(q.unsqueeze(1), keys.mT).squeeze(1)  # keys times q takes 8 times as long

    def partial(self, keys: Tensor, q: Tensor, da: Tensor) -> tuple[Tensor, Tensor]:
        return da.unsqueeze(2) * q.unsqueeze(1), torch.bmm(da.unsqueeze(1), keys).squeeze(1)


class OfMemory(Scores):
    """Scores that are a memory's own: a running top, which one new memory at a time may enter."""

    def __init__(self, p: Parameters, keys: Tensor, M0: int, kept: int):
        super().__init__(p, keys, M0, kept)
        self.own = keys.new_empty(keys.shape[:2])
        self.own[:, :M0] = self.scores(keys[:, :M0])
        self.top: Tensor | None = None
        self.seen = 0

    @abstractmethod
    def scores(self, keys: Tensor) -> Tensor:
        """a (B, M) for keys (B, M, H)."""

    @abstractmethod
    def into_keys(self, d_own: Tensor, keys: Tensor) -> Tensor:
        """From dL/da (B, M) dL/d of the keys (B, M, H)."""

    def remember(self, m: Tensor, at: int) -> None:
        super().remember(m, at)
        self.own[:, at] = self.scores(self.keys[:, at])

    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        if self.kept >= M:
            return self.own[:, :M], None
        if self.top is None:
            self.top, chosen = self.own[:, :M].topk(self.kept)
            self.rows = chosen + self.first
        elif self.seen < M:
            self.top, place = torch.cat([self.top, self.own[:, M - 1 : M]], dim=1).topk(self.kept)
            rows = torch.cat([self.rows, self.first + (M - 1)], dim=1)
            self.rows = rows.gather(1, place)
        self.seen = M
        return self.top, self.rows

    def start(self) -> None:
        self.d_own = torch.zeros_like(self.own)

    def queries(self, query: Tensor) -> Tensor:
        return query[..., :0]

    def back(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        put_back(self.d_own, rows, M, da)
        return q

    def into_query(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        """The query has no part in the scores."""

    def end_steps(self, dq: Tensor, query: Tensor) -> None:
        """Nor have weights of its own."""

    def of_carried_keys(self) -> Tensor:
        return self.into_keys(self.d_own[:, : self.M0], self.keys[:, : self.M0])


class Separable(OfMemory):
    """a = w3 · tanh(W1 m)."""

    def scores(self, keys: Tensor) -> Tensor:
        return tanh(keys) @ self.p.w3

    def into_keys(self, d_own: Tensor, keys: Tensor) -> Tensor:
        slope = less_square(torch.sigmoid(2 * keys))
        return slope.mul_(4 * self.p.w3).mul_(d_own.unsqueeze(-1))

    def into_memory(self, dh: Tensor, at: int) -> None:
        dh.addmm_(self.into_keys(self.d_own[:, at], self.keys[:, at]), self.p.W1)

    def of_weights(self, memory: Tensor) -> Gradients:
        made = self.into_keys(self.d_own[:, self.M0 :], self.keys[:, self.M0 :])
        d_w3 = tanh(self.keys).flatten(0, 1).T @ self.d_own.flatten()
        return outer(made, memory[:, self.M0 :]), None, d_w3


class Released(OfMemory):
    """a = w · [tanh ĥ; tanh m], with w in w3's place."""

    def __init__(self, p: Parameters, keys: Tensor, M0: int, kept: int):
        self.of_query, self.of_key = p.w3.chunk(2)
        super().__init__(p, keys, M0, kept)

    def scores(self, keys: Tensor) -> Tensor:
        return keys @ self.of_key

    def into_keys(self, d_own: Tensor, keys: Tensor) -> Tensor:
        return d_own.unsqueeze(-1) * self.of_key

    def remember(self, m: Tensor, at: int) -> None:
        self.keys[:, at] = tanh(m)
        self.own[:, at] = self.scores(self.keys[:, at])

    def highest(self, query: Tensor, M: int) -> tuple[Tensor, Tensor | None]:
        a, rows = super().highest(query, M)
        return a + (tanh(query) @ self.of_query).unsqueeze(1), rows

    def start(self) -> None:
        super().start()
        self.d_query = torch.zeros_like(self.of_query)

    def back(self, da: Tensor, rows: Tensor | None, M: int, q: Tensor) -> Tensor:
        super().back(da, rows, M, q)
        return da.sum(dim=1, keepdim=True)

    def queries(self, query: Tensor) -> Tensor:
        return query[..., :1]  # no more is wanted than room for dL/dq

    def into_query(self, dh: Tensor, dq: Tensor, query: Tensor) -> None:
        dh += dq * self.of_query * (1 - tanh(query).square())

    def end_steps(self, dq: Tensor, query: Tensor) -> None:
        self.d_query += tanh(query).flatten(0, 1).T @ dq.flatten()

    def into_memory(self, dh: Tensor, at: int) -> None:
        d_keys = self.into_keys(self.d_own[:, at], self.keys[:, at])
        dh += d_keys * (1 - self.keys[:, at].square())

    def of_weights(self, memory: Tensor) -> Gradients:
        d_keys = self.keys.flatten(0, 1).T @ self.d_own.flatten()
        return None, None, torch.cat([self.d_query, d_keys])


def scores_of(p: Parameters, rule: Rule, keys: Tensor, M0: int, kept: int) -> Scores:
    if rule.form == "released":
        return Released(p, keys, M0, kept)
    kinds: dict[str, type[Scores]] = {"mlp": Mlp, "dot": Dot, "separable": Separable}
    return kinds[rule.scoring](p, keys, M0, kept)
