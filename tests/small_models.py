"""Small models of every kind and of any width, whose heads divide it."""

from __future__ import annotations

from typing import Any

from sabtune.models import MODELS, ModelConfig

SETTINGS: dict[str, dict[str, Any]] = {
    "transformer": {"heads": 1, "positions": "alibi"},
    "mamba2": {"heads": 2, "state_size": 4, "chunk": 5},
}


def small(kind: str, **values: Any) -> ModelConfig:
    """Return the configuration of a model of this kind."""
    return MODELS[kind](**SETTINGS.get(kind, {}) | values)
