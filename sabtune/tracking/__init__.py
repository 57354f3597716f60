"""MLflow's view of a study: written by the driver alone, readable without sabtune's help.

tracker.py   what a search talks to: takes events, writes them in a thread, puts right afterwards
database.py  MLflow's database: made once, its addresses settled after a move
board.py     a study's experiment, as MLflow has it
runs.py      its runs, read and added to
page.py      what the run of a trial shows
note.py      what the run of the search shows
data.py      the sequences, as data sets
models.py    trained models, as logged models; recall.py is their code
registry.py  the study's registered model, its versions and its champion
manners.py   MLflow kept quiet and quick; its problems in one line
server.py    MLflow's page on a store
"""

from sabtune.tracking import mlflow_client
from sabtune.tracking.writer import Tracker

mlflow_client.quieten()

__all__ = ["Tracker"]
