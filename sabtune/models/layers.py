"""Layers to use in your own PyTorch code, with the interface of `torch.nn.LSTM`.

Shapes: B batch, T steps, I inputs, H hidden, M memories.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sabtune.errors import InputError
from sabtune.models.base import detached
from sabtune.models.lstm_like import open_forget_gates
from sabtune.models.sab import SAB
from sabtune.models.self_attention import DEFAULT_K_TOP, SelfAttention
from sabtune.models.weights import AttentionWeights
from sabtune.ops import dispatch, reference, self_attention
from sabtune.ops.call import Call
from sabtune.ops.checks import check_count
from sabtune.ops.reference import Cut, Form, Normalizer, Parameters, Rule, Scoring, Sparsity
from sabtune.ops.self_attention import Weights


def _sab(
    x: Tensor, state: reference.State, p: Parameters, sparsity: Sparsity
) -> tuple[Tensor, Tensor, reference.State]:
    (hidden, summary), after = dispatch.run(Call(x, state, p, sparsity))
    return hidden, summary, after


PASSES: tuple[Callable[..., Any], ...] = (_sab, self_attention.attend)
"""The functions that the layers run."""

_hidden_from_compiler: dict[Callable[..., Any], Callable[..., Any]] = {}
"""Functions that `torch.compile` leaves out of its graphs, by the functions that they call."""


def _hide_from_compiler() -> None:
    """Prepare `_callable`. The first call takes a second: it imports TorchDynamo."""
    if not _hidden_from_compiler:
        _hidden_from_compiler.update({run: torch.compiler.disable(run) for run in PASSES})  # type: ignore[no-untyped-call]


def _callable(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function to call in a layer: under `torch.compile`, one that breaks the graph.

    The passes are compiled already, and tracing into them would take minutes.
    """
    return _hidden_from_compiler.get(run, run) if torch.compiler.is_compiling() else run


def _check_sequences(x: object, width: int, batch_first: bool) -> None:
    """Raise InputError unless x is a tensor of sequences in the layout of a layer."""
    fits = isinstance(x, Tensor) and x.dim() == 3 and x.shape[-1] == width
    if not fits or x.shape[1 if batch_first else 0] == 0:  # type: ignore[attr-defined]
        actual = tuple(x.shape) if isinstance(x, Tensor) else f"of type {type(x).__name__}"
        layout = "(B, T, I)" if batch_first else "(T, B, I)"
        raise InputError(
            f"x is {actual}: give a tensor {layout} with T of at least 1 and I = {width}"
        )


def _detached(state: Any) -> Any:
    """Return a state whose tensors have no gradient; most backends return such a state."""
    if not state.h.requires_grad:
        return state
    return detached(state)


class _Layer(AttentionWeights):
    """The part that the layers with attention share: arguments, layout and weights."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        rule: Rule,
        *,
        batch_first: bool,
        forget_bias: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            check_count(name, size, least=1)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.batch_first = batch_first
        self.add_weights(input_size, hidden_size, None, rule, forget_bias)
        self.to(device=device, dtype=dtype)
        _hide_from_compiler()

    @property
    def output_size(self) -> int:
        """The width of the output: 2 * hidden_size, for h_t and s_t."""
        return 2 * self.hidden_size

    def _run(
        self, x: Tensor, run: Callable[[Tensor], tuple[Tensor, Tensor, Any]]
    ) -> tuple[Tensor, Any]:
        """Apply `run`, which maps x (B, T, I) to h, s and a state, in the layout of the layer."""
        _check_sequences(x, self.input_size, self.batch_first)
        if torch.compiler.is_exporting():
            raise InputError("the layer can't be exported: its passes aren't PyTorch operations")
        hidden, summary, after = run(x if self.batch_first else x.transpose(0, 1))
        output = torch.cat([hidden, summary], dim=-1)
        return output if self.batch_first else output.transpose(0, 1), _detached(after)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _hide_from_compiler()

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, for `print`."""
        return f"{self.input_size}, {self.hidden_size}" + ", batch_first=True" * self.batch_first


