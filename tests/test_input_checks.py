"""Test that every implementation refuses invalid input before it reads or compiles anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sabtune.errors import InputError, SabtuneError
from sabtune.models import GRU, LSTM, MODELS, Model
from sabtune.ops import reference, self_attention
from sabtune.ops.call import VARIABLE
from sabtune.ops.compiled import backend
from sabtune.ops.eager import call as eager_call
from sabtune.ops.reference import Rule
from tests.fused_cases import dispatch_predict, dispatch_sab, for_rule, noise, parameters
from tests.small_models import small

B, T, I, H, M = 3, 7, 4, 5, 2


def forced(name: str) -> Callable[..., Any]:
    """Return a function like `reference.sab` for which the environment forces a backend."""

    def sab(*arguments: Any, **how: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, name)
            return dispatch_sab(*arguments, **how)

    return sab


CELLS: dict[str, Callable[..., Any]] = {
    "any backend": dispatch_sab,
    "compiled": forced("compiled"),
    "eager": forced("eager"),
    "reference": forced("reference"),
    "equations": reference.sab,
    "self-attention": self_attention.attend,
    "self-attention's equations": self_attention.equations,
}


def arguments(cell: str) -> dict[str, Any]:
    """Return the arguments of a valid call: x, the tensors of state and parameters, the numbers."""
    p = parameters(H, I, torch.float32)
    state = reference.initial_state(B, p)
    memory = noise(B, M, H, dtype=torch.float32)
    held = {"x": noise(B, T, I, dtype=torch.float32)} | vars(p)
    held |= {"h": state.h, "c": state.c, "memory": memory, "keys": memory @ p.W1.T}
    if not cell.startswith("self"):
        held |= {"step": 2, "k_top": 3, "k_att": 2, "k_trunc": 4}
    return held


def call(cell: str, held: dict[str, Any], **options: Any) -> Any:
    p = reference.Parameters(**{name: held[name] for name in vars(parameters(1, 1, torch.float32))})
    carried = {name: held[name] for name in ("h", "c", "memory", "keys")}
    if cell.startswith("self"):
        return CELLS[cell](held["x"], self_attention.State(**carried), p)
    state = reference.State(**carried, step=held["step"])
    counts = {name: held[name] for name in ("k_top", "k_att", "k_trunc")}
    return CELLS[cell](held["x"], state, p, **counts, **options)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a call gets past its checks."""

    def began(*_: object, **__: object) -> None:
        pytest.fail("the call began")

    monkeypatch.setattr(backend, "CompiledCall", began)
    monkeypatch.setattr(backend, "DenseCall", began)
    monkeypatch.setattr(eager_call, "EagerCall", began)
    monkeypatch.setattr(reference, "lstm_cell", began)


before_anything_runs = pytest.mark.usefixtures("nothing_runs")


def of_shape(*shape: int, **how: Any) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.new_zeros(shape, **how)


TENSORS = ["x", "h", "c", "memory", "keys", "weight_ih", "weight_hh", "bias_ih", "bias_hh"]
TENSORS += ["W1", "W2", "w3"]
SPOILT: dict[str, Callable[[Tensor], object]] = {
    "nothing": lambda tensor: None,
    "of NumPy": lambda tensor: tensor.numpy(),
    "a list": lambda tensor: tensor.tolist(),
    "one dimension more": lambda tensor: tensor.unsqueeze(0),
    "one dimension less": lambda tensor: tensor[0],
    "a row less": lambda tensor: tensor[:-1],
    "twice as wide": lambda tensor: torch.cat([tensor, tensor], dim=-1),
    "narrower": lambda tensor: tensor[..., :-1],
    "of float64": lambda tensor: tensor.double(),
    "of bfloat16": lambda tensor: tensor.bfloat16(),
    "of whole numbers": lambda tensor: tensor.long(),
    "of Booleans": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "sparse": lambda tensor: tensor.to_sparse(),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8),
    "of another device": lambda tensor: tensor.to("meta"),
}


@before_anything_runs
@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("how", SPOILT)
def test_an_invalid_tensor_is_refused(cell: str, how: str) -> None:
    for name in TENSORS:
        held = arguments(cell)
        held[name] = SPOILT[how](held[name])
        with pytest.raises(InputError) as caught:
            call(cell, held)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, SabtuneError)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value) or "x is" in str(caught.value)


@before_anything_runs
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(B, 0, I), (B, T, 0), (B, T, 200_000), (B + 61, T, I), (T, I)])
def test_an_x_of_a_wrong_shape_is_refused(cell: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\bis \("):
        call(cell, arguments(cell) | {"x": torch.zeros(shape)})


@before_anything_runs
@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.startswith("self")])
@pytest.mark.parametrize("name", ["step", "k_top", "k_att", "k_trunc"])
@pytest.mark.parametrize("value", [-1, 1.0, 2.5, "3", None, True, 2**64, float("nan")])
def test_a_number_out_of_range_is_refused(cell: str, name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"{name} is .*: give a whole number of at least"):
        call(cell, arguments(cell) | {name: value})


@before_anything_runs
@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.startswith("self")])
def test_zero_sparsity_and_an_empty_memory_are_refused(cell: str) -> None:
    for change in ({"k_top": 0}, {"k_att": 0}):
        with pytest.raises(InputError, match=r"is 0: give a whole number of at least 1"):
            call(cell, arguments(cell) | change)
    nothing = torch.zeros(B, 0, H)
    with pytest.raises(InputError, match=r"state\.memory is \(3, 0, 5\): give \(3, 1, 5\)"):
        call(cell, arguments(cell) | {"memory": nothing, "keys": nothing})


