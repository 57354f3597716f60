"""Stores: the locations of studies, checkpoints, logs and MLflow's data.

By default, a store is a folder:

optuna.db          the studies, the source of truth; or a database elsewhere, by its URL
mlflow.db          MLflow's data; or a database elsewhere, by its URL, or a server, by its URI
STUDY.lock         the lock of a study, held by the search that writes to it
STUDY.log          the log of a study, with a line for each trial that ended
STUDY.ray.log      the log of Ray
STUDY.error.log    the traceback of an unexpected error that ended a search
owner              the unique ID of this folder, if stores share a location for files

Large files, and files that must survive the loss of the machine, can be at another location:
another folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. By default they are in the same folder.

trials/STUDY/NNNN  the checkpoints of trial NNNN; NNNN.1 those of its second attempt
code/DIGEST        the study file and the modules that trials were run with
artifacts/         MLflow's artifacts, unless a server stores them
snapshots/         if the files are at another location: backups of optuna.db, and their owner
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sabtune import databases
from sabtune.errors import StoreError
from sabtune.redaction import hide_password
from sabtune.storage.database import SCHEMES, Database, checked_url, database_at
from sabtune.storage.folder import Folder, local

DEFAULT = Path("sabtune-store")

FILES_VARIABLE, TRACKING_VARIABLE = "SABTUNE_FILES", "MLFLOW_TRACKING_URI"
METRICS_VARIABLE = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""The environment variables for the location of the files, for MLflow, and for its metrics."""

CHECKPOINT = re.compile(r"(?:^|/)(trials/[^/]+/\d{4,}(?:\.\d+)?/checkpoint_\d+)/?(?:\?[^/]*)?$")
"""The address of a checkpoint; the first group is its path in the store."""

TRACKING = re.compile(r"https?://[^/]|(postgresql|mysql|mssql)(\+\w+)?://[^/]|sqlite:///.")
"""The beginning of an MLflow tracking URI with persistent storage."""


