"""Where a study's things are kept. By default a folder: two SQLite files and what trials wrote.

optuna.db          the studies: the one source of truth; or a database elsewhere, by its URL
mlflow.db          what MLflow shows; or a database elsewhere, by its URL, or a server, by its URI
STUDY.lock         held by the search that writes
STUDY.log          a line for each trial that ended
STUDY.ray.log      what Ray logged
STUDY.error.log    the traceback of an unexpected problem that ended a search, if one did
owner              who this folder is to others, where it shares a place for files with them

What is large, or must outlast the machine, can be elsewhere, by the address of its files: another
folder, or s3://BUCKET/PREFIX, or gs://BUCKET/PREFIX; by default it is in the same folder.

trials/STUDY/NNNN  the checkpoints of trial NNNN; NNNN.1 of its second attempt
artifacts/         MLflow's files, unless a server keeps them
snapshots/         where the files are elsewhere: the last copies of optuna.db, and whose they are
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sabtune import databases
from sabtune.errors import StoreError
from sabtune.redaction import hide_password
from sabtune.storage.folder import Folder, local

DEFAULT = Path("sabtune-store")

DATABASES = ("postgresql:", "postgresql+psycopg:", "sqlite:")

CHECKPOINT = re.compile(r"(?:^|/)(trials/[^/]+/\d{4,}(?:\.\d+)?/checkpoint_\d+)/?(?:\?[^/]*)?$")
"""An address that ends as checkpoints in a store do, and as such the same in every store."""

TRACKING = re.compile(r"https?://[^/]|(postgresql|mysql|mssql)(\+\w+)?://[^/]|sqlite:///.")
"""How the address of an MLflow begins that keeps what it is given."""


@dataclass(frozen=True)
class Store:
    """The paths and addresses of a store; `database`, `tracking` and `files` where they are
    elsewhere."""

    root: Path
    database: str | None = None
    tracking: str | None = None
    files: Folder | None = None

    @classmethod
    def at(cls, place: str, files: str | Path | None = None, tracking: str | None = None) -> Store:
        """The store that a person names: its folder, or a database's URL; and where its files are.

        Beside a database a folder of files is that of locks and logs too. Raises StoreError if it
        is a URL of something else, or of a database that keeps nothing.
        """
        folder = Folder.at(files) if files else None
        check_tracking(tracking)
        if "://" not in place and not place.startswith(DATABASES):
            return cls(local(place, "--store"), None, tracking, folder)
        root = folder.path if folder and folder.path else DEFAULT.absolute()
        return cls(root, _database(place), tracking, folder)

    def made(self) -> Store:
        """The same, its folder made if need be. Raises StoreError if it, or the place of its files,
        can't be written."""
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

    @property
    def found(self) -> bool:
        """Whether it holds studies; a server's database may. Raises StoreError if its file of
        studies can't be looked at."""
        path = self.optuna_file
        try:
            return path is None or path.is_file()
        except OSError as problem:
            raise StoreError(
                f"the store {self.shown} can't be read ({problem.strerror}): "
                "give its folder with --store"
            ) from None

    def existing(self) -> Store:
        """The same. Raises StoreError if its file of studies isn't there or can't be read."""
        if not self.found:
            raise StoreError(f"there is no store at {self.shown}: give its folder with --store")
        return self

    @property
    def shown(self) -> str:
        """Where the studies are, for people: no password."""
        return hide_password(self.database) if self.database else str(self.root)

    @property
    def optuna_url(self) -> str:
        return self.database or databases.sqlite_url(self.root / "optuna.db")

    @property
    def optuna_file(self) -> Path | None:
        """The SQLite file of the studies; None where a server has them."""
        return databases.sqlite_path(self.database) if self.database else self.root / "optuna.db"

    @property
    def mlflow_uri(self) -> str:
        return self.tracking or databases.sqlite_url(self.root / "mlflow.db")

    @property
    def place(self) -> Folder:
        """Where its files are."""
        return self.files or Folder(str(self.root))

    @property
    def artifacts(self) -> str | None:
        """The URI of MLflow's files; None where a server decides."""
        served = self.tracking is not None and self.tracking.startswith(("http://", "https://"))
        return None if served else (self.place / "artifacts").uri

    @property
    def trials(self) -> Folder:
        return self.place / "trials"

    @property
    def snapshots(self) -> Folder | None:
        """Where copies of the database go; None where there are none."""
        if self.database is not None or self.files is None:
            return None
        return self.files / "snapshots"

    def checkpoint(self, recorded: str) -> Folder | None:
        """Return a checkpoint that a study recorded, in this store wherever it was then; None of
        an address that no store gives its checkpoints."""
        found = CHECKPOINT.search(recorded)
        return self.place / found[1] if found else None

    def lock(self, study: str) -> Path:
        """Return the file that a study's search holds: beside the studies if they are a file."""
        if self.database and self.optuna_file:
            return self.optuna_file.with_name(f"{self.optuna_file.name}.{study}.lock")
        return self.root / f"{study}.lock"

    def log(self, study: str) -> Path:
        return self.root / f"{study}.log"

    def error_log(self, study: str) -> Path:
        return self.root / f"{study}.error.log"

    def ray_log(self, study: str) -> Path:
        return self.root / f"{study}.ray.log"


def recorded(checkpoint: Folder) -> str:
    """Return what a study records of a checkpoint: where it is in its store."""
    found = CHECKPOINT.search(checkpoint.address)
    return found[1] if found else checkpoint.address


def _database(url: str) -> str:
    """Return a database's URL, of a SQLite file with its absolute path."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    known = "give a folder, postgresql://USER@HOST/DATABASE, or sqlite:////ABSOLUTE/PATH of a file"
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        parts = None
    if parts is None or not url.startswith(DATABASES):
        raise StoreError(f"the store {hide_password(url)!r} is no database that is known: {known}")
    if not parts.database and not {"dbname", "service"} & parts.query.keys():
        raise StoreError(f"the store {hide_password(url)!r} names no database: {known}")
    if parts.get_backend_name() != "sqlite":
        return url
    if (
        not parts.database
        or parts.database == ":memory:"
        or parts.database.startswith("file:")
        or parts.query
    ):
        raise StoreError(f"the store {url!r} isn't the plain path of a file: {known}")
    return databases.sqlite_url(local(parts.database, "--store"))


def _has_port(uri: str) -> bool:
    """Return whether the port of an address is one, or left out."""
    try:
        return urlsplit(uri).port != 0
    except ValueError:
        return False


def check_tracking(uri: str | None) -> None:
    """Raises StoreError if this can't be the address of an MLflow."""
    if uri and not (TRACKING.match(uri) and _has_port(uri)):
        raise StoreError(
            f"--tracking, or MLFLOW_TRACKING_URI, is {hide_password(uri)!r}: give a server as "
            "http://HOST:PORT or a database as postgresql://USER@HOST/DATABASE or "
            "sqlite:///PATH, or leave it out, and the store has an MLflow of its own"
        )
