"""Hyperparameter studies of LSTMs with Sparse Attentive Backtracking.

Importing this package does not import PyTorch, Ray, Optuna or MLflow. A name of `__all__` is
imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "sabtune.models.layers": ("SABLayer", "SelfAttentionLayer", "TruncatedLSTM"),
    "sabtune.models": ("LSTM", "SAB", "Model", "SelfAttention"),
    "sabtune.schedule": ("Constant", "Cosine", "Linear"),
    "sabtune.tasks": (),
    "sabtune.config": ("TrainConfig", "TrialConfig"),
    "sabtune.training.evaluation": ("Ladder",),
    "sabtune.training.trial": ("Limits",),
    "sabtune.study.configurations": ("Seeds",),
    "sabtune.study.definition": ("ASHA", "Resources", "Study"),
    "sabtune.api.searching": ("search",),
    "sabtune.api.comparing": ("ablate", "confirm", "extrapolate", "reproduce"),
    "sabtune.api.opened": ("OpenStudy", "open_study", "study_names"),
    "sabtune.errors": ("SabtuneError",),
}
