"""The names of the methods of a comparison, as figures and tables show them.

The runs of a comparison are stored under labels such as "#3 lstm full BPTT", which identify a
configuration and stay as they are. Readers see the name of the model instead: "LSTM, full BPTT".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from sabtune.models import MODELS, ModelConfig

ORIGIN = re.compile(r"(?P<origin>(.* )?#\d+) .+", re.DOTALL)
"""A label that `confirm` gives: the study, if there are several, the number, and the model."""

BASELINES = frozenset(
    {*MODELS, "truncated", "self_attention", "entmax", "sparse_test", "h_detach", "mamba2_passing"}
)
"""Labels that only name a kind of model or a baseline."""

ARROW = " → "
"""What separates the setting from its value in the name of a change, as in "k_att → 1"."""

WINNER = "winner"
"""The label of the first configuration of an ablation."""


def method_names(models: Mapping[str, ModelConfig]) -> dict[str, str]:
    """Return the name of each method by its label; names are unique.

    A method has the name of its model (`ModelConfig.legend`). If several have the same, each name
    ends with the number of the configuration. A variant of an ablation has the name of its change.

    models: The model of each method, by the label of the method.
    """
    names = {label: _name(label, models) for label in models}
    counts = Counter(names.values())
    return {
        label: name if counts[name] == 1 else f"{name}, {_origin(label)}"
        for label, name in names.items()
    }


def _name(label: str, models: Mapping[str, ModelConfig]) -> str:
    head, colon, change = label.rpartition(": ")
    if colon and ARROW in change and head in models:
        return f"{_name(head, models)}: {change}"
    if label == WINNER:
        return f"{models[label].legend()}, {WINNER}"
    return models[label].legend() if ORIGIN.fullmatch(label) or label in BASELINES else label


def _origin(label: str) -> str:
    """Return the part of a label that tells configurations of the same model apart."""
    match = ORIGIN.fullmatch(label)
    return match["origin"] if match else label