@before_anything_runs
@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.startswith("self")])
def test_parameters_of_another_rule_are_refused(cell: str) -> None:
    for rule in (Rule(scoring="dot"), Rule(scoring="separable"), Rule(form="released")):
        with pytest.raises(InputError, match=r"^(w3|W2|W1) is .*: give an empty tensor"):
            call(cell, arguments(cell), rule=rule)
    held = arguments(cell)
    p = for_rule(parameters(H, I, torch.float32), Rule(form="released"))
    with pytest.raises(InputError, match=r"W1 is \(0,\): give \(5, 5\)"):
        call(cell, held | vars(p))


@before_anything_runs
@pytest.mark.parametrize("name", ["V", "b"])
@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_an_invalid_readout_is_refused(name: str, how: str) -> None:
    p = parameters(H, I, torch.float32)
    x, state = noise(B, T, I, dtype=torch.float32), reference.initial_state(B, p)
    readout: dict[str, Any] = {"V": torch.zeros(6, 2 * H), "b": torch.zeros(6)}
    readout[name] = SPOILT[how](readout[name])
    with pytest.raises(InputError, match=r"^(V|b) is "):
        dispatch_predict(x, state, p, (readout["V"], readout["b"]), k_top=3, k_att=2, k_trunc=4)


def built(kind: str, hidden: int = H, inputs: int = I) -> Model:
    generator = torch.Generator().manual_seed(0)
    return small(kind, hidden=hidden).build(inputs, 6, steps=T, generator=generator)


every_model = pytest.mark.parametrize("kind", MODELS)


@before_anything_runs
@every_model
@pytest.mark.parametrize(
    "x",
    [
        None,
        np.zeros((B, T, I), np.float32),
        torch.zeros(B, T, I + 2),
        torch.zeros(B, T, I - 1),
        torch.zeros(T, I),
        torch.zeros(B, T, 1, I),
        torch.zeros(B, 0, I),
        torch.zeros(B, T, I, dtype=torch.long),
        torch.zeros(B, T, I, dtype=torch.float64),
        torch.zeros(B, T, I).to_sparse(),
        torch.zeros(B, T, I, device="meta"),
    ],
    ids=lambda x: f"{getattr(x, 'shape', None)}-{getattr(x, 'dtype', None)}",
)
def test_a_model_refuses_an_invalid_x(kind: str, x: object) -> None:
    with pytest.raises(InputError, match=r"x is|, x (is|on)"):
        built(kind)(x)


@every_model
@pytest.mark.parametrize("grad", [True, False])
def test_a_state_of_another_call_is_refused(kind: str, grad: bool) -> None:
    """A state of another batch size, hidden size or model is refused; its own state is accepted."""
    model, x = built(kind), torch.zeros(B, T, I)
    with torch.set_grad_enabled(grad):
        states = [built(kind, hidden=H + 1)(x)[1], model(torch.zeros(B - 1, T, I))[1]]
        states += [model(torch.zeros(B + 61, T, I))[1]]
        states += [built(other)(x)[1] for other in MODELS if other != kind]
        states += [(torch.zeros(B, H), torch.zeros(B, H)), 0, torch.zeros(B, H)]
        for state in states:
            with pytest.raises(InputError, match=r"^state(\.\w+)? is "):
                model(x, state)
        assert model(x, model(x)[1])[0].shape == (B, T, 6)


def test_checking_a_state_does_not_compute_its_memory() -> None:
    model = built("sab")
    with torch.no_grad():
        state = model(torch.zeros(B, T, I))[1]
        model(torch.zeros(B, T, I), state)
        with pytest.raises(InputError):
            model(torch.zeros(B + 1, T, I), state)
    assert "memory" not in vars(state)
    assert "keys" not in vars(state)


@every_model
def test_unusual_valid_calls(kind: str) -> None:
    """Test strides, dtypes, autocast, calls without gradients and empty batches."""
    model = built(kind)
    x = noise(B, T, I, dtype=torch.float32)
    truth, after = model(x)
    apart = torch.stack([x, x], dim=3)[..., 0]
    assert not apart.is_contiguous()
    assert torch.equal(model(apart)[0], truth)
    assert torch.equal(model(x.transpose(0, 1).contiguous().transpose(0, 1))[0], truth)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            logits, state = model(x)
            torch.testing.assert_close(logits, truth)
            torch.testing.assert_close(model(x, state)[0], model(x, after)[0])
    assert model(x[:0])[0].shape == (0, T, 6)
    assert built(kind).double()(x.double())[0].dtype == torch.float64
    if isinstance(model, LSTM | GRU):  # whether torch's support narrower dtypes depends on the CPU
        return
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, state = model(x)
        torch.testing.assert_close(logits.float(), truth, rtol=0.1, atol=0.1)
        assert model(x, state)[0].shape == truth.shape
    for dtype in (torch.bfloat16, torch.float16):
        logits, state = built(kind).to(dtype)(x.to(dtype))
        assert logits.dtype == dtype
        torch.testing.assert_close(logits.float(), truth, rtol=0.1, atol=0.1)


def test_a_valid_state_without_gradient_of_another_dtype_is_refused() -> None:
    model, x = built("sab"), torch.zeros(B, T, I)
    with torch.no_grad():
        state = model(x)[1]
        wide = replace(state, memory=state.memory.double(), keys=state.keys.double())
        with pytest.raises(InputError, match=r"state\.memory is torch\.float64, x is torch\.fl"):
            model(x, wide)
