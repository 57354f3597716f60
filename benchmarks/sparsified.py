"""Does full self-attention fail on long sequences because each of many states has a little weight?

    python benchmarks/sparsified.py STUDY [--store PATH] [--length 5000] [--sequences 256]

The trained self-attention models of a study, tested as they are, and with all but the k_top highest
scores of each step left out of the softmax. Nothing is trained: the two models have the same
parameters, and "all" is the control.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sabtune.checkpoint import MODEL_FILES, load_model
from sabtune.config import RunConfig
from sabtune.evaluation import measure
from sabtune.models import SAB, Model, SelfAttention
from sabtune.models.sab import ALL
from sabtune.ops import reference
from sabtune.ops.reference import State
from sabtune.search import record
from sabtune.search.contest import EVALUATION_SEED
from sabtune.seeding import Stream
from sabtune.store import Store

SATURATED = 30.0
"""A key that takes tanh to ±1 whatever the query adds to it."""


def models(study: str, store: str) -> Iterator[tuple[RunConfig, SelfAttention]]:
    """Those that were trained to their ends, with what was trained."""
    for trial in record.records(record.open_study(Store.at(store).existing(), study)):
        if trial.checkpoint is None or trial.run is None or not trial.test:
            continue
        with trial.checkpoint.here(MODEL_FILES) as here:
            model = load_model(here)
        if isinstance(model, SelfAttention):
            yield trial.run, model


class Sparsified(SAB):
    """SAB by the weights of an attention that has no m_0: here m_0 scores less than any state, and
    so is recalled at the first step alone, where there is no other; it adds nothing."""

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            state = reference.initial_state(x.shape[0], self.weights())
            state = replace(
                state, keys=(-SATURATED * self.weights().w3.sign()).expand_as(state.keys)
            )
        return super().forward(x, state)


def sparsified(model: SelfAttention, k_top: int, run: RunConfig) -> Model:
    """The same weights, with the k_top highest of each step's."""
    task, none = run.task.build(), torch.Generator()
    config = SAB.Config(
        hidden=model.config.hidden, k_top=k_top, k_att=1, k_trunc=0, normalizer="softmax"
    )
    steps = task.steps(run.task.length)
    sparse = Sparsified(config, task.inputs, task.outputs, steps=steps, generator=none)
    sparse.load_state_dict(model.state_dict())
    return sparse.eval()


def row(
    run: RunConfig, model: SelfAttention, tops: Sequence[int], options: argparse.Namespace
) -> str:
    """The accuracies of one model, as trained and for every k_top."""
    task = run.task.build()
    cells = [
        measure(
            each, task, options.length, sequences=options.sequences,
            seed=EVALUATION_SEED, stream=Stream.CONFIRMATION,
        ).accuracy
        for each in (model, *(sparsified(model, k_top, run) for k_top in tops))
    ]  # fmt: skip
    return f"{run.seed:<14}" + "".join(f"{accuracy:>11.1%}" for accuracy in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--store", default="sabtune-store")
    parser.add_argument("--length", type=int, default=5000)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--k-top", default="all,20,10,5,2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    words = options.k_top.split(",")
    tops = [ALL if word == "all" else int(word) for word in words]
    print(f"accuracy at length {options.length} on {options.sequences} sequences")
    print(f"{'seed':<14}{'as it is':>11}" + "".join(f"{'k_top ' + word:>11}" for word in words))
    for run, model in models(options.study, options.store):
        print(row(run, model, tops, options), flush=True)


if __name__ == "__main__":
    main()
