"""An LSTM with Sparse Attentive Backtracking (Ke et al., NeurIPS 2018, arXiv 1809.03702)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sabtune.errors import InputError
from sabtune.models.attentive import Attentive
from sabtune.models.lstm_like import LSTMLikeConfig
from sabtune.ops import dispatch, reference
from sabtune.ops.call import Call
from sabtune.ops.checks import check_x
from sabtune.ops.reference import Cut, Form, Normalizer, Rule, Scoring, Sparsity
from sabtune.schedule import Constant, Schedule
from sabtune.schema import added, check, check_whole

ALL = 10**9
"""A k_top that selects every memory of a sequence of any length."""


class SAB(Attentive):
    """The SAB model of the paper (Ke et al., NeurIPS 2018, arXiv 1809.03702).

    At each step t, the LSTM attends to the `k_top` best of its remembered states and adds their
    weighted sum s_t to its state h_t. It remembers every `k_att`-th state. Gradients flow through
    these few connections and through at most `k_trunc` steps of the recurrence. The logits are
    y_t = V1 h_t + V2 s_t + b. `sabtune.ops.reference` has the equations, and `sabtune.ops.dispatch`
    runs them.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        steps: T, the number of steps of a training sequence. Schedules that start with all memories
            need it.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        dense: The number of memories after `steps` steps, at which a schedule starts with "all".
        k_top: The current number of memories that a step attends to. `set_progress` sets it.

    Example:
        >>> import torch, sabtune as sab
        >>> config = sab.SAB.Config(hidden=32, k_top=2, k_att=5)
        >>> model = config.build(10, 9, steps=40, generator=torch.Generator())
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.memory.shape  # m_0 = 0 and 8 remembered states
        (torch.Size([8, 40, 9]), torch.Size([8, 9, 32]))
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LSTMLikeConfig):
        """The configuration of SAB, in the paper's terms.

        `sabtune.ops.reference.Rule` describes the scoring, the normalizer and the forms in full.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the gates start more open (Gers et al., 2000).
            k_top: The number of memories that a step attends to at the end of the schedule, at
                least 1. `sabtune.models.sab.ALL` selects every memory.
            k_att: Every `k_att`-th state is remembered, at least 1.
            k_trunc: The number of steps of local back-propagation; 0 for no truncation.
            schedule: How k_top changes during training, up to its final value. Defaults to
                `Constant()`.
            scoring: How a memory m is scored: "mlp", w3 · tanh(W1 m + W2 h'), the paper's; "dot",
                (W1 m) · (W2 h') / √H; or "separable", w3 · tanh(W1 m), which ignores the query h'.
            normalizer: How the scores a above θ, the (k_top+1)-th largest score, become weights:
                "sum", (a - θ) / (Σ (a - θ) + ε), the paper's; or "softmax", the softmax of those
                scores.
            epsilon: The ε of "sum", above 0. Because of it, all weights are zero at a step where no
                score is above θ.
            form: "paper"; or a variant in code of the authors, "released" (March 2019) or "early"
                (July 2018), which require the default scoring and normalizer. The initial weights
                are those of the paper's form.
            cut: Where `k_trunc` cuts the local gradient: "after" every `k_trunc`-th step, before
                the steps t with (t - 1) mod k_trunc = 0; or "before" every `k_trunc`-th step,
                before those with t mod k_trunc = 0. Defaults to that of the form: "after" in the
                paper's form, "before" in that of the authors' code. With `k_att` = `k_trunc`, the
                gradient of a memory flows back through its whole block with "after", and through
                its own step alone with "before". Values are the same.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type, or the form doesn't
                support the scoring or the normalizer.

        Example:
            >>> import sabtune as sab
            >>> config = sab.SAB.Config(k_top=3, k_att=2, schedule=sab.Linear())
            >>> config.label()
            'k_top=3 k_att=2 k_trunc=5 linear'
            >>> config.legend()
            'SAB (k_top=3, k_att=2, k_trunc=5, linear schedule)'
            >>> config.share_kept(steps=30)  # 3 of m_0 and 15 remembered states
            0.1875
        """

        k_top: int = 5
        k_att: int = 5
        k_trunc: int = 5
        schedule: Schedule = field(default_factory=Constant)
        scoring: Scoring = "mlp"
        normalizer: Normalizer = "sum"
        epsilon: float = 1e-7
        form: Form = "paper"
        cut: Cut | None = added(None)

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("k_top", self.k_top, least=1)
            check_whole("k_att", self.k_att, least=1)
            check_whole("k_trunc", self.k_trunc, least=0)
            check(self.epsilon > 0, "epsilon", self.epsilon, "a number above 0")
            if self.form != "paper":
                wanted = f"the default, which the {self.form} form requires"
                check(self.scoring == "mlp", "scoring", self.scoring, wanted)
                check(self.normalizer == "sum", "normalizer", self.normalizer, wanted)

        def label(self) -> str:
            schedule = type(self.schedule).__name__.lower()
            k_top = "all" if self.k_top >= ALL else self.k_top
            words = [f"k_top={k_top} k_att={self.k_att} k_trunc={self.k_trunc} {schedule}"]
            words += [self.scoring] * (self.scoring != "mlp")
            words += [self.normalizer] * (self.normalizer != "sum")
            words += [self.form] * (self.form != "paper")
            words += [f"cut={self.cut}"] * (self.cut is not None)
            return " ".join(words)

        def legend(self) -> str:
            k_top = "all" if self.k_top >= ALL else self.k_top
            words = [f"k_top={k_top}", f"k_att={self.k_att}"]
            words.append(f"k_trunc={self.k_trunc}" if self.k_trunc else "full BPTT")
            if not isinstance(self.schedule, Constant):
                words.append(f"{type(self.schedule).__name__.lower()} schedule")
            words += [f"{self.scoring} scoring"] * (self.scoring != "mlp")
            words += [self.normalizer] * (self.normalizer != "sum")
            words += [f"{self.form} form"] * (self.form != "paper")
            words += [f"cut={self.cut}"] * (self.cut is not None)
            return f"SAB ({', '.join(words)})"

        @property
        def sparsity(self) -> Sparsity:
            """The final k_top, k_att, k_trunc and the rule, as `sabtune.ops` takes them."""
            rule = Rule(
                scoring=self.scoring,
                normalizer=self.normalizer,
                epsilon=self.epsilon,
                form=self.form,
                cut=self.cut,
            )
            return Sparsity(k_top=self.k_top, k_att=self.k_att, k_trunc=self.k_trunc, rule=rule)

        @property
        def period(self) -> int:
            return self.k_att

        def dense(self, steps: int) -> int:
            """Return the number of memories after T = `steps` steps, including m_0."""
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
        """Create the model, with weights drawn from `generator`."""
        sparsity = config.sparsity
        super().__init__(
            config.hidden, inputs, outputs, generator, sparsity.rule, config.forget_bias
        )
        self.config, self.sparsity = config, sparsity
        self.dense = config.dense(steps)
        self.set_progress(0.0)
        self.register_load_state_dict_pre_hook(fill_missing_k_top)  # type: ignore[no-untyped-call]

    def forward(
        self, x: Tensor, state: reference.State | None = None
    ) -> tuple[Tensor, reference.State]:
        check_x(x)
        p = self.weights()
        state = reference.initial_state(x.shape[0], p) if state is None else state
        call = Call(x, state, p, self.sparsity, readout=(self.V, self.b))
        (logits,), after = dispatch.run(call)
        return logits, after

    def recall(
        self, x: Tensor, state: reference.State | None = None
    ) -> tuple[Tensor, Tensor, reference.State]:
        """Run the cell on x (B, T, I); return h and s, each (B, T, H), and the state after x."""
        check_x(x)
        p = self.weights()
        state = reference.initial_state(x.shape[0], p) if state is None else state
        (hidden, summary), after = dispatch.run(Call(x, state, p, self.sparsity))
        return hidden, summary, after

    @property
    def period(self) -> int:
        return self.config.period

    @property
    def k_top(self) -> int:
        """The current k_top of the schedule."""
        return self.sparsity.k_top

    @k_top.setter
    def k_top(self, k_top: int) -> None:
        self.sparsity = replace(self.sparsity, k_top=k_top)

    @torch.no_grad()
    def carry(self, state: reference.State, span: int) -> reference.State:
        """Return `state` prepared for the next update. It always includes the zero vector m_0.

        The keys are recomputed, because W1 may have changed.
        """
        k_att, first = self.config.k_att, max(0, state.step - span - 1)
        recent = state.step // k_att - first // k_att  # memories that are at most `span` steps old
        memory = state.memory.detach()
        memory = torch.cat([memory[:, :1], memory[:, 1:][:, -recent or memory.shape[1] :]], dim=1)
        p = self.weights()
        # the GPU kernels return float32 memories for bf16 weights
        p = replace(p, W1=p.W1.to(memory.dtype))
        return reference.State(
            h=state.h.detach(),
            c=state.c.detach(),
            memory=memory,
            keys=reference.key(memory, p, self.rule),
            step=state.step,
        )

    def start(self, h: Tensor, c: Tensor) -> reference.State:
        return replace(reference.initial_state(len(h), self.weights()), h=h, c=c)

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the multiply-adds of a step, which scores all memories and sums up k_top of them.

        See `Model.multiply_adds`. W1 m is computed once for each memory.
        """
        k_top, k_att = self.config.k_top, self.config.k_att
        memories = [1 + step // k_att for step in range(steps)]
        return self.attention_multiply_adds(
            keys=steps // k_att / steps,
            scored=sum(memories) / steps,
            recalled=sum(min(k_top, count) for count in memories) / steps,
        )

    @property
    def settled(self) -> bool:
        return self.k_top == self.config.k_top

    def set_progress(self, progress: float) -> None:
        self.k_top = self.config.schedule.k_top(progress, self.config.k_top, self.dense)

    def get_extra_state(self) -> Tensor:
        """Return the current and the final k_top, which PyTorch stores in the state_dict."""
        return torch.tensor([self.k_top, self.config.k_top])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the current k_top if the final k_top is the same; otherwise change nothing.

        Raises InputError if `state` is not from `get_extra_state`.
        """
        fits = isinstance(state, Tensor) and state.shape == (2,) and state.dtype == torch.long
        k_top, final = state.tolist() if fits else (0, 0)
        if k_top < 1:
            raise InputError(
                f"the state_dict's k_top is {state!r}: use the state_dict of a SAB model"
            )
        if final == self.config.k_top:
            self.k_top = k_top

    def in_force(self) -> dict[str, float]:
        return {"k_top": self.k_top}


def fill_missing_k_top(model: SAB, tensors: dict[str, Any], prefix: str, *_: object) -> None:
    """Keep the model's k_top when loading an older state_dict, which does not contain it."""
    tensors.setdefault(f"{prefix}_extra_state", model.get_extra_state())
