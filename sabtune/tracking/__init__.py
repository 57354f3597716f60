"""MLflow's copy of a study. Only the driver writes it, and you can read it without sabtune.

mirror.py         follows a search, and syncs MLflow with the study
writer.py         Tracker: takes events of a search and writes them to MLflow in a thread
database.py       MLflow's database: created once, with addresses updated after a move
experiment.py     the MLflow experiment of a study
runs.py           the runs of an experiment, read and extended
trial_run.py      the content of a trial's run: tags, params, metrics
search_run.py     the content of the search's run: description, tags, metrics
view.py           the view of an experiment that MLflow opens: its table and its charts
links.py          the studies that MLflow shows, and the addresses of their views
datasets.py       the sequences of a trial, as MLflow datasets
models.py         trained models, as MLflow logged models
pyfunc_model.py   the code that MLflow runs to load such a model
registry.py       the registered model of a study: its versions and its champion
mlflow_client.py  settings of the MLflow client, and its errors in one line
reach.py          check of whether an MLflow can be reached
ui.py             MLflow's UI for a store
"""

from sabtune.tracking import mlflow_client
from sabtune.tracking.writer import Tracker

mlflow_client.quieten()

__all__ = ["Tracker"]