class SABLayer(_Layer):
    """An LSTM layer with Sparse Attentive Backtracking (Ke et al., NeurIPS 2018, arXiv 1809.03702).

    At each step t, the layer attends to the `k_top` best of its remembered states, adds their
    weighted sum s_t to its state h_t, and remembers every `k_att`-th state. Gradients flow through
    these few connections and through at most `k_trunc` steps of the recurrence. With
    `k_trunc` = 0, they flow through the whole sequence.

    `output, state = layer(x)` is used as with `torch.nn.LSTM`, with two differences: the output has
    2H features, h_t followed by s_t, and the state is an object with the fields `h`, `c` (B, H),
    `memory`, `keys` (B, M, H) and `step`. A linear layer on the output is the paper's readout,
    y_t = V1 h_t + V2 s_t + b.

    Args:
        input_size: I, the number of input features.
        hidden_size: H, the number of features of the state.
        k_top: The number of memories that a step attends to, at least 1. You can change the
            attribute during training.
        k_att: Every `k_att`-th state is remembered, at least 1.
        k_trunc: The number of steps of local back-propagation; 0 for no truncation.
        batch_first: As in `torch.nn.LSTM`: x and the output are (B, T, …) instead of (T, B, …).
        scoring: "mlp" (the paper's), "dot" or "separable".
        normalizer: "sum" (the paper's) or "softmax".
        epsilon: The ε of the paper's normalizer, above 0.
        form: "paper"; or "released" or "early" for a variant of the authors' code.
        cut: "after" or "before" every `k_trunc`-th step, as in `SAB.Config`; defaults to that of
            the form.
        forget_bias: A number added to the initial bias of the forget gates.
        device: The device of the weights.
        dtype: The dtype of the weights.

    Shapes:
        x: (T, B, I), or (B, T, I) if `batch_first=True`. output: (T, B, 2H) or (B, T, 2H).

    Raises:
        ConfigError: An argument is out of range.
        InputError: x or the state doesn't fit the layer.

    A returned state is detached: to back-propagate through several calls, pass the whole sequence
    in one call. The weights are drawn by PyTorch's global random generator, from ±1/√H as in
    `torch.nn.LSTM`.

    Example:
        >>> import torch, sabtune as sab
        >>> layer = sab.SABLayer(10, 64, k_top=5, batch_first=True)
        >>> output, state = layer(torch.randn(8, 100, 10))
        >>> output.shape, state.memory.shape
        (torch.Size([8, 100, 128]), torch.Size([8, 21, 64]))
        >>> output, state = layer(torch.randn(8, 50, 10), state)  # the sequence continues
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        k_top: int = 5,
        k_att: int = 5,
        k_trunc: int = 5,
        batch_first: bool = False,
        scoring: Scoring = "mlp",
        normalizer: Normalizer = "sum",
        epsilon: float = 1e-7,
        form: Form = "paper",
        cut: Cut | None = None,
        forget_bias: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """Create the layer, with weights drawn by PyTorch's global random generator."""
        config = SAB.Config(  # checks the values
            k_top=k_top,
            k_att=k_att,
            k_trunc=k_trunc,
            scoring=scoring,
            normalizer=normalizer,
            epsilon=epsilon,
            form=form,
            cut=cut,
            forget_bias=forget_bias,
        )
        super().__init__(
            input_size,
            hidden_size,
            config.sparsity.rule,
            batch_first=batch_first,
            forget_bias=forget_bias,
            device=device,
            dtype=dtype,
        )
        self.k_top, self.k_att, self.k_trunc = k_top, k_att, k_trunc

    def forward(
        self, x: Tensor, state: reference.State | None = None
    ) -> tuple[Tensor, reference.State]:
        """Run the layer on a sequence; return h and s of every step, and the state after it.

        Args:
            x: (T, B, I), or (B, T, I) if `batch_first=True`.
            state: The state that an earlier call on the same sequences returned. None at the start.
        """

        def run(x: Tensor) -> tuple[Tensor, Tensor, reference.State]:
            p = self.weights()
            before = reference.initial_state(x.shape[0], p) if state is None else state
            sparsity = Sparsity(
                k_top=self.k_top, k_att=self.k_att, k_trunc=self.k_trunc, rule=self.rule
            )
            return _callable(_sab)(x, before, p, sparsity)  # type: ignore[no-any-return]

        return self._run(x, run)

    def extra_repr(self) -> str:
        counts = f"k_top={self.k_top}, k_att={self.k_att}, k_trunc={self.k_trunc}"
        return f"{super().extra_repr()}, {counts}"


