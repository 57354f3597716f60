"""Hyperparameter studies of LSTMs with Sparse Attentive Backtracking.

The names of `__all__` are the public interface. Importing this package imports none of PyTorch,
Ray, Optuna and MLflow; each name is imported when it is first used.
"""

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sabtune import testing
    from sabtune.api.comparing import ablate, confirm, extrapolate, reproduce
    from sabtune.api.opened import OpenStudy, open_study, report, study_names
    from sabtune.api.searching import search
    from sabtune.config import TrainConfig, TrialConfig
    from sabtune.errors import SabtuneError
    from sabtune.models import (
        GRU,
        LSTM,
        SAB,
        SLSTM,
        Mamba2,
        MemLSTM,
        MinGRU,
        MinLSTM,
        Model,
        ModelConfig,
        RelLSTM,
        SelfAttention,
        Transformer,
    )
    from sabtune.models.layers import SABLayer, SelfAttentionLayer, TruncatedLSTM
    from sabtune.schedule import Constant, Cosine, Exponential, Linear, Schedule, Stepwise
    from sabtune.seeding import Stream
    from sabtune.study.configurations import Seeds
    from sabtune.study.definition import ASHA, Resources, Study
    from sabtune.study.stopping import NoImprovement, Solved, Target
    from sabtune.tasks import (
        MQAR,
        Adding,
        Batch,
        Copying,
        FlipFlop,
        Language,
        Parity,
        Passkey,
        Permutations,
        Pixels,
        Recall,
        SelectiveCopying,
        Sequences,
        Shuffled,
        Source,
        SyntheticTask,
        Task,
        TaskConfig,
    )
    from sabtune.training.evaluation import Ladder
    from sabtune.training.matching import matched
    from sabtune.training.trial import Limits

__version__ = "0.1.0"

_MODULES = {
    "sabtune.api.comparing": ("ablate", "confirm", "extrapolate", "reproduce"),
    "sabtune.api.opened": ("OpenStudy", "open_study", "report", "study_names"),
    "sabtune.api.searching": ("search",),
    "sabtune.config": ("TrainConfig", "TrialConfig"),
    "sabtune.errors": ("SabtuneError",),
    "sabtune.models": (
        "GRU",
        "LSTM",
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
    ),
    "sabtune.models.layers": ("SABLayer", "SelfAttentionLayer", "TruncatedLSTM"),
    "sabtune.schedule": ("Constant", "Cosine", "Exponential", "Linear", "Schedule", "Stepwise"),
    "sabtune.seeding": ("Stream",),
    "sabtune.study.configurations": ("Seeds",),
    "sabtune.study.definition": ("ASHA", "Resources", "Study"),
    "sabtune.study.stopping": ("NoImprovement", "Solved", "Target"),
    "sabtune.tasks": (
        "MQAR",
        "Adding",
        "Batch",
        "Copying",
        "FlipFlop",
        "Language",
        "Parity",
        "Passkey",
        "Permutations",
        "Pixels",
        "Recall",
        "SelectiveCopying",
        "Sequences",
        "Shuffled",
        "Source",
        "SyntheticTask",
        "Task",
        "TaskConfig",
    ),
    "sabtune.training.evaluation": ("Ladder",),
    "sabtune.training.matching": ("matched",),
    "sabtune.training.trial": ("Limits",),
}

_SUBMODULES = ("testing",)

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ASHA",
    "GRU",
    "LSTM",
    "MQAR",
    "SAB",
    "SLSTM",
    "Adding",
    "Batch",
    "Constant",
    "Copying",
    "Cosine",
    "Exponential",
    "FlipFlop",
    "Ladder",
    "Language",
    "Limits",
    "Linear",
    "Mamba2",
    "MemLSTM",
    "MinGRU",
    "MinLSTM",
    "Model",
    "ModelConfig",
    "NoImprovement",
    "OpenStudy",
    "Parity",
    "Passkey",
    "Permutations",
    "Pixels",
    "Recall",
    "RelLSTM",
    "Resources",
    "SABLayer",
    "SabtuneError",
    "Schedule",
    "Seeds",
    "SelectiveCopying",
    "SelfAttention",
    "SelfAttentionLayer",
    "Sequences",
    "Shuffled",
    "Solved",
    "Source",
    "Stepwise",
    "Stream",
    "Study",
    "SyntheticTask",
    "Target",
    "Task",
    "TaskConfig",
    "TrainConfig",
    "Transformer",
    "TrialConfig",
    "TruncatedLSTM",
    "__version__",
    "ablate",
    "confirm",
    "extrapolate",
    "matched",
    "open_study",
    "report",
    "reproduce",
    "search",
    "study_names",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"sabtune.{name}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'sabtune' has no attribute {name!r}")
    if "IPython" in sys.modules and "tqdm.auto" not in sys.modules:
        with warnings.catch_warnings():  # Optuna imports it, and sabtune shows no such bars
            warnings.filterwarnings("ignore", message="IProgress not found")
            import_module("tqdm.auto")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
