"""Test what a model's state_dict contains, and copies of a state."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sabtune.errors import InputError
from sabtune.models import SAB, Model
from sabtune.schedule import Linear
from tests.fused_cases import noise
from tests.small_models import small

I, O, T = 3, 4, 20


def built(kind: str = "sab", hidden: int = 17, **values: Any) -> Model:
    generator = torch.Generator().manual_seed(0)
    return small(kind, hidden=hidden, **values).build(I, O, steps=T, generator=generator)


def by_file(tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
    save_file(tensors, folder / "weights.safetensors")
    return load_file(folder / "weights.safetensors")


def by_torch(tensors: dict[str, Any], folder: Path) -> dict[str, Any]:
    torch.save(tensors, folder / "weights.pt")
    return torch.load(folder / "weights.pt", weights_only=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "way",
    [lambda d, _: d, lambda d, _: {k: v.clone() for k, v in d.items()}, by_file, by_torch],
    ids=["itself", "cloned", "safetensors", "torch"],
)
def test_a_loaded_model_gives_the_same_logits(
    way: Callable[[dict[str, Any], Path], dict[str, Any]], tmp_path: Path
) -> None:
    schedule = Linear(start="all")
    trained, loaded = (built(k_top=2, k_att=1, schedule=schedule) for _ in range(2))
    x = noise(2, T, I, dtype=torch.float32)
    for progress in (1.0, 0.25, 0.0):
        trained.set_progress(progress)
        loaded.load_state_dict(way(trained.state_dict(), tmp_path), strict=True)
        assert loaded.in_force() == trained.in_force()
        assert torch.equal(loaded(x)[0], trained(x)[0])
    loaded.set_progress(1.0)  # the schedule continues
    assert loaded.in_force() == {"k_top": 2}


def test_a_state_dict_without_k_top_leaves_k_top_unchanged() -> None:
    """Check a state_dict like those of version 0.1, which wrote no k_top."""
    trained, loaded = (built(k_top=2, k_att=1, schedule=Linear(start="all")) for _ in range(2))
    loaded.set_progress(0.25)
    before = loaded.in_force()
    loaded.load_state_dict(dict(trained.named_parameters()), strict=True)
    assert loaded.in_force() == before
    inside = torch.nn.Sequential(built(k_top=2))
    inside.load_state_dict({f"0.{k}": v for k, v in trained.named_parameters()}, strict=True)


def test_loading_weights_keeps_another_final_k_top() -> None:
    """A model with another final k_top keeps its own."""
    few, many = built(k_top=2), built(k_top=7)
    many.load_state_dict(few.state_dict())
    assert many.in_force() == {"k_top": 7}
    with pytest.raises(
        InputError, match="the state_dict's k_top is 3: use the state_dict of a SAB"
    ):
        few.load_state_dict(few.state_dict() | {"_extra_state": 3})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_model_is_independent(copied: Callable[[Model], Model]) -> None:
    model = built(k_top=2, k_att=1, schedule=Linear(start="all"))
    model.set_progress(0.25)
    other = copied(model)
    assert other.in_force() == model.in_force()
    model.set_progress(1.0)
    other.load_state_dict(dict(model.named_parameters()))
    assert other.in_force() != model.in_force()
    other.load_state_dict(model.state_dict())
    assert other.in_force() == model.in_force()


def by_torch_save(state: Any) -> Any:
    held = io.BytesIO()
    torch.save(state, held)
    held.seek(0)
    return torch.load(held, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "the oldest pickle": lambda state: pickle.loads(pickle.dumps(state, protocol=2)),
    "torch.save": by_torch_save,
}

STATES: list[tuple[str, dict[str, Any]]] = [
    *(("sab", {"k_att": 2, "scoring": scoring}) for scoring in ("mlp", "dot", "separable")),
    ("sab", {"k_att": 2, "form": "released"}),
    ("lstm", {}),
    ("gru", {}),
    ("mingru", {}),
    ("minlstm", {}),
    ("mem-lstm", {}),
    ("rel-lstm", {"short_term": 3, "relevant": 2}),
    ("transformer", {}),
    ("mamba2", {}),
    ("slstm", {}),
    ("self-attention", {}),
    ("self-attention", {"weights": "sparsemax"}),
    ("self-attention", {"form": "early"}),
]


@pytest.mark.parametrize("grad", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("kind", "values"), STATES, ids=str)
@pytest.mark.parametrize("how", COPIES)
def test_a_copied_state_continues_with_the_same_bits(
    how: str, kind: str, values: dict[str, Any], grad: bool
) -> None:
    """Check copies made before and after the original continues and its memory is read."""
    model, x = built(kind, **values), noise(2, 3 * T, I, dtype=torch.float32)
    x[1] *= 60  # keys whose exponential overflows
    first, second, third = x.split(T, dim=1)  # type: ignore[no-untyped-call]
    if kind not in ("sab", "self-attention") and grad:
        pytest.skip("it has the gradient of what led to it, which torch doesn't copy")
    with torch.set_grad_enabled(grad):
        state = model(first)[1]
        before = COPIES[how](state)
        logits, after = model(second, state)
        late = COPIES[how](state)
        for name in ("h", "c", "memory", "keys"):
            if hasattr(state, name):
                torch.testing.assert_close(getattr(before, name), getattr(state, name))
                torch.testing.assert_close(getattr(late, name), getattr(state, name))
        ended = model(third, after)[0]
        for each in (before, late):
            again, onward = model(second, each)
            assert torch.equal(again, logits)
            torch.testing.assert_close(model(third, onward)[0], ended)
        assert torch.equal(model(third, COPIES[how](after))[0], ended)


def go_on(model: Model, state: Any, x: Tensor, sender: Any) -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        sender.send(model(x, state)[0].numpy())


def test_a_state_is_sent_to_another_process() -> None:
    model, x = built(), noise(2, 2 * T, I, dtype=torch.float32)
    assert isinstance(model, SAB)
    with torch.no_grad():
        state = model(x[:, :T])[1]
        truth = model(x[:, T:], state)[0]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=go_on, args=(model, state, x[:, T:], sender))
    process.start()
    found = receiver.recv()
    process.join()
    assert torch.equal(torch.from_numpy(found), truth)
