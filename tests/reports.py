"""Finished studies made by hand, for the reports on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import LSTM, SAB
from sabtune.models.base import ModelConfig
from sabtune.reporting.figures.marks import Panel
from sabtune.schedule import Constant, Linear
from sabtune.storage.store import Store
from sabtune.study.attributes import CHECKPOINT, ENVIRONMENT, LABEL, RESULT, SCORES, SPEC, TEST
from sabtune.study.optuna_storage import open_storage
from sabtune.study.trial_specs import FRESH_SEED
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.trial import TrialSpec, plain

LENGTHS = (100, 200, 400, 2000)
SELECT = (100, 200)
TASK = Copying.Config(length=100, symbols=10)
DISTRIBUTIONS = {
    "schedule": CategoricalDistribution(("constant", "linear")),
    "k_top": IntDistribution(2, 15),
    "k_att": IntDistribution(1, 10),
    "learning_rate": FloatDistribution(5e-4, 4e-3, log=True),
}
PACKAGES = {"torch": "2.13.0", "study": {"commit": "0abc", "dirty": False}}


def results(score: float, lengths: Sequence[int] = LENGTHS) -> list[LengthResult]:
    """Return results that fall from `score` towards chance with length, at 10 µs per step."""
    return [
        LengthResult(
            length=length,
            accuracy=0.125 + 0.875 * score ** (1 + math.log(length / 100)),
            loss=1 - score / 2,
            sequences=256,
            seconds=256 * length * 1e-5,
        )
        for length in lengths
    ]


def frozen(
    number: int,
    model: ModelConfig,
    score: float,
    state: TrialState,
    *,
    task: Any = TASK,
    seed: int | None = None,
    lengths: Sequence[int] = LENGTHS,
    values: Sequence[float] | None = None,
    params: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    label: str = "",
    costs: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """Return a trial with 10 reports; a pruned trial has 3 and a failed trial has 1.

    costs: its seconds, parameters and multiply_adds, as they are stored.
    """
    params = params or {}
    train = TrainConfig(
        updates=1000, report_every=100, learning_rate=params.get("learning_rate", 1e-3)
    )
    run = RunConfig.of(
        task=task,
        trial=TrialConfig(model=model, train=train),
        seed=number if seed is None else seed,
    )
    made = TrialSpec(
        number=number,
        configuration=number,
        run=run,
        ladder=Ladder(lengths=tuple(lengths), select=SELECT[:1] if seed else SELECT),
        evaluation_seed=0,
        threads=1,
    )
    reports = {TrialState.COMPLETE: 10, TrialState.PRUNED: 3, TrialState.FAIL: 1}[state]
    scores = {100 * i: score * i / 10 for i in range(1, reports + 1)}
    complete = state == TrialState.COMPLETE
    result: dict[str, Any] = {TEST: plain(results(score, lengths)) if complete else []}
    result |= {CHECKPOINT: str(checkpoint)} if checkpoint else {}
    result |= costs or {}
    several = values is not None and len(values) > 1
    return create_trial(
        state=state,
        values=(values or [score]) if complete else None,
        params=dict(params),
        distributions={name: DISTRIBUTIONS[name] for name in params},
        intermediate_values={} if several else scores,
        user_attrs={
            SPEC: made.to_dict(),
            ENVIRONMENT: PACKAGES,
            RESULT: result,
            **({SCORES: scores} if several else {}),
            **({LABEL: label} if label else {}),
        },
    )


def searched(
    store: Store,
    name: str,
    trials: int,
    *,
    objectives: Sequence[str] = ("score",),
    task: Any = TASK,
    checkpoint: Path | None = None,
    in_memory: bool = False,
) -> optuna.Study:
    """Write a search in which every third trial was pruned and every eleventh failed."""
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize", "minimize"]
    study = optuna.create_study(
        study_name=name,
        storage=None if in_memory else open_storage(store, write=True),
        directions=directions[: len(objectives)],
    )
    study.set_user_attr("plan", {"objectives": list(objectives), "file": __file__})
    draw, made = np.random.default_rng(0), []
    for number in range(trials):
        params: dict[str, Any] = {
            "schedule": str(draw.choice(["constant", "linear"])),
            "k_top": int(draw.integers(2, 16)),
            "k_att": int(draw.integers(1, 11)),
            "learning_rate": float(np.exp(draw.uniform(np.log(5e-4), np.log(4e-3)))),
        }
        schedule = Linear(start="all") if params["schedule"] == "linear" else Constant()
        model = SAB.Config(
            hidden=8, k_top=params["k_top"], k_att=params["k_att"], schedule=schedule
        )
        score = float(np.clip(0.9 - 0.05 * abs(params["k_att"] - 4) + draw.normal(0, 0.1), 0, 1))
        state = TrialState.COMPLETE
        state = TrialState.PRUNED if number % 3 == 2 else state
        state = TrialState.FAIL if number % 11 == 10 else state
        values = [score, *(draw.uniform(0.01, 0.05) for _ in objectives[1:])]
        made.append(
            frozen(
                number, model, score, state,
                task=task, params=params, values=values, checkpoint=checkpoint,
            )
        )  # fmt: skip
    study.add_trials(made)
    return study


def confirmed(
    store: Store,
    name: str,
    methods: Mapping[str, tuple[ModelConfig, Sequence[float | None]]],
    lengths: Sequence[int] = LENGTHS,
) -> optuna.Study:
    """Write a comparison of methods on the same seeds.

    methods: the model and its scores by label; a score is None where a seed failed.
    """
    study = optuna.create_study(
        study_name=name, storage=open_storage(store, write=True), direction="maximize"
    )
    confirmation = {label: model.label() for label, (model, _) in methods.items()}
    study.set_user_attr(
        "plan", {"contest": confirmation, "searched": list(LENGTHS), "file": __file__}
    )
    for label, (model, found) in methods.items():
        for seed, score in enumerate(found):
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            number = len(study.get_trials(deepcopy=False))
            study.add_trial(
                frozen(number, model, score or 0.0, state,
                       seed=FRESH_SEED + seed, lengths=lengths, label=label)
            )  # fmt: skip
    return study


BASELINES = {
    "ours": (SAB.Config(hidden=8), (0.9, 0.95, 0.7, 0.92)),
    "lstm": (LSTM.Config(hidden=8), (0.3, None, 0.35, 0.2)),
}

M = TypeVar("M")


def marks(panel: Panel, kind: type[M]) -> list[M]:
    return [mark for mark in panel.marks if isinstance(mark, kind)]


def named(panel: Panel, label: str) -> object:
    return next(mark for mark in panel.marks if getattr(mark, "label", None) == label)
