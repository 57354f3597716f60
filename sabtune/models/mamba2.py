"""Mamba-2 (Dao and Gu, 2024, arXiv 2405.21060): a selective state-space model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from sabtune.models.base import Model, ModelConfig, linear, uniform
from sabtune.models.recurrent import Recurrent
from sabtune.ops.checks import check_count, check_state, check_tensors, check_x
from sabtune.ops.ssd import ssd
from sabtune.schema import check, check_whole

DECAY = (1.0, 16.0)
"""The range that the initial -A of a head is drawn from, uniformly, as in the authors' code."""
STEP_SIZE = (1e-3, 0.1)
"""The range that the initial step size of a head is drawn from, uniformly in its logarithm."""
EPSILON = 1e-5
"""What is added to the mean square of a normalization."""


@dataclass(frozen=True)
class State:
    """The recurrent state, and the number of steps so far.

    conv: The last inputs of the convolution of each layer, (B, L, K - 1, E + 2N). ssm: The
    state-space state of each layer, (B, L, N, heads, E / heads).
    """

    conv: Tensor
    ssm: Tensor
    step: int


class Block(nn.Module):
    """A layer of Mamba-2. The parameters have the names of those in the authors' code."""

    def __init__(self, config: Mamba2.Config, generator: torch.Generator):
        """Create the layer, with weights drawn from `generator`."""
        super().__init__()
        H, E, N, heads = config.hidden, config.inner, config.state_size, config.heads
        self.heads, self.chunk = heads, config.chunk
        self.sizes = [E, E + 2 * N, heads]
        self.inner_sizes = [E, N, N]
        self.norm = nn.RMSNorm(H, eps=EPSILON)
        self.in_proj = linear(H, sum(self.sizes), generator, bias=False)
        K = config.conv_width
        self.conv_weight = uniform(K, E + 2 * N, fan_in=K, generator=generator)
        self.conv_bias = uniform(E + 2 * N, fan_in=K, generator=generator)
        draws = torch.rand(2, heads, generator=generator, device="cpu")
        least, most = map(math.log, STEP_SIZE)
        dt = (least + (most - least) * draws[0]).exp()
        self.dt_bias = nn.Parameter(dt + (-torch.expm1(-dt)).log())  # the inverse of softplus
        self.A_log = nn.Parameter((DECAY[0] + (DECAY[1] - DECAY[0]) * draws[1]).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.gated_norm = nn.RMSNorm(E, eps=EPSILON)
        self.out_proj = linear(E, H, generator, bias=False)

    def forward(self, hidden: Tensor, tail: Tensor, ssm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output (B, T, H) of the layer, and the state after it.

        hidden: (B, T, H). tail: the inputs of the convolution before, (B, K - 1, E + 2N). ssm: the
        state before, (B, N, heads, E / heads).
        """
        projected = self.in_proj(self.norm(hidden))
        wide = torch.promote_types(projected.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            gate, inputs, dt = torch.split(projected.to(wide), self.sizes, dim=-1)
            seen = torch.cat([tail.to(wide), inputs], dim=1)
            x, B, C = torch.split(silu(self.convolve(seen)), self.inner_sizes, dim=-1)
            x = torch.unflatten(x, -1, (self.heads, -1))
            dt = softplus(dt + self.dt_bias)
            A = -self.A_log.to(wide).exp()
            y, after = ssd(x, dt, A, B, C, ssm.to(wide), self.chunk)
            y = (y + self.D.unsqueeze(-1) * x).flatten(2)
            y = self.gated_norm((y * silu(gate)).to(hidden.dtype))
        tail = seen[:, hidden.shape[1] :]
        return hidden + self.out_proj(y), tail.to(hidden.dtype), after.to(hidden.dtype)

    def convolve(self, seen: Tensor) -> Tensor:
        """Apply the causal convolution of each channel to (B, K - 1 + T, channels)."""
        K = self.conv_weight.shape[0]
        T = seen.shape[1] - K + 1
        total: Tensor = self.conv_bias
        for offset, weight in enumerate(self.conv_weight.unbind()):
            total = torch.addcmul(total, weight, seen[:, offset : offset + T])
        return total


class Mamba2(Recurrent):
    """Mamba-2 (Dao and Gu, 2024, arXiv 2405.21060), trained in chunks of steps.

    An embedding W_e u_t + b_e of the input passes through L layers with residual connections. A
    layer has E = `expand` · H channels in `heads` heads of P channels, and a state of N numbers for
    each channel. From its normalized input, it projects a gate z_t, the inputs x_t, B_t, C_t of a
    causal convolution over `conv_width` steps with SiLU, and a step size dt_t for each head, and
    computes

        dt_t = softplus(dt_t + b_dt);   S_t = exp(-exp(A) dt_t) S_{t-1} + dt_t B_t x_tᵀ
        y_t = C_tᵀ S_t + D x_t;   output = W_o norm(y_t · silu(z_t))

    with S_t (N, P), A, D and b_dt for each head. norm is the root-mean-square norm. The logits are
    V norm(h_t) + b, from the last layer. Initial values are those of the authors' code.
    `sabtune.ops.ssd` computes all steps in chunks.

    `TrainConfig(initial="passed")` trains with state passing: each batch starts from the final
    states of the one before, which helps at longer lengths (Ruiz and Gu, 2025, arXiv 2507.02782).

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        embedding: The linear map of the inputs, (H, I), with a bias.
        layers: The layers, with the names of the authors' code.
        norm: The normalization of the last layer's output.
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.Mamba2.Config(hidden=32, state_size=16), torch.Generator()
        >>> model = sab.Mamba2(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.ssm.shape, state.conv.shape, state.step
        (torch.Size([8, 40, 9]), torch.Size([8, 2, 16, 4, 16]), torch.Size([8, 2, 3, 96]), 40)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        """The configuration of Mamba-2.

        Args:
            hidden: H, the width of the layers, from 1 to `2**20`. `heads` must divide
                `expand * hidden`.
            layers: L, the number of layers, from 1 to 64.
            state_size: N, the numbers of state for each channel, from 1 to 1024. The authors' is
                64 or 128.
            heads: The number of heads, each with its own decay and step size, from 1 to 1024.
            expand: The number of channels for each unit of `hidden`, from 1 to 16.
            conv_width: K, the number of steps that the convolution sees, from 1 to 64.
            chunk: The number of steps that are computed as a product of matrices, from 1 to 1024.
                It changes the speed and the memory, not the result.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type, or `heads` doesn't
                divide `expand * hidden`.

        Example:
            >>> import sabtune as sab
            >>> sab.Mamba2.Config().label(), sab.Mamba2.Config(layers=3).legend()
            ('mamba2 layers=2 state_size=64', 'Mamba-2, 3 layers')
        """

        layers: int = 2
        state_size: int = 64
        heads: int = 4
        expand: int = 2
        conv_width: int = 4
        chunk: int = 32

        def __post_init__(self) -> None:
            super().__post_init__()
            for name, most in (
                ("layers", 64),
                ("state_size", 1024),
                ("heads", 1024),
                ("expand", 16),
                ("conv_width", 64),
                ("chunk", 1024),
            ):
                check_whole(name, getattr(self, name), least=1, most=most)
            step = self.heads // math.gcd(self.heads, self.expand)
            wanted = f"a multiple of {step} for heads={self.heads} and expand={self.expand}"
            check(self.hidden % step == 0, "hidden", self.hidden, f"{wanted}, or other heads")

        @property
        def inner(self) -> int:
            """E, the number of channels of a layer."""
            return self.expand * self.hidden

        def label(self) -> str:
            return f"mamba2 layers={self.layers} state_size={self.state_size}"

        def legend(self) -> str:
            return f"Mamba-2, {self.layers} layer{'s' * (self.layers > 1)}"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> Mamba2:
            return Mamba2(self, inputs, outputs, generator)

    state_type = State
    multiply_adds = Model.multiply_adds  # the products within a chunk count, too

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__()
        self.config = config
        H = config.hidden
        self.embedding = linear(inputs, H, generator)
        self.layers = nn.ModuleList(Block(config, generator) for _ in range(config.layers))
        self.norm = nn.RMSNorm(H, eps=EPSILON)
        self.V = uniform(outputs, H, fan_in=H, generator=generator)
        self.b = uniform(outputs, fan_in=H, generator=generator)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x, self.embedding.in_features)
        shapes = self._shapes(x.shape[0])
        if state is None:
            state = State(**{name: x.new_zeros(shape) for name, shape in shapes.items()}, step=0)
        check_state(state, State)
        check_count("state.step", state.step, least=0)
        named = [(f"state.{name}", getattr(state, name), shape) for name, shape in shapes.items()]
        weight = self.embedding.weight
        check_tensors(x, [*named, ("embedding", weight, weight.shape), ("V", self.V, self.V.shape)])
        hidden = self.embedding(x).to(x.dtype)
        tails, ends = [], []
        for layer, *start in zip(
            self.layers, state.conv.unbind(1), state.ssm.unbind(1), strict=True
        ):
            hidden, tail, end = layer(hidden, *start)
            tails.append(tail)
            ends.append(end)
        after = State(torch.stack(tails, dim=1), torch.stack(ends, dim=1), state.step + x.shape[1])
        return self.norm(hidden) @ self.V.T + self.b, after

    def _shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors of a state."""
        config = self.config
        N, L, E = config.state_size, config.layers, config.inner
        return {
            "conv": (batch, L, config.conv_width - 1, E + 2 * N),
            "ssm": (batch, L, N, config.heads, E // config.heads),
        }

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> State:
        drawn = {
            name: scale * torch.randn(shape, generator=generator)
            for name, shape in self._shapes(batch).items()
        }
        moved = {name: t.to(self.device, non_blocking=True) for name, t in drawn.items()}
        return State(**moved, step=0)
