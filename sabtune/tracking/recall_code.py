"""The file that MLflow stores with a model and runs to load it, in place of a pickle."""

from mlflow.models import set_model

from sabtune.tracking.recall import Recall

set_model(Recall())
