"""Hyperparameter studies of LSTMs with Sparse Attentive Backtracking.

Importing this package does not import PyTorch, Ray or MLflow.
"""

__version__ = "0.1.0"
