"""An LSTM with Sparse Attentive Backtracking (Ke et al., NeurIPS 2018, arXiv 1809.03702)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sabtune.errors import InputError
from sabtune.models.attentive import Attentive
from sabtune.models.base import ModelConfig
from sabtune.ops import dispatch, reference
from sabtune.ops.checks import check_x
from sabtune.ops.reference import Form, Normalizer, Rule, Scoring
from sabtune.schedule import Constant, Schedule
from sabtune.schema import check, check_whole

ALL = 10**9
"""A k_top that keeps every memory, however long the sequence."""


class SAB(Attentive):
    """The paper's model: its equations are in `ops.reference`, their fast path in `ops.fused`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        """The sparsity of the memory, in the paper's names.

        k_top: memories kept a step, at the end of the schedule; ALL for every one.
        k_att: every k_att-th state is remembered.
        k_trunc: steps of local back-propagation; 0 for no truncation.
        schedule: how k_top gets there.
        scoring, normalizer, epsilon, form: as `ops.reference.Rule` has them.
        """

        k_top: int = 5
        k_att: int = 5
        k_trunc: int = 5
        schedule: Schedule = field(default_factory=Constant)
        scoring: Scoring = "mlp"
        normalizer: Normalizer = "sum"
        epsilon: float = 1e-7
        form: Form = "paper"

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("k_top", self.k_top, least=1)
            check_whole("k_att", self.k_att, least=1)
            check_whole("k_trunc", self.k_trunc, least=0)
            check(self.epsilon > 0, "epsilon", self.epsilon, "a number above 0")
            if self.form == "released":
                own = "the default: the released form has a way of its own"
                check(self.scoring == "mlp", "scoring", self.scoring, own)
                check(self.normalizer == "sum", "normalizer", self.normalizer, own)

        def label(self) -> str:
            schedule = type(self.schedule).__name__.lower()
            k_top = "all" if self.k_top >= ALL else self.k_top
            words = [f"k_top={k_top} k_att={self.k_att} k_trunc={self.k_trunc} {schedule}"]
            words += [self.scoring] * (self.scoring != "mlp")
            words += [self.normalizer] * (self.normalizer != "sum")
            words += [self.form] * (self.form != "paper")
            return " ".join(words)

        @property
        def period(self) -> int:
            return self.k_att

        def dense(self, steps: int) -> int:
            """The memories of a sequence of T = `steps`, m_0 with them."""
            return 1 + steps // self.k_att

        def share_kept(self, steps: int) -> float:
            return min(1.0, self.k_top / self.dense(steps))

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> SAB:
            return SAB(self, inputs, outputs, steps=steps, generator=generator)

    state_type = reference.State

    def __init__(
        self, config: Config, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
    ):
        rule = Rule(
            scoring=config.scoring,
            normalizer=config.normalizer,
            epsilon=config.epsilon,
            form=config.form,
        )
        super().__init__(config.hidden, inputs, outputs, generator, rule, config.forget_bias)
        self.config = config
        self.dense = config.dense(steps)
        self.set_progress(0.0)
        self.register_load_state_dict_pre_hook(keep_k_top)  # type: ignore[no-untyped-call]

    def forward(
        self, x: Tensor, state: reference.State | None = None
    ) -> tuple[Tensor, reference.State]:
        check_x(x)
        p = self.weights()
        state = reference.initial_state(x.shape[0], p) if state is None else state
        return dispatch.predict(x, state, p, (self.V, self.b), **self.sparsity, rule=self.rule)

    def recall(
        self, x: Tensor, state: reference.State | None = None
    ) -> tuple[Tensor, Tensor, reference.State]:
        """h and s, each (B, T, H), of the cell under x (B, T, I), and the state to go on from."""
        check_x(x)
        p = self.weights()
        state = reference.initial_state(x.shape[0], p) if state is None else state
        return dispatch.sab(x, state, p, **self.sparsity, rule=self.rule)

    @property
    def period(self) -> int:
        return self.config.period

    @property
    def sparsity(self) -> dict[str, int]:
        """k_top, as the schedule has it now, k_att and k_trunc."""
        return {
            "k_top": self.k_top,
            "k_att": self.config.k_att,
            "k_trunc": self.config.k_trunc,
        }

    @torch.no_grad()
    def carried(self, state: reference.State, span: int) -> reference.State:
        """m_0 stays. A memory's key is made anew: its weights may have changed since."""
        k_att, first = self.config.k_att, max(0, state.step - span - 1)
        kept = state.step // k_att - first // k_att  # remembered since, if all of them are there
        memory = state.memory.detach()
        memory = torch.cat([memory[:, :1], memory[:, 1:][:, -kept or memory.shape[1] :]], dim=1)
        p = self.weights()
        p = replace(p, W1=p.W1.to(memory.dtype))  # of bf16 weights a GPU's memories are float32
        return reference.State(
            h=state.h.detach(),
            c=state.c.detach(),
            memory=memory,
            keys=reference.key(memory, p, self.rule),
            step=state.step,
        )

    def start(self, h: Tensor, c: Tensor) -> reference.State:
        return replace(reference.initial_state(len(h), self.weights()), h=h, c=c)

    @property
    def settled(self) -> bool:
        return self.k_top == self.config.k_top

    def set_progress(self, progress: float) -> None:
        self.k_top = self.config.schedule.k_top(progress, self.config.k_top, self.dense)

    def get_extra_state(self) -> Tensor:
        """k_top in force, and what it ends with: a state_dict has them beside the weights."""
        return torch.tensor([self.k_top, self.config.k_top])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes k_top over from a model that ends with the same; one of another k_top keeps its
        own. Raises InputError if that isn't what `get_extra_state` gave."""
        fits = isinstance(state, Tensor) and state.shape == (2,) and state.dtype == torch.long
        k_top, final = state.tolist() if fits else (0, 0)
        if k_top < 1:
            raise InputError(f"the state_dict's k_top is {state!r}: use one that SAB gave")
        if final == self.config.k_top:
            self.k_top = k_top

    def in_force(self) -> dict[str, float]:
        return {"k_top": self.k_top}


def keep_k_top(model: SAB, tensors: dict[str, Any], prefix: str, *_: object) -> None:
    """Before a state_dict is loaded: one that doesn't tell k_top, as older ones, leaves it."""
    tensors.setdefault(f"{prefix}_extra_state", model.get_extra_state())
