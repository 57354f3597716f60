"""The store and the data folder that a call or the environment names."""

from __future__ import annotations

import os
from pathlib import Path

from sabtune.data import place
from sabtune.storage.store import DEFAULT, FILES_VARIABLE, TRACKING_VARIABLE, Store
from sabtune.study.backups import restore


def store_at(
    store: str | Path | None = None,
    files: str | Path | None = None,
    tracking: str | None = None,
    data_dir: str | Path | None = None,
) -> Store:
    """Return the store that the arguments name, and use `data_dir` for data sets.

    store: A folder, or the URL of a PostgreSQL database. None: the folder `sabtune-store`.

    files: The location of checkpoints, artifacts and backups. None: $SABTUNE_FILES, or else the
    store's folder.

    tracking: The URI of MLflow. None: $MLFLOW_TRACKING_URI, or else a database in the store.

    data_dir: The folder of data sets. None: $SABTUNE_DATA, or else a cache folder.

    If the folder lost its studies and `files` has a backup of them, they are restored. Raises
    StoreError if an address is invalid.
    """
    if data_dir is not None:
        place.use(Path(data_dir))
    found = Store.at(
        str(DEFAULT if store is None else store),
        files or os.environ.get(FILES_VARIABLE),
        tracking or os.environ.get(TRACKING_VARIABLE),
    )
    if found.snapshots is not None:
        restore(found)
    return found
