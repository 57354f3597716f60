"""Test the layers in users' own code: as drop-ins for nn.LSTM, and under PyTorch's transforms."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import sabtune as sab
from sabtune.errors import ConfigError, InputError
from sabtune.ops import reference, self_attention

COUNTS: dict[str, Any] = {"k_top": 2, "k_att": 2, "k_trunc": 3}


def sparse(**options: Any) -> sab.SABLayer:
    torch.manual_seed(0)
    return sab.SABLayer(3, 8, **COUNTS, **{"batch_first": True, **options})


def dense(**options: Any) -> sab.SelfAttentionLayer:
    torch.manual_seed(0)
    return sab.SelfAttentionLayer(3, 8, **{"batch_first": True, **options})


def equations(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the output of a layer by the equations."""
    if isinstance(layer, sab.SABLayer):
        p = layer.weights()
        state = reference.initial_state(len(x), p)
        hidden, summary, _ = reference.sab(x, state, p, **COUNTS, rule=layer.rule)
    else:
        assert isinstance(layer, sab.SelfAttentionLayer)
        zeros = x.new_zeros(len(x), layer.hidden_size)
        start = self_attention.start(zeros, zeros)
        hidden, summary, _ = self_attention.equations(x, start, layer.weights())
    return torch.cat([hidden, summary], dim=-1)


def gradients(layer: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 11, 3, generator=torch.Generator().manual_seed(1))


Make = Callable[..., Any]
both = pytest.mark.parametrize("make", [sparse, dense])


@both
def test_a_layer_computes_the_equations(make: Make, x: Tensor) -> None:
    layer, expected_of = make(dtype=torch.float64), make(dtype=torch.float64)
    output, _ = layer(x.double())
    expected = equations(expected_of, x.double())
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gradients(layer), gradients(expected_of))


@both
def test_time_comes_first_by_default_as_in_nn_lstm(make: Make, x: Tensor) -> None:
    output, _ = make(batch_first=False)(x.transpose(0, 1))
    assert output.shape == (11, 4, 16)
    torch.testing.assert_close(output.transpose(0, 1), make()(x)[0], rtol=0, atol=0)


