"""The recurrence of xLSTM's sLSTM (Beck et al., 2024), with its gradient in closed form.

The paper keeps a cell c_t, a normalizer n_t and a stabilizer m_t, and outputs o_t c_t / n_t, which
does not depend on m_t. Here, the cell is c_t / n_t, and log n_t, which cannot overflow, takes the
place of n_t and m_t.

Shapes: T steps, B batch, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid


def recur(
    of_x: Tensor, h: Tensor, c: Tensor, n: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute h_t of every step, (T, B, H), and the last c_T and n_T.

    With [i, f, z, o] = u_t + R h_{t-1},

        n_t = log(exp(log σ(f) + n_{t-1}) + exp(i));   s = exp(i - n_t)
        c_t = (1 - s) c_{t-1} + s tanh(z);   h_t = σ(o) c_t

    of_x: u of every step, (T, B, 4H). h, c, n: those before the first step, (B, H); n is the
    logarithm of the normalizer, -inf at the start. weight: R, (4H, H).
    """
    hidden, c, n, _ = _SLSTM.apply(of_x, h, c, n, weight)  # type: ignore[no-untyped-call]
    return hidden, c, n


class _SLSTM(torch.autograd.Function):
    """The recurrence. It also returns s, f, tanh(z), σ(o) and c of every step, for its gradient."""

    @staticmethod
    def forward(
        of_x: Tensor, h: Tensor, c: Tensor, n: Tensor, weight: Tensor
    ) -> tuple[Tensor, ...]:
        T, B, H = *of_x.shape[:2], h.shape[1]
        hidden, kept = of_x.new_empty(T, B, H), of_x.new_empty(5, T, B, H)
        gates, transposed = of_x.new_empty(B, 4 * H), weight.T
        for step in range(T):
            share, forget, candidate, output, cell = kept[:, step]
            torch.addmm(of_x[step], h, transposed, out=gates)
            i, f, z, o = gates.view(B, 4, H).unbind(1)
            before = logsigmoid(forget.copy_(f)) + n
            torch.sub(i, before, out=share).sigmoid_()
            n = torch.logaddexp(before, i)
            torch.tanh(z, out=candidate)
            torch.sigmoid(o, out=output)
            c = torch.lerp(c, candidate, share, out=cell)
            h = torch.mul(output, c, out=hidden[step])
        return hidden, c.clone(), n.clone(), kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        _, h, c, _, weight = inputs
        hidden, _, _, kept = output
        ctx.mark_non_differentiable(kept)
        ctx.save_for_backward(h, c, weight, hidden, kept)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, of_c: Tensor, of_n: Tensor, _: Tensor
    ) -> tuple[Tensor, ...]:
        h, c, weight, hidden, kept = ctx.saved_tensors
        share, forget, candidate, output, cell = kept
        T, B, H = hidden.shape
        rest = 1 - share
        cells = torch.cat([c.unsqueeze(0), cell[:-1]])
        by_cell = torch.stack(  # the derivatives of c_t by i and z
            [(candidate - cells) * share * rest, share * (1 - candidate * candidate)], dim=2
        )
        by_output = cell * output * (1 - output)
        open_gate = torch.sigmoid(-forget)
        of_gates, of_h = hidden.new_empty(T, B, 4, H), torch.zeros_like(h)
        for step in range(T - 1, -1, -1):
            of_h = of_h + gradient[step]
            of_c = torch.addcmul(of_c, of_h, output[step])
            of_i, of_f, of_z, of_o = of_gates[step].unbind(1)
            torch.mul(of_c, by_cell[step, :, 1], out=of_z)
            torch.mul(of_h, by_output[step], out=of_o)
            torch.mul(of_c, by_cell[step, :, 0], out=of_i).addcmul_(of_n, share[step])
            of_n = of_n - of_i
            torch.mul(of_n, open_gate[step], out=of_f)
            of_c = of_c * rest[step]
            of_h = of_gates[step].view(B, 4 * H) @ weight
        before = torch.cat([h.unsqueeze(0), hidden[:-1]]).view(T * B, H)
        flat = of_gates.view(T * B, 4 * H)
        return flat.view(T, B, 4 * H), of_h, of_c, of_n, flat.T @ before
