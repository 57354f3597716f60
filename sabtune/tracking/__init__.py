"""MLflow's view of a study: written by the driver alone, readable without sabtune's help."""

from sabtune.tracking.tracker import Tracker

__all__ = ["Tracker"]
