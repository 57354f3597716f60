"""The models that a trial can train, by their names in a configuration."""

from sabtune.models.base import Model, ModelConfig
from sabtune.models.gru import GRU
from sabtune.models.lstm import LSTM
from sabtune.models.min_gru import MinGRU
from sabtune.models.min_lstm import MinLSTM
from sabtune.models.relevancy import MemLSTM, RelLSTM
from sabtune.models.sab import SAB
from sabtune.models.self_attention import SelfAttention

MODELS: dict[str, type[ModelConfig]] = {
    "sab": SAB.Config,
    "lstm": LSTM.Config,
    "self-attention": SelfAttention.Config,
    "gru": GRU.Config,
    "mingru": MinGRU.Config,
    "minlstm": MinLSTM.Config,
    "mem-lstm": MemLSTM.Config,
    "rel-lstm": RelLSTM.Config,
}

__all__ = [
    "GRU",
    "LSTM",
    "MODELS",
    "SAB",
    "MemLSTM",
    "MinGRU",
    "MinLSTM",
    "Model",
    "ModelConfig",
    "RelLSTM",
    "SelfAttention",
]
