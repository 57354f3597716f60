"""The LSTM baseline, with full or truncated back-propagation through time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sabtune.models import truncation
from sabtune.models.base import detached, matrix_weights, uniform
from sabtune.models.lstm_like import LSTMLike, LSTMLikeConfig, open_forget_gates
from sabtune.ops.checks import check_count, check_state, check_tensors, check_x
from sabtune.schema import added, check, check_whole
from sabtune.seeding import Stream
from sabtune.seeding import generator as generator_of


@dataclass(frozen=True)
class State:
    """The recurrent state: h and c (1, B, H), as in nn.LSTM, and the number of steps so far."""

    h: Tensor
    c: Tensor
    step: int


class LSTM(LSTMLike):
    """PyTorch's `nn.LSTM` with a linear readout: y_t = V h_t + b.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        lstm: The `nn.LSTM`.
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.LSTM.Config(hidden=32), torch.Generator()
        >>> model = sab.LSTM(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.h.shape, state.step
        (torch.Size([8, 40, 9]), torch.Size([1, 8, 32]), 40)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LSTMLikeConfig):
        """The configuration of an LSTM.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the gates start more open (Gers et al., 2000).
            k_trunc: The number of steps of local back-propagation, in blocks as in SAB; 0 for no
                truncation.
            h_detach: The probability, at each step of a training sequence, that no gradient flows
                through the h of the step before; from 0 to 1. The values are unchanged, and so is
                the gradient through c. It is h-detach (Kanuparthi et al., 2019, arXiv 1810.03023),
                which uses 0.25 to 1. The sequences of a batch share these steps. They follow from
                the seed and the completed share of training: if you train the model yourself, call
                `set_progress` before each update. In evaluation mode, all gradients flow.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> sab.LSTM.Config().label(), sab.LSTM.Config(k_trunc=5).label()
            ('lstm full BPTT', 'lstm k_trunc=5')
            >>> sab.LSTM.Config(k_trunc=5).legend()
            'LSTM, truncated BPTT (k_trunc=5)'
            >>> sab.LSTM.Config(h_detach=0.25).legend()
            'LSTM, full BPTT, h-detach (p=0.25)'
        """

        k_trunc: int = 0
        h_detach: float = added(0.0)

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("k_trunc", self.k_trunc, least=0)
            valid = 0 <= self.h_detach <= 1
            check(valid, "h_detach", self.h_detach, "a probability from 0 to 1")

        def label(self) -> str:
            words = f"lstm {truncation.label(self.k_trunc)}"
            return words + (f" h_detach={self.h_detach:g}" if self.h_detach else "")

        def legend(self) -> str:
            words = f"LSTM, {truncation.legend(self.k_trunc)}"
            return words + (f", h-detach (p={self.h_detach:g})" if self.h_detach else "")

        def build(
            self,
            inputs: int,
            outputs: int,
            *,
            steps: int,
            generator: torch.Generator,
        ) -> LSTM:
            return LSTM(self, inputs, outputs, generator)

    state_type = State

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__()
        self.config = config
        H = config.hidden
        self.lstm = nn.LSTM(inputs, H, batch_first=True)
        with torch.no_grad():
            for weight in self.lstm.parameters():
                weight.copy_(uniform(*weight.shape, fan_in=H, generator=generator))
        open_forget_gates(self.lstm.get_parameter("bias_ih_l0"), config.forget_bias)
        self.V = uniform(outputs, H, fan_in=H, generator=generator)
        self.b = uniform(outputs, fan_in=H, generator=generator)
        self.progress, self.seed = 0.0, 0
        if config.h_detach:  # drawn last: the weights are those without it
            drawn = torch.randint(2**31, (), generator=generator, device="cpu")
            self.seed = int(drawn)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x, self.lstm.input_size)
        B, H = x.shape[0], self.lstm.hidden_size
        if state is None:
            zeros = x.new_zeros(B, H)
            state = self.start(zeros, zeros)
        check_state(state, State)
        check_count("state.step", state.step, least=0)
        named = [(f"state.{name}", getattr(state, name), (1, B, H)) for name in ("h", "c")]
        weight = self.lstm.weight_hh_l0
        check_tensors(x, [*named, ("weight_hh", weight, (4 * H, H)), ("V", self.V, self.V.shape)])
        h, c = state.h, state.c
        detached = self.detached_steps(state.step, x.shape[1])
        hidden, done = [], 0
        for block in x.split(self.blocks(state.step, x.shape[1]), dim=1):  # type: ignore[no-untyped-call]
            if self.config.k_trunc:
                h, c = h.detach(), c.detach()
            cuts = [step - done for step in detached if done < step < done + block.shape[1]]
            if done in detached:
                h = h.detach()
            for number, piece in enumerate(block.tensor_split(cuts, dim=1) if cuts else [block]):
                out, (h, c) = self.lstm(piece, (h.detach() if number else h, c))
                hidden.append(out)
            done += block.shape[1]
        after = State(h, c, state.step + x.shape[1])
        return torch.cat(hidden, dim=1) @ self.V.T + self.b, after

    def start(self, h: Tensor, c: Tensor) -> State:
        return State(h.unsqueeze(0), c.unsqueeze(0), 0)

    def carry(self, state: State, span: int) -> State:
        """Return `state` detached; the LSTM has no memories."""
        return detached(state)  # type: ignore[no-any-return]

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the number of weights in matrices: a step multiplies by each of them once."""
        return matrix_weights(self)

    def blocks(self, done: int, steps: int) -> list[int]:
        """Return the lengths of the blocks into which k_trunc cuts the next `steps` steps.

        Args:
            done: The number of steps before them.
            steps: The number of steps to cut.
        """
        return truncation.blocks(self.config.k_trunc, done, steps)

    def set_progress(self, progress: float) -> None:
        """Set the completed share of training (0 to 1), which the steps of h-detach follow from."""
        self.progress = progress

    def detached_steps(self, done: int, steps: int) -> list[int]:
        """Return the steps, among the next `steps` ones, that detach the h of the step before.

        Args:
            done: The number of steps of the sequence before them.
            steps: The number of steps to draw for.
        """
        p = self.config.h_detach
        if not p or not self.training or not torch.is_grad_enabled():
            return []
        index = int(self.progress * 2**53) + (done << 54)  # distinct for each update and step
        drawn = torch.rand(steps, generator=generator_of(self.seed, Stream.GRADIENTS, index))
        return [step for step, value in enumerate(drawn.tolist()) if value < p]