class SelfAttentionLayer(_Layer):
    """An LSTM layer that attends to all of its past states, by default with softmax weights.

    It is `SABLayer` with every state remembered and scored, without truncation. Time and memory
    grow with T². The output has 2H features, h_t followed by s_t; the state has the fields `h`, `c`
    (B, H), `memory` and `keys` (B, M, H).

    Args:
        input_size: I, the number of input features.
        hidden_size: H, the number of features of the state.
        batch_first: As in `torch.nn.LSTM`.
        weights: "softmax", "sparsemax", "entmax15" or "top_k", as in `SelfAttention.Config`.
        k_top: The number of states that "top_k" keeps, at least 1.
        test_weights: The weights after `eval()`; None for the same as in training.
        test_k_top: The number of states that "top_k" keeps after `eval()`; None for `k_top`.
        form: "paper" or "early", as in `SelfAttention.Config`. The early form's readout takes the
            sum of 2 h_t and s_t.
        forget_bias: A number added to the initial bias of the forget gates.
        device: The device of the weights.
        dtype: The dtype of the weights.

    Shapes:
        x: (T, B, I), or (B, T, I) if `batch_first=True`. output: (T, B, 2H) or (B, T, 2H).

    Raises:
        ConfigError: An argument is out of range.
        InputError: x or the state doesn't fit the layer.

    Example:
        >>> import torch, sabtune as sab
        >>> layer = sab.SelfAttentionLayer(10, 32, batch_first=True)
        >>> layer(torch.randn(8, 20, 10))[0].shape
        torch.Size([8, 20, 64])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        batch_first: bool = False,
        weights: Weights = "softmax",
        k_top: int = DEFAULT_K_TOP,
        test_weights: Weights | None = None,
        test_k_top: int | None = None,
        form: self_attention.Form = "paper",
        forget_bias: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """Create the layer, with weights drawn by PyTorch's global random generator."""
        config = SelfAttention.Config(  # checks the values
            weights=weights,
            k_top=k_top,
            test_weights=test_weights,
            test_k_top=test_k_top,
            form=form,
            forget_bias=forget_bias,
        )
        super().__init__(
            input_size,
            hidden_size,
            Rule(),
            batch_first=batch_first,
            forget_bias=forget_bias,
            device=device,
            dtype=dtype,
        )
        self.in_training, self.at_test = config.in_training, config.at_test

    def forward(
        self, x: Tensor, state: self_attention.State | None = None
    ) -> tuple[Tensor, self_attention.State]:
        """Run the layer on a sequence; return h and s of every step, and the state after it."""

        def run(x: Tensor) -> tuple[Tensor, Tensor, self_attention.State]:
            before = state
            if before is None:
                zeros = self.weight_hh.new_zeros(x.shape[0], self.hidden_size)
                before = self_attention.start(zeros, zeros)
            attend = _callable(self_attention.attend)
            attention = self.in_training if self.training else self.at_test
            return attend(x, before, self.weights(), attention)  # type: ignore[no-any-return]

        return self._run(x, run)

    def extra_repr(self) -> str:
        """Return the arguments that differ from the defaults, for `print`."""
        trained, tested = self.in_training.words, self.at_test.words
        words = [super().extra_repr()]
        words += [trained] * (trained != "softmax")
        words += [f"{tested} at test"] * (tested != trained)
        words += ["form=early"] * (self.in_training.form == "early")
        return ", ".join(words)


class TruncatedLSTM(nn.LSTM):
    """A `torch.nn.LSTM` whose gradients flow through at most `k_trunc` steps of the recurrence.

    The sequence is cut into blocks of `k_trunc` steps, and the state is detached between blocks.
    The values are those of `torch.nn.LSTM`. Each call starts with a new block, whose gradients also
    flow to the incoming state.

    Args:
        input_size: I, the number of input features.
        hidden_size: H, the number of features of the state.
        k_trunc: The length of a block in steps, at least 1.
        forget_bias: A number added to the initial bias of the forget gates.
        **options: The other arguments of `torch.nn.LSTM`.

    Raises:
        InputError: `k_trunc` is out of range, or x isn't a batch of sequences.

    Example:
        >>> import torch, sabtune as sab
        >>> layer = sab.TruncatedLSTM(10, 32, k_trunc=5, batch_first=True)
        >>> layer(torch.randn(8, 20, 10))[0].shape
        torch.Size([8, 20, 32])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        k_trunc: int,
        forget_bias: float = 0.0,
        **options: Any,
    ):
        """Create the layer, with weights drawn by PyTorch's global random generator."""
        check_count("k_trunc", k_trunc, least=1)
        super().__init__(input_size, hidden_size, **options)
        if self.bidirectional:
            raise InputError("bidirectional is True: the layer runs forward only, leave it out")
        if forget_bias and not self.bias:
            raise InputError(f"forget_bias is {forget_bias} and bias is False: give one of them")
        self.k_trunc = k_trunc
        for name, bias in self.named_parameters():
            if name.startswith("bias_ih"):
                open_forget_gates(bias, forget_bias)

    def forward(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer on a sequence, as `torch.nn.LSTM` does.

        Args:
            x: (T, B, I), or (B, T, I) if `batch_first=True`.
            state: h and c, each (num_layers, B, H). None for zeros.
        """
        _check_sequences(x, self.input_size, self.batch_first)
        outputs: list[Tensor] = []
        time = 1 if self.batch_first else 0
        for block in x.split(self.k_trunc, dim=time):  # type: ignore[no-untyped-call]
            if outputs and state is not None:
                state = (state[0].detach(), state[1].detach())
            output, state = super().forward(block, state)
            outputs.append(output)
        assert state is not None
        return torch.cat(outputs, dim=time), state
