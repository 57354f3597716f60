"""Compare fANOVA with Optuna's and with known variances."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from sabtune.analysis.fanova import Boxes, Fanova

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "k_top": optuna.distributions.IntDistribution(2, 15),
    "rate": optuna.distributions.FloatDistribution(5e-4, 4e-3, log=True),
    "step": optuna.distributions.FloatDistribution(0.0, 1.0, step=0.25),
    "kind": optuna.distributions.CategoricalDistribution(("a", None, 3, True)),
    "two": optuna.distributions.CategoricalDistribution(("x", "y")),
    "one": optuna.distributions.CategoricalDistribution(("always",)),
}


def study(count: int, score: Callable[..., float]) -> optuna.Study:
    draw, made = np.random.default_rng(count), optuna.create_study(direction="maximize")
    for _ in range(count):
        params = {
            "k_top": int(draw.integers(2, 16)),
            "rate": float(np.exp(draw.uniform(math.log(5e-4), math.log(4e-3)))),
            "step": float(draw.integers(0, 5)) / 4,
            "kind": ("a", None, 3, True)[int(draw.integers(4))],
            "two": ("x", "y")[int(draw.integers(2))],
            "one": "always",
        }
        value = score(draw, **params)
        made.add_trial(create_trial(params=params, distributions=SPACE, value=value))
    return made


def mixed(draw: np.random.Generator, k_top: int, rate: float, kind: object, **_: object) -> float:
    return k_top / 15 + (kind == 3) * 0.3 + 100 * rate * (k_top > 8) + float(draw.normal(0, 0.05))


@pytest.mark.parametrize("count", [13, 60])
def test_importances_equal_optunas(count: int) -> None:
    drawn = study(count, mixed)
    ours, theirs = (
        optuna.importance.get_param_importances(
            drawn, evaluator=evaluator, params=list(SPACE), target=lambda trial: trial.value or 0.0
        )
        for evaluator in (Fanova(trees=8, seed=0), FanovaImportanceEvaluator(n_trees=8, seed=0))
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert ours["one"] == 0


def test_a_constant_score_is_refused() -> None:
    with pytest.raises(RuntimeError, match="doesn't vary"):
        Fanova(trees=2, seed=0).evaluate(
            study(5, lambda *_, **__: 1.0), ["k_top"], target=lambda trial: trial.value or 0.0
        )


def test_marginals_are_integrals_over_the_boxes() -> None:
    """y is 4 where both a and b are in their upper halves, and 0 elsewhere.

    Its mean is 1 and its variance is 3; the mean of y given a has variance 1.
    """
    low = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]])
    high = np.array([[0.5, 1.0], [1.0, 0.5], [1.0, 1.0]])
    boxes = Boxes(low, high, np.array([0.0, 0.0, 4.0]))
    assert boxes.variance == pytest.approx(3)
    for own in ([0], [1]):
        assert boxes.marginal(np.array(own)) == pytest.approx(1)
    assert boxes.marginal(np.array([0, 1])) == pytest.approx(3)
