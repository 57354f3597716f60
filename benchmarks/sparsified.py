"""Measure whether many small attention weights lower the accuracy on long sequences.

    python benchmarks/sparsified.py STUDY [--store PATH] [--length 5000] [--sequences 256]

The script tests the trained models of a study as they are, and with only the k_top highest scores
of each step. It trains nothing, because self-attention has the same parameters as SAB. The control
is self-attention with k_top "all". A SAB model is tested with every k_top below its own. To search
models that are sparse at test alone, use the baseline `sparse_test`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sabtune.models import SAB, Model, SelfAttention
from sabtune.models.sab import ALL
from sabtune.ops import reference
from sabtune.ops.reference import State
from sabtune.storage.store import Store
from sabtune.study.record import StudyRecord
from sabtune.tasks import Task
from sabtune.training.checkpoint import MODEL_FILES, load_model
from sabtune.training.evaluation import measure
from sabtune.training.trial import TrialSpec

SATURATED = 30.0
"""The magnitude of a key that saturates tanh for every query."""


def models(study: str, store: str, only: str) -> Iterator[tuple[TrialSpec, SelfAttention | SAB]]:
    """Yield the spec and the model of each complete trial of SAB or self-attention.

    only: what the labels of the models start with.
    """
    for trial in StudyRecord.open(Store.at(store).existing(), study).trials:
        if trial.spec is None or trial.checkpoint is None or not trial.test:
            continue
        config = trial.spec.run.model
        if isinstance(config, SelfAttention.Config) and not is_dense(config):
            continue
        if config.label().startswith(only) and isinstance(
            config, SelfAttention.Config | SAB.Config
        ):
            with trial.checkpoint.here(MODEL_FILES) as here:
                model = load_model(here)
            assert isinstance(model, SelfAttention | SAB)
            yield trial.spec, model


def is_dense(config: SelfAttention.Config) -> bool:
    """Return whether self-attention has softmax weights in training and at test."""
    return config.form == "paper" and config.weights == "softmax" and config.same_at_test


class Sparsified(SAB):
    """SAB with the weights of self-attention, which has no initial memory m_0.

    m_0 scores lower than any state, so it is recalled only at the first step, where there is no
    other memory. It adds nothing to the output.
    """

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            state = reference.initial_state(x.shape[0], self.weights())
            state = replace(
                state, keys=(-SATURATED * self.weights().w3.sign()).expand_as(state.keys)
            )
        return super().forward(x, state)


def sparsified(model: SelfAttention | SAB, k_top: int, task: Task) -> Model:
    """Return a model with the same weights that recalls only the k_top highest scores."""
    if isinstance(model, SAB):
        sparse = copy.deepcopy(model)
        sparse.k_top = k_top
        return sparse
    config = SAB.Config(
        hidden=model.config.hidden, k_top=k_top, k_att=1, k_trunc=0, normalizer="softmax"
    )
    sparse = Sparsified(config, task.inputs, task.outputs, steps=1, generator=torch.Generator())
    sparse.load_state_dict(model.state_dict())
    return sparse.eval()


def row(
    spec: TrialSpec,
    model: SelfAttention | SAB,
    tops: Sequence[int],
    length: int,
    sequences: int,
) -> str:
    """Return a row with the accuracies of one model, as trained and for every smaller k_top."""
    run = spec.run
    task = run.task.build()
    own = model.k_top if isinstance(model, SAB) else None
    tested = [
        model,
        *(sparsified(model, k, task) if own is None or k < own else None for k in tops),
    ]
    measured = partial(
        measure, task=task, length=length, sequences=sequences,
        seed=spec.evaluation_seed, stream=spec.test_stream,
    )  # fmt: skip
    cells = [f"{measured(each).accuracy:.1%}" if each else "–" for each in tested]
    label = f"{run.model.label():<38}{run.seed:>14}"
    return label + "".join(f"{cell:>11}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--store", default="sabtune-store")
    parser.add_argument("--length", type=int, default=5000)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--k-top", default="all,20,10,5,2")
    parser.add_argument("--only", default="", help="test only models whose label starts with this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = options.k_top.split(",")
    tops = [ALL if word == "all" else int(word) for word in words]
    print(f"accuracy at length {options.length} on {options.sequences} sequences")
    heads = ("as it is", *(f"k_top {word}" for word in words))
    print(f"{'model':<38}{'seed':>14}{''.join(f'{head:>11}' for head in heads)}")
    for spec, model in models(options.study, options.store, options.only):
        print(row(spec, model, tops, options.length, options.sequences), flush=True)


if __name__ == "__main__":
    main()
