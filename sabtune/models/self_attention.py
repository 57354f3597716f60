"""The baseline LSTM with self-attention to every earlier state, never truncated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from sabtune.models.attentive import Attentive
from sabtune.models.lstm_like import LSTMLikeConfig
from sabtune.ops import reference, self_attention
from sabtune.ops.checks import check_x
from sabtune.ops.self_attention import Attention, Form, State, Weights
from sabtune.schema import added, check, check_whole

DEFAULT_K_TOP = 5

NAMES = {
    "softmax": "softmax",
    "sparsemax": "sparsemax",
    "entmax15": "entmax-1.5",
    "top_k": "top-{}",
}
"""The names of the weights in figures and tables; {} is k_top."""


class SelfAttention(Attentive):
    """The baseline LSTM with self-attention to every earlier state, never truncated.

    It is SAB with every state remembered and scored, and by default with softmax weights, which are
    dense. It has SAB's readout, and SAB's parameters for "mlp" scoring. At each step t

        a_i = w3 · tanh(W1 h_i + W2 h'_t)  for every i < t;   p = softmax(a)
        s_t = Σ p_i h_i;   h_t = h'_t + s_t;   y_t = V1 h_t + V2 s_t + b

    where h'_t is the output of the LSTM cell. At the first step s_1 = 0, because there are no
    memories yet. Time and memory grow with T².

    The weights may be sparse instead, and others at test than in training: full attention that is
    trained with softmax and tested with the `k_top` highest scores loses less on long sequences.
    The closest work is ASEntmax (Vasylenko et al., 2025, arXiv 2506.16640): Transformers whose
    attention is entmax with a learned temperature, which generalize to longer sequences. Here, the
    scores have no temperature.

    With `form="early"`, it is the self-attention of the authors' code of July 2018, which may have
    produced the paper's rows for "LSTM + full self-attention":

        a_i = w3 · tanh(W1 h_i + W2 h_t)  for every i < t
        s_t = Σ a_i h_i;   y_t = V (2 h_t + s_t) + b

    where h_t is the output of the LSTM cell: the scores are the weights, and s_t enters the readout
    alone. That code draws W1, W2 and w3 from a normal distribution with standard deviation 0.01;
    here, they are drawn as in the paper's form. Its variant for tasks that are scored at the last
    step alone reads h_T + s_T.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.SelfAttention.Config(hidden=32), torch.Generator()
        >>> model = sab.SelfAttention(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.memory.shape
        (torch.Size([8, 40, 9]), torch.Size([8, 40, 32]))
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LSTMLikeConfig):
        """The configuration of the self-attention model.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the gates start more open (Gers et al., 2000).
            weights: How the scores of the states become weights: "softmax"; "sparsemax" (Martins
                and Astudillo, 2016, arXiv 1602.02068); "entmax15", entmax with α = 1.5 (Peters et
                al., 2019, arXiv 1905.05702); or "top_k", the softmax of the `k_top` highest scores.
            k_top: The number of states that "top_k" keeps, at least 1.
            test_weights: How the scores become weights in evaluation mode, in which models are
                measured; the values are those of `weights`. None for the same as in training.
            test_k_top: The number of states that "top_k" keeps in evaluation mode, at least 1. None
                for `k_top`.
            form: "paper"; or "early", the authors' code of July 2018, which requires the default
                weights.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type, no weights use
                `k_top` or `test_k_top`, or the form doesn't support the weights.

        Example:
            >>> import sabtune as sab
            >>> config = sab.SelfAttention.Config(hidden=64)
            >>> config.label(), config.share_kept(steps=100)
            ('lstm self-attention', 1.0)
            >>> sab.SelfAttention.Config(weights="entmax15").legend()
            'Self-attention LSTM, full BPTT, entmax-1.5'
            >>> config = sab.SelfAttention.Config(test_weights="top_k", k_top=10)
            >>> config.legend(), config.share_kept(steps=101)
            ('Self-attention LSTM, full BPTT, softmax, top-10 at test', 0.1)
        """

        weights: Weights = added("softmax")
        k_top: int = added(DEFAULT_K_TOP)
        test_weights: Weights | None = added(None)
        test_k_top: int | None = added(None)
        form: Form = added("paper")

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("k_top", self.k_top, least=1)
            if self.test_k_top is not None:
                check_whole("test_k_top", self.test_k_top, least=1)
                wanted = "None, or 'top_k' as the weights at test"
                check(self.at_test.weights == "top_k", "test_k_top", self.test_k_top, wanted)
            used = "top_k" in (self.weights, self.test_weights)
            wanted = f"the default, {DEFAULT_K_TOP}, or 'top_k' as weights or test_weights"
            check(used or self.k_top == DEFAULT_K_TOP, "k_top", self.k_top, wanted)
            if self.form == "early":
                wanted = "the default, which the early form requires"
                check(self.weights == "softmax", "weights", self.weights, wanted)
                check(self.test_weights is None, "test_weights", self.test_weights, wanted)

        @property
        def in_training(self) -> Attention:
            """The attention in training mode."""
            return Attention(weights=self.weights, k_top=self.k_top, form=self.form)

        @property
        def at_test(self) -> Attention:
            """The attention in evaluation mode."""
            return Attention(
                weights=self.test_weights or self.weights,
                k_top=self.test_k_top or self.k_top,
                form=self.form,
            )

        @property
        def same_at_test(self) -> bool:
            return self.in_training.words == self.at_test.words

        def label(self) -> str:
            words = ["lstm self-attention"]
            words += [self.in_training.words] * (self.weights != "softmax")
            words += [f"test={self.at_test.words}"] * (not self.same_at_test)
            words += [self.form] * (self.form != "paper")
            return " ".join(words)

        def legend(self) -> str:
            words, differs = ["Self-attention LSTM", "full BPTT"], not self.same_at_test
            trained, tested = (
                NAMES[each.weights].format(each.k_top) for each in (self.in_training, self.at_test)
            )
            words += [trained] * (self.weights != "softmax" or differs)
            words += [f"{tested} at test"] * differs
            words += [f"{self.form} form"] * (self.form != "paper")
            return ", ".join(words)

        def share_kept(self, steps: int) -> float | None:
            """Return the share of the states that the last of T = `steps` steps attends to at test.

            None with "sparsemax" and "entmax15", because the scores decide it.
            """
            match self.at_test.weights:
                case "softmax":
                    return 1.0
                case "top_k":
                    return min(1.0, self.at_test.k_top / max(1, steps - 1))
            return None

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> SelfAttention:
            return SelfAttention(self, inputs, outputs, generator)

    state_type = State

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        H, early = config.hidden, config.form == "early"
        super().__init__(
            H,
            inputs,
            outputs,
            generator,
            forget_bias=config.forget_bias,
            readout_width=H if early else 2 * H,
        )
        self.config = config
        self.in_training, self.at_test = config.in_training, config.at_test

    @property
    def attention(self) -> Attention:
        """The attention of the current mode, training or evaluation."""
        return self.in_training if self.training else self.at_test

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x)
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.config.hidden)
            state = self.start(zeros, zeros)
        hidden, summary, after = self_attention.attend(x, state, self.weights(), self.attention)
        return self.readout(hidden, summary), after

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the multiply-adds of a step, which scores all earlier states.

        See `Model.multiply_adds`. W1 m is computed once for each state. With "top_k" in training, a
        step sums up k_top states; with the other weights, it counts as summing up all of them.
        """
        weights, k_top = self.in_training.weights, self.in_training.k_top
        most = k_top if weights == "top_k" else steps
        return self.attention_multiply_adds(
            keys=1,
            scored=(steps - 1) / 2,
            recalled=sum(min(most, step) for step in range(steps)) / steps,
        )

    def readout(self, hidden: Tensor, summary: Tensor) -> Tensor:
        if self.config.form == "early":
            return linear(2 * hidden + summary, self.V, self.b)
        return super().readout(hidden, summary)

    def start(self, h: Tensor, c: Tensor) -> State:
        return self_attention.start(h, c)

    @torch.no_grad()
    def carry(self, state: State, span: int) -> State:
        memory = state.memory[:, -span - 1 :].detach()
        return State(
            state.h.detach(), state.c.detach(), memory, reference.key(memory, self.weights())
        )
