"""MLflow's view of a study: written by the driver alone, readable without sabtune's help.

tracker.py   what a search talks to: takes events, writes them in a thread, puts right afterwards
board.py     the experiment and its runs, as MLflow has them
page.py      what a run shows
manners.py   MLflow kept quiet and quick; its problems in one line
recall.py    a trained model as an MLflow model
server.py    MLflow's page on a store
"""

from sabtune.tracking import manners
from sabtune.tracking.tracker import Tracker

manners.quieten()

__all__ = ["Tracker"]
