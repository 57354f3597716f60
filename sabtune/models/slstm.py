"""The sLSTM of xLSTM (Beck et al., 2024, arXiv 2405.04517): an LSTM with exponential gates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from sabtune.models.base import uniform
from sabtune.models.lstm_like import LSTMLikeConfig, open_forget_gates
from sabtune.models.recurrent import Recurrent
from sabtune.ops import slstm
from sabtune.ops.checks import check_count, check_state, check_tensors, check_x


@dataclass(frozen=True)
class State:
    """The recurrent state, and the number of steps so far.

    h: The output (B, H). c: The normalized cell (B, H). n: The logarithm of the normalizer (B, H),
    which is -inf before the first step.
    """

    h: Tensor
    c: Tensor
    n: Tensor
    step: int


class SLSTM(Recurrent):
    """The sLSTM of xLSTM (Beck et al., 2024, arXiv 2405.04517): an LSTM with exponential gates.

    At each step t, with [ĩ, f̃, z̃, õ] = W x_t + R h_{t-1} + b,

        m_t = max(log σ(f̃) + m_{t-1}, ĩ);   i = exp(ĩ - m_t);   f = exp(log σ(f̃) + m_{t-1} - m_t)
        c_t = f c_{t-1} + i tanh(z̃);   n_t = f n_{t-1} + i;   h_t = σ(õ) c_t / n_t
        y_t = V h_t + b

    It is the recurrence alone, with one head: without the blocks of xLSTM around it. The state has
    c_t / n_t and log n_t, from which h_t follows for every stabilizer m_t.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        weight_ih: W, (4H, I).
        weight_hh: R, (4H, H).
        bias: b, (4H,), for the input, forget, cell and output gates.
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.SLSTM.Config(hidden=32), torch.Generator()
        >>> model = sab.SLSTM(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.h.shape, state.step
        (torch.Size([8, 40, 9]), torch.Size([8, 32]), 40)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LSTMLikeConfig):
        """The configuration of an sLSTM.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            forget_bias: A number that is added to the initial bias of the forget gates. Above 0,
                the gates start more open.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> sab.SLSTM.Config().label(), sab.SLSTM.Config().legend()
            ('slstm', 'sLSTM')
        """

        def label(self) -> str:
            return "slstm"

        def legend(self) -> str:
            return "sLSTM"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> SLSTM:
            return SLSTM(self, inputs, outputs, generator)

    state_type = State

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__()
        self.config = config
        H = config.hidden
        self.weight_ih = uniform(4 * H, inputs, fan_in=H, generator=generator)
        self.weight_hh = uniform(4 * H, H, fan_in=H, generator=generator)
        self.bias = uniform(4 * H, fan_in=H, generator=generator)
        open_forget_gates(self.bias, config.forget_bias)
        self.V = uniform(outputs, H, fan_in=H, generator=generator)
        self.b = uniform(outputs, fan_in=H, generator=generator)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x, self.weight_ih.shape[1])
        B, H = x.shape[0], self.config.hidden
        if state is None:
            zeros = x.new_zeros(B, H)
            state = State(zeros, zeros, zeros.log(), 0)
        check_state(state, State)
        check_count("state.step", state.step, least=0)
        named = [(f"state.{name}", getattr(state, name), (B, H)) for name in ("h", "c", "n")]
        check_tensors(
            x, [*named, ("weight_hh", self.weight_hh, (4 * H, H)), ("V", self.V, self.V.shape)]
        )
        of_x = linear(x.transpose(0, 1), self.weight_ih, self.bias)
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            of_x, weight = of_x.to(wide), self.weight_hh.to(wide)
            h, c, n = (t.to(wide) for t in (state.h, state.c, state.n))
            hidden, c, n = slstm.recur(of_x, h, c, n, weight)
        hidden, c, n = (t.to(x.dtype) for t in (hidden, c, n))
        after = State(hidden[-1], c, n, state.step + x.shape[1])
        return hidden.transpose(0, 1) @ self.V.T + self.b, after

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> State:
        drawn = scale * torch.randn(3, batch, self.config.hidden, generator=generator)
        h, c, n = drawn.to(self.device, non_blocking=True)
        return State(h, c, n, 0)
