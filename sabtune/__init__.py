"""Hyperparameter studies of recurrent networks with a sparse, learned memory.

Importing this package loads neither ray nor mlflow.
"""

__version__ = "0.1.0"
