"""Load a model by the name that the models logged by version 0.1 use.

MLflow runs the code that is stored with a logged model. For those models, this code imports
`load_model` from here. Everything else imports it from `sabtune.training.checkpoint`.
"""

from sabtune.training.checkpoint import load_model

__all__ = ["load_model"]
