"""Functional ANOVA: how much of the variance of a score each parameter accounts for.

Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance",
ICML 2014. It gives the numbers of Optuna's `FanovaImportanceEvaluator`, whose time grows with the
square of the trials (at 2,000 it takes 80 times as long) and which keeps every forest that it ever
made. Here the marginals are sums over the leaves' boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import BaseImportanceEvaluator
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial, TrialState

Floats = NDArray[np.floating]

DEEPEST = 64
"""Of a tree, as Optuna has it."""


class Fanova(BaseImportanceEvaluator):
    """Of a random forest of so many trees; the same seed grows the same forest."""

    def __init__(self, *, trees: int, seed: int):
        self.trees, self.seed = trees, seed

    def evaluate(
        self,
        study: Study,
        params: list[str] | None = None,
        *,
        target: Callable[[FrozenTrial], float] | None = None,
    ) -> dict[str, float]:
        """Return each parameter's share, averaged over the trees; all trials must have them.

        Raises RuntimeError if the target doesn't vary.
        """
        assert params is not None
        assert target is not None
        from sklearn.ensemble import RandomForestRegressor  # takes long to import

        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        space = intersection_search_space(trials)
        varied = [name for name in sorted(params) if not space[name].single()]
        shares = dict.fromkeys(params, 0.0)
        if not varied:
            return shares
        columns = [_columns(space[name], [t.params[name] for t in trials]) for name in varied]
        x, bounds = np.hstack([of for of, _ in columns]), np.vstack([ends for _, ends in columns])
        ends = np.cumsum([0] + [of.shape[1] for of, _ in columns])
        forest = RandomForestRegressor(self.trees, max_depth=DEEPEST, random_state=self.seed)
        forest.fit(x, [target(trial) for trial in trials])
        trees = [Boxes.of(grown.tree_, bounds) for grown in forest.estimators_]
        trees = [tree for tree in trees if tree.variance > 0]
        if not trees:
            raise RuntimeError("the target doesn't vary")
        for i, name in enumerate(varied):
            own = np.arange(ends[i], ends[i + 1])
            shares[name] = float(np.mean([tree.marginal(own) / tree.variance for tree in trees]))
        return shares


def _columns(drawn_from: BaseDistribution, values: list[Any]) -> tuple[Floats, Floats]:
    """A parameter's values (trials, columns), a column for each choice, and bounds (columns, 2)."""
    if isinstance(drawn_from, CategoricalDistribution):
        places = [drawn_from.to_internal_repr(value) for value in values]
        count = len(drawn_from.choices)
        return np.eye(count)[np.array(places, dtype=int)], np.tile([0.0, 1.0], (count, 1))
    assert isinstance(drawn_from, IntDistribution | FloatDistribution)
    bounds = np.array([[drawn_from.low, drawn_from.high]], dtype=float)
    return np.array(values, dtype=float)[:, None], bounds


class Boxes:
    """The leaves of a tree as boxes that fill the unit cube.

    low, high: (leaves, columns); values: (leaves,), less their mean.
    """

    def __init__(self, low: Floats, high: Floats, values: Floats):
        self.low, self.high = low, high
        self.width = high - low
        volume = self.width.prod(axis=1)
        self.values = values - np.average(values, weights=volume)
        self.variance = float(np.average(self.values**2, weights=volume))

    @classmethod
    def of(cls, tree: object, bounds: Floats) -> Boxes:
        """The leaves of one of scikit-learn's trees over a space with these bounds (columns, 2)."""
        feature, threshold = tree.feature, tree.threshold  # type: ignore[attr-defined]
        children = (tree.children_left, tree.children_right)  # type: ignore[attr-defined]
        low = np.empty((len(feature), len(bounds)))
        high = np.empty_like(low)
        low[0], high[0] = bounds.T
        level = np.array([0])
        while len(level):
            inner = level[feature[level] >= 0]
            left, right = (of[inner] for of in children)
            for child in (left, right):
                low[child], high[child] = low[inner], high[inner]
            high[left, feature[inner]] = low[right, feature[inner]] = threshold[inner]
            level = np.concatenate([left, right])
        leaf, size = feature < 0, bounds[:, 1] - bounds[:, 0]
        values = tree.value[leaf, 0, 0]  # type: ignore[attr-defined]
        return cls((low[leaf] - bounds[:, 0]) / size, (high[leaf] - bounds[:, 0]) / size, values)

    def marginal(self, own: NDArray[np.integer]) -> float:
        """The variance of the mean over all columns but these."""
        others = np.setdiff1d(np.arange(self.width.shape[1]), own)
        mass = self.values * self.width[:, others].prod(axis=1)
        if len(own) == 1:
            return self._along(int(own[0]), mass)
        boxes, which = np.unique(
            np.hstack([self.low[:, own], self.high[:, own]]), axis=0, return_inverse=True
        )
        sums = np.bincount(which.ravel(), weights=mass)
        low, high = boxes[:, None, : len(own)], boxes[:, None, len(own) :]
        shared = np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1))
        return float(sums @ shared.clip(0).prod(axis=2) @ sums)

    def _along(self, column: int, mass: Floats) -> float:
        """The same of one column, along which the mean is a step function."""
        edges, at = np.unique([self.low[:, column], self.high[:, column]], return_inverse=True)
        starts, stops = at.reshape(2, -1)
        steps = np.bincount(starts, mass, len(edges)) - np.bincount(stops, mass, len(edges))
        return float(np.cumsum(steps)[:-1] ** 2 @ np.diff(edges))