@dataclass(frozen=True)
class Store:
    """The paths and addresses of a store.

    root: the store's folder. database: the URL of the studies' database; None if it is in `root`.
    tracking: the URI of MLflow; None if its database is in `root`. files: the location of large
    files; None if it is `root`.
    """

    root: Path
    database: str | None = None
    tracking: str | None = None
    files: Folder | None = None

    @classmethod
    def at(cls, place: str, files: str | Path | None = None, tracking: str | None = None) -> Store:
        """Return the store at a folder or at the URL of a database, with its files at `files`.

        If the store is a database and `files` is a local folder, that folder also holds the locks
        and logs. Raises StoreError if an address is invalid, or if a database isn't persistent.
        """
        folder = Folder.at(files) if files else None
        check_tracking(tracking)
        if "://" not in place and not place.startswith(SCHEMES):
            return cls(local(place, "--store"), None, tracking, folder)
        database = checked_url(place, lambda path: local(path, "--store"))
        root = folder.path if folder and folder.path else DEFAULT.absolute()
        return cls(root, database, tracking, folder)

    def made(self) -> Store:
        """Create the folder of the store if it doesn't exist, and return the store.

        Raises StoreError if the folder, or the location of the files, can't be written.
        """
        for folder in {self.root, self.lock("study").parent}:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as problem:
                raise StoreError(
                    f"the store {folder} can't be written ({problem.strerror}): "
                    "give a folder of your own with --store"
                ) from None
        if self.files is not None:
            self.files.check()
        return self

    def check_writable(self) -> None:
        """Raise StoreError if `made` would, but create no folder."""
        existing = next(path for path in (self.root, *self.root.parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            reason = "Permission denied" if existing.is_dir() else f"{existing} is a file"
            raise StoreError(
                f"the store {self.root} can't be written ({reason}): "
                "give a folder of your own with --store"
            )
        if self.files is not None and self.files.path is None:
            self.files.check()

    @property
    def found(self) -> bool:
        """Return whether the SQLite file of the studies exists; True for a database server.

        Raises StoreError if the file can't be accessed.
        """
        try:
            return self.optuna.found
        except OSError as problem:
            raise StoreError(
                f"the store {self.shown} can't be read ({problem.strerror}): "
                "give its folder with --store"
            ) from None

    def existing(self) -> Store:
        """Return the store. Raises StoreError if the SQLite file of its studies doesn't exist."""
        if not self.found:
            raise StoreError(f"there is no store at {self.shown}: give its folder with --store")
        return self

    @property
    def shown(self) -> str:
        """Return the location of the studies for messages, without a password."""
        return hide_password(self.database) if self.database else str(self.root)

    @property
    def optuna_url(self) -> str:
        """Return the URL of the studies' database, which may contain a password."""
        return self.database or databases.sqlite_url(self.root / "optuna.db")

    @property
    def optuna(self) -> Database:
        """Return the studies' database."""
        return database_at(self.optuna_url)

    @property
    def mlflow_uri(self) -> str:
        """Return the tracking URI of MLflow, which may contain a password."""
        return self.tracking or databases.sqlite_url(self.root / "mlflow.db")

    @property
    def place(self) -> Folder:
        """Return the location of the store's files."""
        return self.files or Folder(str(self.root))

    @property
    def artifacts(self) -> str | None:
        """Return the URI of MLflow's artifacts; None if an MLflow server chooses it."""
        served = self.tracking is not None and self.tracking.startswith(("http://", "https://"))
        return None if served else (self.place / "artifacts").uri

    @property
    def trials(self) -> Folder:
        """Return the folder of the checkpoints of all studies."""
        return self.place / "trials"

    @property
    def code(self) -> Folder:
        """Return the folder of the code that trials were run with (see `sabtune.parts.bundle`)."""
        return self.place / "code"

    @property
    def snapshots(self) -> Folder | None:
        """Return the folder of the database's backups; None if the store makes no backups."""
        if self.database is not None or self.files is None:
            return None
        return self.files / "snapshots"

    def checkpoint(self, recorded: str) -> Folder | None:
        """Return the folder of a checkpoint whose address a study recorded.

        The folder is in this store, even if the store was moved after the address was recorded.
        Returns None if the address isn't that of a checkpoint.
        """
        match = CHECKPOINT.search(recorded)
        return self.place / match[1] if match else None

    def lock(self, study: str) -> Path:
        """Return the lock file of a study. If the store is a SQLite file, the lock is beside it."""
        file = self.optuna.file
        if self.database and file:
            return file.with_name(f"{file.name}.{study}.lock")
        return self.root / f"{study}.lock"

    def log(self, study: str) -> Path:
        """Return the log of a study, with a line for each trial that ended."""
        return self.root / f"{study}.log"

    def error_log(self, study: str) -> Path:
        """Return the file for the traceback of an unexpected error."""
        return self.root / f"{study}.error.log"

    def ray_log(self, study: str) -> Path:
        """Return the log of Ray for a study."""
        return self.root / f"{study}.ray.log"


def recorded(checkpoint: Folder) -> str:
    """Return the address that a study records for a checkpoint: its path in the store."""
    match = CHECKPOINT.search(checkpoint.address)
    return match[1] if match else checkpoint.address


def _has_port(uri: str) -> bool:
    """Return whether the port of an address is valid or left out."""
    try:
        return urlsplit(uri).port != 0
    except ValueError:
        return False


def check_tracking(uri: str | None) -> None:
    """Raise StoreError if `uri` isn't a tracking URI of MLflow with persistent storage."""
    if uri and not (TRACKING.match(uri) and _has_port(uri)):
        raise StoreError(
            f"--tracking, or MLFLOW_TRACKING_URI, is {hide_password(uri)!r}: give a server as "
            "http://HOST:PORT or a database as postgresql://USER@HOST/DATABASE or "
            "sqlite:///PATH, or leave it out to use the MLflow of the store"
        )
