"""The folder that keeps data sets: --data-dir, else $SABTUNE_DATA, else the user's cache.

DIR/NAME/FILE    the files of data set NAME as they were published
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sabtune.errors import DataError

VARIABLE = "SABTUNE_DATA"
"""Trials, in processes of their own, learn the folder from this environment variable."""


def folder() -> Path:
    """The folder that keeps every data set."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    return cache()


def cache() -> Path:
    """The folder that keeps them where nobody names another."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sabtune"


def use(directory: Path) -> None:
    """Makes `directory` the folder, for this process and those that it starts."""
    os.environ[VARIABLE] = str(directory.expanduser().absolute())


def file(data_set: str, name: str, within: Path) -> Path:
    """A file of a data set below the folder `within`. Raises DataError if it isn't there."""
    path = within / data_set / name
    if not path.is_file():
        raise DataError(
            f"there is no {path}: run `{fetching(data_set, within)}`, "
            "or name the folder that has it with --data-dir"
        )
    return path


def fetching(data_set: str, within: Path) -> str:
    """The command that brings a data set into the folder `within`."""
    own = "" if within == cache() else f" --data-dir {shlex.quote(str(within))}"
    return f"sabtune data fetch {data_set}{own}"


def damaged(path: Path, why: str) -> DataError:
    """What to raise for a file of a data set that is not as it was published."""
    return DataError(
        f"{path} is damaged ({why}): "
        f"run `{fetching(path.parent.name, path.parent.parent)}` to get it again"
    )
