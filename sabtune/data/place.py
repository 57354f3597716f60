"""The data folder: --data-dir, else $SABTUNE_DATA, else a folder in the user's cache.

DIR/NAME/FILE    the published files of data set NAME
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sabtune.errors import DataError

VARIABLE = "SABTUNE_DATA"
"""The environment variable for the data folder. The processes of trials inherit it."""


def folder() -> Path:
    """Return the data folder."""
    configured = os.environ.get(VARIABLE)
    if configured:
        return Path(configured).expanduser().absolute()
    return cache()


def cache() -> Path:
    """Return the default data folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sabtune"


def use(directory: Path) -> None:
    """Set the data folder of this process and of those that it starts."""
    os.environ[VARIABLE] = str(directory.expanduser().absolute())


@contextmanager
def using(directory: str | Path | None) -> Iterator[None]:
    """Set the data folder while a block runs; None keeps the present one.

    Raises DataError if the folder is a file.
    """
    before = os.environ.get(VARIABLE)
    if directory is not None:
        use(Path(directory))
    try:
        existing_folder()
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before
        elif directory is not None:
            del os.environ[VARIABLE]


def existing_folder() -> Path:
    """Return the data folder, which need not exist. Raises DataError if it is a file."""
    if folder().exists() and not folder().is_dir():
        raise DataError(f"{folder()} is a file: give a folder for data sets with --data-dir")
    return folder()


def file(data_set: str, name: str, within: Path) -> Path:
    """Return the path of a data set's file below `within`. Raises DataError if it is missing."""
    path = within / data_set / name
    if not path.is_file():
        raise DataError(
            f"there is no {path}: run `{fetch_command(data_set, within)}`, "
            "or give the folder that has it with --data-dir"
        )
    return path


def fetch_command(data_set: str, within: Path) -> str:
    """Return the command that downloads a data set to the folder `within`."""
    option = "" if within == cache() else f" --data-dir {shlex.quote(str(within))}"
    return f"sabtune data fetch {data_set}{option}"


def damaged(path: Path, reason: str) -> DataError:
    """Return the error to raise for a file that is damaged, of a data set or of the user."""
    if path.parent.parent != folder():
        return DataError(f"{path} can't be used ({reason}): repair the file or replace it")
    return DataError(
        f"{path} is damaged ({reason}): "
        f"run `{fetch_command(path.parent.name, path.parent.parent)}` to get it again"
    )
