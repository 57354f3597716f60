"""The import path of `load_model` that models logged by version 0.1 use.

MLflow runs the code that it stores with a logged model. The code of those models imports
`load_model` from here. All other code imports it from `sabtune.training.checkpoint`.
"""

from sabtune.training.checkpoint import load_model

__all__ = ["load_model"]
