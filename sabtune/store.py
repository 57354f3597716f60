"""Where a study's things are kept. By default a folder: two SQLite files and what trials wrote.

optuna.db          the studies: the one source of truth; or a database elsewhere, by its URL
mlflow.db          what MLflow shows, with its files under artifacts/; or a server, by its URI
trials/STUDY/NNNN  the checkpoints of trial NNNN; NNNN.1 of its second attempt
STUDY.lock         held by the search that writes
STUDY.log          a line for each trial that ended
STUDY.ray.log      what Ray logged
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sabtune.errors import StoreError

DEFAULT = Path("sabtune-store")


@dataclass(frozen=True)
class Store:
    """The paths and addresses of a store; `database` and `tracking` where they are elsewhere."""

    root: Path
    database: str | None = None
    tracking: str | None = None

    @classmethod
    def at(cls, place: str, files: Path | None = None, tracking: str | None = None) -> Store:
        """The store that a person names: its folder, or a database's URL beside a folder `files`.

        Raises StoreError if it is a URL of something else than a database.
        """
        if "://" not in place:
            return cls((files or Path(place)).expanduser().absolute(), None, tracking)
        if not place.startswith(("postgresql://", "postgresql+psycopg://", "sqlite:///")):
            raise StoreError(
                f"the store {hide_password(place)!r} is no database that is known: "
                "give a folder, or postgresql://USER@HOST/DATABASE"
            )
        return cls((files or DEFAULT).expanduser().absolute(), place, tracking)

    def made(self) -> Store:
        """The same, its folder made if need be. Raises StoreError if it can't be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as problem:
            raise StoreError(
                f"the store {self.root} can't be written ({problem.strerror}): "
                "give a folder of your own with --store"
            ) from None
        return self

    def existing(self) -> Store:
        """The same. Raises StoreError if its folder should hold the studies and doesn't."""
        if self.database is None and not (self.root / "optuna.db").is_file():
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
    def artifacts(self) -> Path | None:
        """Where MLflow keeps files; None where a server decides."""
        return None if self.tracking else self.root / "artifacts"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def lock(self, study: str) -> Path:
        return self.root / f"{study}.lock"

    def log(self, study: str) -> Path:
        return self.root / f"{study}.log"

    def ray_log(self, study: str) -> Path:
        return self.root / f"{study}.ray.log"


def hide_password(url: str) -> str:
    """The URL with *** for its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)
