"""Where a study's things are kept. By default a folder: two SQLite files and what trials wrote.

optuna.db          the studies: the one source of truth
mlflow.db          what MLflow shows, with its files under artifacts/
trials/STUDY/NNNN  the checkpoints of trial NNNN
STUDY.lock         held by the search that writes
STUDY.log          what Ray logged
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from sabtune.errors import StoreError

DEFAULT = Path("sabtune-store")


@dataclass(frozen=True)
class Store:
    """The paths and addresses under one folder."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Store:
        """The store at `root`, made if need be. Raises StoreError if it can't be written."""
        root = root.expanduser().absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as problem:
            raise StoreError(
                f"the store {root} can't be written ({problem.strerror}): "
                "give a folder of your own with --store"
            ) from None
        return cls(root)

    @classmethod
    def existing(cls, root: Path) -> Store:
        """The store at `root`. Raises StoreError if there is none."""
        store = cls(root.expanduser().absolute())
        if not store.optuna_file.is_file():
            raise StoreError(f"there is no store at {store.root}: give its folder with --store")
        return store

    @property
    def optuna_file(self) -> Path:
        return self.root / "optuna.db"

    @property
    def optuna_url(self) -> str:
        return f"sqlite:///{self.optuna_file}"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def lock(self, study: str) -> Path:
        return self.root / f"{study}.lock"

    def log(self, study: str) -> Path:
        return self.root / f"{study}.log"
