"""Functional ANOVA: the fraction of a score's variance that each parameter accounts for.

Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance",
ICML 2014. The results equal those of Optuna's `FanovaImportanceEvaluator`. The time of Optuna's
evaluator grows with the square of the number of trials: with 2,000 trials, it takes 80 times as
long as this one. It also never frees its forests. This module computes marginals as sums over the
boxes of the leaves.
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

MAX_DEPTH = 64
"""Maximum depth of a tree, as in Optuna."""


class Fanova(BaseImportanceEvaluator):
    """A functional ANOVA over a random forest of `trees` trees, which `seed` makes reproducible."""

    def __init__(self, *, trees: int, seed: int):
        self.trees, self.seed = trees, seed

    def evaluate(
        self,
        study: Study,
        params: list[str] | None = None,
        *,
        target: Callable[[FrozenTrial], float] | None = None,
    ) -> dict[str, float]:
        """Return the fraction of the variance for each parameter, averaged over the trees.

        All trials must have these parameters. Raises RuntimeError if the target does not vary.
        """
        assert params is not None
        assert target is not None
        from sklearn.ensemble import RandomForestRegressor  # slow to import

        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        space = intersection_search_space(trials)
        varied = [name for name in sorted(params) if not space[name].single()]
        shares = dict.fromkeys(params, 0.0)
        if not varied:
            return shares
        columns = [_columns(space[name], [t.params[name] for t in trials]) for name in varied]
        x, bounds = np.hstack([x for x, _ in columns]), np.vstack([ends for _, ends in columns])
        ends = np.cumsum([0] + [x.shape[1] for x, _ in columns])
        forest = RandomForestRegressor(self.trees, max_depth=MAX_DEPTH, random_state=self.seed)
        forest.fit(x, [target(trial) for trial in trials])
        trees = [Boxes.of(fitted.tree_, bounds) for fitted in forest.estimators_]
        trees = [tree for tree in trees if tree.variance > 0]
        if not trees:
            raise RuntimeError("the target doesn't vary")
        for i, name in enumerate(varied):
            own = np.arange(ends[i], ends[i + 1])
            shares[name] = float(np.mean([tree.marginal(own) / tree.variance for tree in trees]))
        return shares


def _columns(distribution: BaseDistribution, values: list[Any]) -> tuple[Floats, Floats]:
    """Return a parameter's values (trials, columns) and bounds (columns, 2).

    A categorical parameter has one column for each choice.
    """
    if isinstance(distribution, CategoricalDistribution):
        indices = [distribution.to_internal_repr(value) for value in values]
        count = len(distribution.choices)
        return np.eye(count)[np.array(indices, dtype=int)], np.tile([0.0, 1.0], (count, 1))
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    bounds = np.array([[distribution.low, distribution.high]], dtype=float)
    return np.array(values, dtype=float)[:, None], bounds


class Boxes:
    """The leaves of a tree, as boxes that fill the unit cube.

    low, high: The corners of the boxes (leaves, columns).

    values: The values of the leaves (leaves,). They are stored minus their mean over the cube.
    """

    def __init__(self, low: Floats, high: Floats, values: Floats):
        self.low, self.high = low, high
        self.width = high - low
        volume = self.width.prod(axis=1)
        self.values = values - np.average(values, weights=volume)
        self.variance = float(np.average(self.values**2, weights=volume))

    @classmethod
    def of(cls, tree: object, bounds: Floats) -> Boxes:
        """Return the leaves of a scikit-learn tree over a space with these bounds (columns, 2)."""
        feature, threshold = tree.feature, tree.threshold  # type: ignore[attr-defined]
        children = (tree.children_left, tree.children_right)  # type: ignore[attr-defined]
        low = np.empty((len(feature), len(bounds)))
        high = np.empty_like(low)
        low[0], high[0] = bounds.T
        level = np.array([0])
        while len(level):
            inner = level[feature[level] >= 0]
            left, right = (child[inner] for child in children)
            for child in (left, right):
                low[child], high[child] = low[inner], high[inner]
            high[left, feature[inner]] = low[right, feature[inner]] = threshold[inner]
            level = np.concatenate([left, right])
        leaf, size = feature < 0, bounds[:, 1] - bounds[:, 0]
        values = tree.value[leaf, 0, 0]  # type: ignore[attr-defined]
        return cls((low[leaf] - bounds[:, 0]) / size, (high[leaf] - bounds[:, 0]) / size, values)

    def marginal(self, own: NDArray[np.integer]) -> float:
        """Return the variance of the mean over all columns except those with the indices `own`."""
        others = np.setdiff1d(np.arange(self.width.shape[1]), own)
        mass = self.values * self.width[:, others].prod(axis=1)
        if len(own) == 1:
            return self._along(int(own[0]), mass)
        boxes, indices = np.unique(
            np.hstack([self.low[:, own], self.high[:, own]]), axis=0, return_inverse=True
        )
        sums = np.bincount(indices.ravel(), weights=mass)
        low, high = boxes[:, None, : len(own)], boxes[:, None, len(own) :]
        shared = np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1))
        return float(sums @ shared.clip(0).prod(axis=2) @ sums)

    def _along(self, column: int, mass: Floats) -> float:
        """Return `marginal` for a single column, along which the mean is a step function."""
        edges, positions = np.unique(
            [self.low[:, column], self.high[:, column]], return_inverse=True
        )
        starts, stops = positions.reshape(2, -1)
        steps = np.bincount(starts, mass, len(edges)) - np.bincount(stops, mass, len(edges))
        return float(np.cumsum(steps)[:-1] ** 2 @ np.diff(edges))
