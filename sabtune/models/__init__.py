"""The models that a trial can train, by their names in a configuration."""

from sabtune.models.base import Model, ModelConfig
from sabtune.models.gru import GRU
from sabtune.models.lstm import LSTM
from sabtune.models.mamba2 import Mamba2
from sabtune.models.min_gru import MinGRU
from sabtune.models.min_lstm import MinLSTM
from sabtune.models.relevancy import MemLSTM, RelLSTM
from sabtune.models.sab import SAB
from sabtune.models.self_attention import SelfAttention
from sabtune.models.slstm import SLSTM
from sabtune.models.transformer import Transformer

MODELS: dict[str, type[ModelConfig]] = {
    "sab": SAB.Config,
    "lstm": LSTM.Config,
    "self-attention": SelfAttention.Config,
    "gru": GRU.Config,
    "mingru": MinGRU.Config,
    "minlstm": MinLSTM.Config,
    "mem-lstm": MemLSTM.Config,
    "rel-lstm": RelLSTM.Config,
    "transformer": Transformer.Config,
    "mamba2": Mamba2.Config,
    "slstm": SLSTM.Config,
}

__all__ = [
    "GRU",
    "LSTM",
    "MODELS",
    "SAB",
    "SLSTM",
    "Mamba2",
    "MemLSTM",
    "MinGRU",
    "MinLSTM",
    "Model",
    "ModelConfig",
    "RelLSTM",
    "SelfAttention",
    "Transformer",
]
