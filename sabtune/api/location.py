"""The store that a call or the environment names."""

from __future__ import annotations

import os
from pathlib import Path

from sabtune.storage.store import DEFAULT, FILES_VARIABLE, TRACKING_VARIABLE, Store


def store_at(
    store: str | Path | None = None,
    files: str | Path | None = None,
    tracking: str | None = None,
) -> Store:
    """Return the store that the arguments name.

    store: A folder, or the URL of a PostgreSQL database. None: the folder `sabtune-store`.

    files: The location of checkpoints, artifacts and backups. None: $SABTUNE_FILES, or else the
    store's folder.

    tracking: The URI of MLflow. None: $MLFLOW_TRACKING_URI, or else a database in the store.

    Raises StoreError if an address is invalid.
    """
    return Store.at(
        str(DEFAULT if store is None else store),
        files or os.environ.get(FILES_VARIABLE),
        tracking or os.environ.get(TRACKING_VARIABLE),
    )
