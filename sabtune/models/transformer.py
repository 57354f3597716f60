"""A causal Transformer decoder, whose state is a cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from sabtune.models.base import Model, ModelConfig, linear, matrix_weights, uniform
from sabtune.ops.attention import Rotation, alibi_slopes, attend, rotate, rotation
from sabtune.ops.checks import check_count, check_state, check_tensors, check_x
from sabtune.schema import check, check_name, check_whole

Positions = Literal["none", "alibi", "rotary"]
"""How a Transformer represents the positions of steps."""

POSITIONS: dict[Positions, str] = {
    "none": "no positions",
    "alibi": "ALiBi",
    "rotary": "rotary positions",
}
"""The names of `Positions` in figures and tables."""


@dataclass(frozen=True)
class State:
    """The cache of the last M steps: what each layer attends to, and the number of steps so far.

    memory: The input of each layer, (B, L, M, H). keys, values: The keys and the values of each
    layer, computed from `memory`, (B, L, M, H), with the heads side by side. The keys of rotary
    positions are rotated.
    """

    memory: Tensor
    keys: Tensor
    values: Tensor
    step: int


class Layer(nn.Module):
    """A layer of a Transformer: causal attention and a feed-forward network, each pre-norm.

    The modules have the names of those in `nn.TransformerEncoderLayer`.
    """

    def __init__(self, hidden: int, heads: int, generator: torch.Generator):
        """Create the layer, with weights drawn from `generator`."""
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(hidden)
        self.in_proj = linear(hidden, 3 * hidden, generator)
        self.out_proj = linear(hidden, hidden, generator)
        self.norm2 = nn.LayerNorm(hidden)
        self.linear1 = linear(hidden, 4 * hidden, generator)
        self.linear2 = linear(4 * hidden, hidden, generator)

    def project(self, hidden: Tensor, by: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query, key and value (B, T, H) of each step, rotated if `by` is given."""
        H = hidden.shape[-1]
        projected = self.in_proj(self.norm1(hidden)).to(hidden.dtype)
        pair, value = projected.split([2 * H, H], dim=-1)
        if by is not None:
            pair = rotate(torch.unflatten(pair, -1, (2 * self.heads, -1)), by).flatten(-2)
        query, key = pair.chunk(2, dim=-1)
        return query, key, value

    def forward(
        self,
        hidden: Tensor,
        keys: Tensor,
        values: Tensor,
        by: Rotation | None,
        slopes: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output (B, T, H) of the layer, and the keys and values with those of `hidden`.

        hidden: (B, T, H). keys, values: those of the M steps before, (B, M, H). by: the rotation of
        the T steps, or None. slopes: those of ALiBi, (heads,), or None.
        """
        query, key, value = self.project(hidden, by)
        if keys.shape[1]:
            key, value = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
        q, k, v = (
            torch.unflatten(t, 2, (self.heads, -1)).transpose(1, 2) for t in (query, key, value)
        )
        attended = attend(q, k, v, slopes)
        hidden = hidden + self.out_proj(attended.transpose(1, 2).flatten(2))
        hidden = hidden + self.linear2(gelu(self.linear1(self.norm2(hidden))))
        return hidden, key, value


class Transformer(Model):
    """A Transformer decoder (Vaswani et al., 2017, arXiv 1706.03762) with layers of pre-norm form.

    An embedding W_e x_t + b_e of the input passes through L layers. Each adds to its input h

        h + W_o attention(norm(h)) + b_o;   then   h + W_2 gelu(W_1 norm(h) + b_1) + b_2

    where every step attends to itself and to all earlier steps, with several heads, and W_1 has 4H
    rows. The logits are y_t = V norm(h_t) + b. There is no dropout. Positions are not represented
    (Kazemnejad et al., 2023, arXiv 2305.19466: causal models infer them), by ALiBi (Press et al.,
    2022, arXiv 2108.12409), or by rotations of queries and keys (Su et al., 2021, arXiv
    2104.09864). Time grows with T².

    The state is a cache of all earlier steps. A sequence that starts has an empty one, whatever
    `TrainConfig.initial` is, because the model has no recurrent state.

    Args:
        config: The configuration. Its `build` method creates the model too.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        generator: A random generator on the CPU, which the weights are drawn from.

    Attributes:
        config: The configuration.
        embedding: The linear map of the inputs, (H, I), with a bias.
        layers: The layers, with the names of `nn.TransformerEncoderLayer`.
        norm: The normalization of the last layer's output.
        V: The weights of the readout, (O, H).
        b: The bias of the readout, (O,).

    Example:
        >>> import torch, sabtune as sab
        >>> config, generator = sab.Transformer.Config(hidden=32), torch.Generator()
        >>> model = sab.Transformer(config, 10, 9, generator.manual_seed(0))
        >>> logits, state = model(torch.randn(8, 40, 10))
        >>> logits.shape, state.keys.shape, state.step
        (torch.Size([8, 40, 9]), torch.Size([8, 2, 40, 32]), 40)
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        """The configuration of a Transformer.

        Args:
            hidden: H, the width of the layers, from 1 to `2**20`: a multiple of `heads`, and of
                twice `heads` for rotary positions.
            layers: L, the number of layers, from 1 to 64.
            heads: The number of attention heads, each with H / `heads` units, from 1 to 1024.
            positions: How positions are represented: "none", "alibi" for biases that grow with the
                distance, or "rotary" for rotated queries and keys.

        Raises:
            ConfigError: A field is unknown, out of range or of the wrong type, or `heads` doesn't
                divide `hidden`.

        Example:
            >>> import sabtune as sab
            >>> sab.Transformer.Config().label()
            'transformer layers=2 heads=4 positions=rotary'
            >>> sab.Transformer.Config(positions="alibi").legend()
            'Transformer, 2 layers, ALiBi'
        """

        layers: int = 2
        heads: int = 4
        positions: Positions = "rotary"

        def __post_init__(self) -> None:
            super().__post_init__()
            check_whole("layers", self.layers, least=1, most=64)
            check_whole("heads", self.heads, least=1, most=1024)
            check_name("positions", self.positions, get_args(Positions))
            pairs = 2 if self.positions == "rotary" else 1
            wanted = f"a multiple of {pairs * self.heads}"
            wanted += f" for heads={self.heads} and positions={self.positions!r}, or other heads"
            check(self.hidden % (pairs * self.heads) == 0, "hidden", self.hidden, wanted)

        def share_kept(self, steps: int) -> float:
            return 1.0

        def label(self) -> str:
            return f"transformer layers={self.layers} heads={self.heads} positions={self.positions}"

        def legend(self) -> str:
            layers = f"{self.layers} layer{'s' * (self.layers > 1)}"
            return f"Transformer, {layers}, {POSITIONS[self.positions]}"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> Transformer:
            return Transformer(self, inputs, outputs, generator)

    state_type = State

    def __init__(self, config: Config, inputs: int, outputs: int, generator: torch.Generator):
        """Create the model, with weights drawn from `generator`."""
        super().__init__()
        self.config = config
        H = config.hidden
        self.embedding = linear(inputs, H, generator)
        self.layers = nn.ModuleList(Layer(H, config.heads, generator) for _ in range(config.layers))
        self.norm = nn.LayerNorm(H)
        self.V = uniform(outputs, H, fan_in=H, generator=generator)
        self.b = uniform(outputs, fan_in=H, generator=generator)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_x(x, self.embedding.in_features)
        B, T, H = x.shape[0], x.shape[1], self.config.hidden
        if state is None:
            state = self._start(B, x)
        check_state(state, State)
        check_count("state.step", state.step, least=0)
        fits = isinstance(state.memory, Tensor) and state.memory.dim() == 4
        shape = (B, len(self.layers), state.memory.shape[2] if fits else 1, H)
        named = [(f"state.{k}", getattr(state, k), shape) for k in ("memory", "keys", "values")]
        weight = self.embedding.weight
        check_tensors(x, [*named, ("embedding", weight, weight.shape), ("V", self.V, self.V.shape)])
        by, slopes = self._rotation(state.step, T, x), self._slopes(x)
        hidden = self.embedding(x).to(x.dtype)
        inputs, keys, values = [], [], []
        for layer, *past in zip(
            self.layers, state.keys.unbind(1), state.values.unbind(1), strict=True
        ):
            inputs.append(hidden)
            hidden, key, value = layer(hidden, *past, by, slopes)
            keys.append(key)
            values.append(value)
        memory = torch.stack(inputs, dim=1)
        if state.memory.shape[2]:
            memory = torch.cat([state.memory, memory], dim=2)
        after = State(memory, torch.stack(keys, dim=1), torch.stack(values, dim=1), state.step + T)
        return self.norm(hidden) @ self.V.T + self.b, after

    def multiply_adds(self, inputs: int, steps: int) -> float:
        """Return the multiply-adds of a step, which attends to itself and to all earlier steps.

        See `Model.multiply_adds`. Pairs of steps that the causal mask excludes don't count.
        """
        attended = (steps + 1) / 2
        return matrix_weights(self) + 2 * attended * self.config.hidden * self.config.layers

    def _rotation(self, first: int, steps: int, like: Tensor) -> Rotation | None:
        """Return the rotation of the next `steps` steps after `first` ones, if it is used."""
        if self.config.positions != "rotary":
            return None
        return rotation(first, steps, self.config.hidden // self.config.heads, like)

    def _slopes(self, like: Tensor) -> Tensor | None:
        """Return the slopes of ALiBi (heads,), if they are used."""
        if self.config.positions != "alibi":
            return None
        wide = torch.promote_types(like.dtype, torch.float32)
        return torch.tensor(alibi_slopes(self.config.heads), device=like.device, dtype=wide)

    def _start(self, batch: int, like: Tensor) -> State:
        """Return the empty cache, with the device and the precision of a tensor."""
        empty = like.new_zeros(batch, len(self.layers), 0, self.config.hidden)
        return State(empty, empty, empty, 0)

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> State:
        """Return the empty cache; the model has no recurrent state to draw."""
        return self._start(batch, self.V.detach())

    @torch.no_grad()
    def carry(self, state: State, span: int) -> State:
        M = state.memory.shape[2]
        kept = min(span, M)
        memory = state.memory[:, :, M - kept :].detach()
        by = self._rotation(state.step - kept, kept, memory)
        projected = [
            layer.project(hidden, by)  # type: ignore[operator]
            for layer, hidden in zip(self.layers, memory.unbind(1), strict=True)
        ]
        _, keys, values = (torch.stack(each, dim=1) for each in zip(*projected, strict=True))
        return State(memory, keys, values, state.step)

    def restart(self, state: State) -> State:
        """Return the empty cache: a new sequence keeps nothing of an earlier one."""
        return self._start(state.memory.shape[0], state.memory.detach())
