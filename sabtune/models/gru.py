"""The GRU baseline, with full or truncated back-propagation through time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sabtune.models import truncation
from sabtune.models.base import ModelConfig, uniform
from sabtune.models.recurrent import Recurrent
from sabtune.ops import gru
from sabtune.ops.checks import check_count, check_state, check_tensors, check_x
from sabtune.schema import check_whole


@dataclass(frozen=True)
class State:
    """The recurrent state: h (B, H), and the number of steps so far."""

    h: Tensor
    step: int


class GRU(Recurrent):
    """PyTorch's `nn.GRU` (Cho et al., 2014, arXiv 1406.1078) with a readout: y_t = V h_t + b.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        gru: The `nn.GRU`.
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.GRU.Config(hidden=32), torch.Generator()
        >>> model = sab.GRU(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.h.shape, state.step
        (torch.Size([8, 40, 9]), torch.Size([8, 32]), 40)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        """The configuration of a GRU.

        Args:
            hidden: H, the number of units of the recurrent state, from 1 to `2**20`.
            k_trunc: The number of steps of local back-propagation, in blocks as in SAB; 0 for no
                truncation.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type.

        Example:
            >>> import sabtune as sab
            >>> sab.GRU.Config().label(), sab.GRU.Config(k_trunc=5).label()
            ('gru full BPTT', 'gru k_trunc=5')
            >>> sab.GRU.Config(k_trunc=5).legend()
            'GRU, truncated BPTT (k_trunc=5)'
        """

        k_trunc: int = 0

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("k_trunc", self.k_trunc, least=0)

        def label(self) -> str:
            return f"gru {truncation.label(self.k_trunc)}"

        def legend(self) -> str:
            return f"GRU, {truncation.legend(self.k_trunc)}"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> GRU:
            return GRU(self, inputs, outputs, generator)

    state_type = State

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__()
        self.config = config
        H = config.hidden
        self.gru = nn.GRU(inputs, H, batch_first=True)
        with torch.no_grad():
            for weight in self.gru.parameters():
                weight.copy_(uniform(*weight.shape, fan_in=H, generator=generator))
        self.V = uniform(outputs, H, fan_in=H, generator=generator)
        self.b = uniform(outputs, fan_in=H, generator=generator)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x, self.gru.input_size)
        B, H, k_trunc = x.shape[0], self.gru.hidden_size, self.config.k_trunc
        if state is None:
            state = State(x.new_zeros(B, H), 0)
        check_state(state, State)
        check_count("state.step", state.step, least=0)
        named = [
            ("state.h", state.h, (B, H)),
            ("weight_hh", self.gru.weight_hh_l0, (3 * H, H)),
            ("V", self.V, self.V.shape),
        ]
        check_tensors(x, named)
        h, hidden = state.h.unsqueeze(0), []
        for block in x.split(truncation.blocks(k_trunc, state.step, x.shape[1]), dim=1):  # type: ignore[no-untyped-call]
            out, h = self._recur(block, h.detach() if k_trunc else h)
            hidden.append(out)
        after = State(h.squeeze(0), state.step + x.shape[1])
        return torch.cat(hidden, dim=1) @ self.V.T + self.b, after

    def _recur(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run the GRU on x (B, T, I) from h (1, B, H); return every h (B, T, H), and the last."""
        single = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if x.device.type != "cpu" or not single:
            every, last = self.gru(x, h)
            return every, last
        weight_ih, weight_hh, bias_ih, bias_hh = self.gru.all_weights[0]
        of_x = linear(x.transpose(0, 1), weight_ih, bias_ih)
        every = gru.recur(of_x.contiguous(), h[0], weight_hh, bias_hh)
        return every.transpose(0, 1), every[-1:]

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> State:
        h = scale * torch.randn(batch, self.config.hidden, generator=generator)
        return State(h.to(self.device, non_blocking=True), 0)
