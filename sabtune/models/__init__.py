"""The models that a trial can train, by the name a config gives them."""

from sabtune.models.base import Model, ModelConfig
from sabtune.models.sab import SAB

MODELS: dict[str, type[ModelConfig]] = {"sab": SAB.Config}

__all__ = ["MODELS", "SAB", "Model", "ModelConfig"]
