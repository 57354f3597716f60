"""Where a study's things are kept. By default a folder: two SQLite files and what trials wrote.

optuna.db          the studies: the one source of truth; or a database elsewhere, by its URL
mlflow.db          what MLflow shows; or a database elsewhere, by its URL, or a server, by its URI
STUDY.lock         held by the search that writes
STUDY.log          a line for each trial that ended
STUDY.ray.log      what Ray logged
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

from sabtune.errors import StoreError
from sabtune.files import Folder
from sabtune.redaction import hide_password

DEFAULT = Path("sabtune-store")

TRACKING = re.compile(r"https?://[^/]|(postgresql|mysql|mssql)(\+\w+)?://[^/]|sqlite:///.")
"""How the address of an MLflow begins that keeps what it is given."""

DATABASES = ("postgresql://", "postgresql+psycopg://", "sqlite:///")


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
        is a URL of something else.
        """
        folder = Folder.at(files) if files else None
        check_tracking(tracking)
        if "://" not in place:
            return cls(Path(place).expanduser().absolute(), None, tracking, folder)
        if not place.startswith(DATABASES):
            raise StoreError(
                f"the store {hide_password(place)!r} is no database that is known: "
                "give a folder, or postgresql://USER@HOST/DATABASE"
            )
        root = folder.path if folder and folder.path else DEFAULT.absolute()
        return cls(root, place, tracking, folder)

    def made(self) -> Store:
        """The same, its folder made if need be. Raises StoreError if it, or the place of its files,
        can't be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as problem:
            raise StoreError(
                f"the store {self.root} can't be written ({problem.strerror}): "
                "give a folder of your own with --store"
            ) from None
        if self.files is not None:
            self.files.check()
        return self

    @property
    def found(self) -> bool:
        """Whether its folder holds studies; a database may."""
        return self.database is not None or (self.root / "optuna.db").is_file()

    def existing(self) -> Store:
        """The same. Raises StoreError if its folder should hold the studies and doesn't."""
        if not self.found:
            raise StoreError(f"there is no store at {self.root}: give its folder with --store")
        return self

    @property
    def shown(self) -> str:
        """Where the studies are, for people: no password."""
        return hide_password(self.database) if self.database else str(self.root)

    @property
    def optuna_url(self) -> str:
        return self.database or f"sqlite:///{self.root / 'optuna.db'}"

    @property
    def mlflow_uri(self) -> str:
        return self.tracking or f"sqlite:///{self.root / 'mlflow.db'}"

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

    def lock(self, study: str) -> Path:
        return self.root / f"{study}.lock"

    def log(self, study: str) -> Path:
        return self.root / f"{study}.log"

    def ray_log(self, study: str) -> Path:
        return self.root / f"{study}.ray.log"


def check_tracking(uri: str | None) -> None:
    """Raises StoreError if this can't be the address of an MLflow."""
    if uri and not TRACKING.match(uri):
        raise StoreError(
            f"--tracking, or MLFLOW_TRACKING_URI, is {hide_password(uri)!r}: give a server as "
            "http://HOST:PORT or a database as postgresql://USER@HOST/DATABASE or "
            "sqlite:///PATH, or leave it out, and the store has an MLflow of its own"
        )
