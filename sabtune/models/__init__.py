"""The models that a trial can train, by their names in a configuration."""

from sabtune.models.base import Model, ModelConfig
from sabtune.models.lstm import LSTM
from sabtune.models.sab import SAB
from sabtune.models.self_attention import SelfAttention

MODELS: dict[str, type[ModelConfig]] = {
    "sab": SAB.Config,
    "lstm": LSTM.Config,
    "self-attention": SelfAttention.Config,
}

__all__ = ["LSTM", "MODELS", "SAB", "Model", "ModelConfig", "SelfAttention"]