@both
def test_a_sequence_continues_from_a_state(make: Make, x: Tensor) -> None:
    layer = make()
    whole, _ = layer(x)
    first, state = layer(x[:, :6])
    second, _ = layer(x[:, 6:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


def test_a_changed_k_top_applies_to_the_next_call(x: Tensor) -> None:
    layer = sparse()
    before, _ = layer(x)
    layer.k_top = 4
    after, _ = layer(x)
    assert not torch.equal(before, after)
    assert "k_top=4, k_att=2, k_trunc=3" in repr(layer)


def test_a_layer_with_the_readout_of_a_model_is_the_model() -> None:
    task = sab.Copying.Config(length=4, symbols=2).build()
    config = sab.SAB.Config(hidden=8, k_trunc=3, k_att=2, k_top=2)
    model = config.build(task.inputs, task.outputs, steps=8, generator=torch.Generator())
    layer = sab.SABLayer(task.inputs, 8, **COUNTS, batch_first=True)
    layer.load_state_dict({k: v for k, v in model.state_dict().items() if k in layer.state_dict()})
    x = task.batch(5, 4, torch.Generator()).x
    logits, _ = model(x)
    torch.testing.assert_close(layer(x)[0] @ model.V.T + model.b, logits)


@both
@pytest.mark.parametrize("compiled", ["layer", "network"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of PyTorch
def test_compile(make: Make, x: Tensor, compiled: str) -> None:
    torch.compiler.reset()
    layer = make()
    expected, _ = make()(x)
    if compiled == "layer":
        output, _ = torch.compile(layer, backend="eager")(x)
    else:

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, x: Tensor) -> Tensor:
                output: Tensor = self.layer(2 * x)[0]
                return output

        output = torch.compile(Network(), backend="eager")(x / 2)

    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    output.sum().backward()
    assert set(gradients(layer)) == {name for name, _ in layer.named_parameters()}


@both
def test_autocast_computes_and_trains(make: Make, x: Tensor) -> None:
    layer = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(x)
        loss = nn.functional.linear(output, torch.ones(1, 16)).mean()
    torch.testing.assert_close(output.float(), make()(x)[0], rtol=0.05, atol=0.05)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(gradient.isfinite().all() for gradient in gradients(layer).values())
    assert set(gradients(layer)) == {name for name, _ in layer.named_parameters()}


@both
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_after_a_backward_pass(make: Make, x: Tensor, copied: Make) -> None:
    layer = make()
    layer(x)[0].sum().backward()
    clone = copied(layer)
    expected, _ = layer(x)
    with torch.no_grad():
        layer.weight_hh.zero_()
    torch.testing.assert_close(clone(x)[0], expected, rtol=0, atol=0)


@both
def test_a_state_dict_restores_a_layer(make: Make, x: Tensor) -> None:
    layer = make()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    torch.manual_seed(5)
    other = type(layer)(3, 8, batch_first=True, **(COUNTS if make is sparse else {}))
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(x)[0], layer(x)[0], rtol=0, atol=0)


@both
def test_functional_call_and_transforms(make: Make, x: Tensor) -> None:
    layer = make()
    weights = {k: p.detach() for k, p in layer.named_parameters()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        output: Tensor = torch.func.functional_call(layer, weights, (x,))[0]
        return output.square().sum()

    expected = make()
    expected(x)[0].square().sum().backward()
    torch.testing.assert_close(
        torch.func.grad(loss)(weights), gradients(expected), rtol=1e-4, atol=1e-4
    )
    stacked = {k: torch.stack([w, 2 * w]) for k, w in weights.items()}
    losses = torch.func.vmap(loss)(stacked)
    each = torch.stack([loss(weights), loss({k: 2 * w for k, w in weights.items()})])
    torch.testing.assert_close(losses, each)


@both
def test_activation_checkpointing(make: Make, x: Tensor) -> None:
    layer, expected = make(), make()
    checkpoint(lambda x: layer(x)[0], x, use_reentrant=False).square().sum().backward()
    expected(x)[0].square().sum().backward()
    torch.testing.assert_close(gradients(layer), gradients(expected))


@pytest.fixture
def _one_process(tmp_path: Any) -> Iterator[None]:
    address = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@both
@pytest.mark.usefixtures("_one_process")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of PyTorch
def test_distributed_data_parallel(make: Make, x: Tensor) -> None:
    layer, expected = make(), make()
    parallel = DistributedDataParallel(layer)
    parallel(x)[0].square().sum().backward()
    expected(x)[0].square().sum().backward()
    torch.testing.assert_close(gradients(layer), gradients(expected))


@both
def test_export_is_refused_in_one_line(make: Make, x: Tensor) -> None:
    with pytest.raises(Exception, match="the layer can't be exported"):
        torch.export.export(make(), (x,))


@both
@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda x: (x[0],), r"x is \(11, 3\): give a tensor \(B, T, I\) with T .* and I = 3"),
        (lambda x: (x[..., :2],), r"x is \(4, 11, 2\): give"),
        (lambda x: (x[:, :0],), "T of at least 1"),
        (lambda x: (x.long(),), "floating-point"),
        (lambda x: (x.to("meta"),), "x is on the device meta"),
        (lambda x: (pack_padded_sequence(x, [11] * 4, batch_first=True),), "PackedSequence"),
        (lambda x: (x, (x.new_zeros(1, 4, 8), x.new_zeros(1, 4, 8))), "state is a builtins.tuple"),
    ],
)  # fmt: skip
def test_input_that_does_not_fit_is_refused(make: Make, x: Tensor, give: Make, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make()(*give(x))


@pytest.mark.parametrize(
    "counts", [{"k_top": 0}, {"k_att": 0}, {"k_trunc": -1}, {"k_top": 2.5}, {"k_att": True}]
)
def test_counts_out_of_range_are_refused(counts: dict[str, Any]) -> None:
    (name,) = counts
    with pytest.raises(ConfigError, match=f"{name} is"):
        sab.SABLayer(3, 8, **counts)


@pytest.mark.parametrize(
    "values", [{"epsilon": 0.0}, {"scoring": "x"}, {"forget_bias": float("nan")},
               {"form": "released", "scoring": "dot"}],
)  # fmt: skip
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=list(values)[-1]):
        sab.SABLayer(3, 8, **values)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_stream_trains_in_every_dtype(make: Make, x: Tensor, dtype: torch.dtype) -> None:
    layer, state = make(dtype=dtype), None
    for _ in range(3):
        output, state = layer(x.to(dtype), state)
        assert not any(t.requires_grad for t in vars(state).values() if isinstance(t, Tensor))
        output.float().sum().backward()


@both
def test_a_layer_that_was_loaded_in_a_new_process_compiles(
    make: Make, x: Tensor, tmp_path: Path
) -> None:
    layer = make()
    torch.save((layer, x, layer(x)[0].detach()), tmp_path / "layer.pt")
    code = (
        "import torch; layer, x, expected = torch.load('layer.pt', weights_only=False); "
        "output, _ = torch.compile(layer, backend='eager')(x); "
        "assert torch.equal(output, expected)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=200)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_truncated_lstm_is_an_lstm_whose_gradients_stop(layers: int, x: Tensor) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 8, num_layers=layers, batch_first=True)
    cut = sab.TruncatedLSTM(3, 8, k_trunc=4, num_layers=layers, batch_first=True)
    cut.load_state_dict(lstm.state_dict())
    x.requires_grad_()
    output, (h, c) = cut(x)
    expected, after = lstm(x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close((h, c), after)
    output[:, -1].sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum(dim=(0, 2)) > 0
    assert reached.tolist() == [False] * 8 + [True] * 3  # blocks start at steps 0, 4 and 8


def test_a_truncated_lstm_refuses_to_run_backward() -> None:
    with pytest.raises(InputError, match="bidirectional"):
        sab.TruncatedLSTM(3, 8, k_trunc=4, bidirectional=True)
    with pytest.raises(InputError, match="k_trunc is 0"):
        sab.TruncatedLSTM(3, 8, k_trunc=0)


@pytest.mark.parametrize("make", [sparse, dense])
def test_open_forget_gates(make: Make) -> None:
    difference = make(forget_bias=2.0).bias_ih - make().bias_ih
    torch.testing.assert_close(difference, torch.tensor([0.0, 2.0, 0.0, 0.0]).repeat_interleave(8))
