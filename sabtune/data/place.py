"""Where data is: the data folder, and files of the user.

The data folder is --data-dir, else $SABTUNE_DATA, else a folder in the user's cache:

DIR/NAME/FILE    the published files of data set NAME

A relative path of the user is below the folder of the study file that has it. Outside of a study
file, it is below the current folder.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from sabtune.data.catalogue import DATA_SETS
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


_base: ContextVar[Path | None] = ContextVar("base", default=None)


@contextmanager
def relative_to(base: Path) -> Iterator[None]:
    """Make relative paths of the user start at `base` while a block runs."""
    token = _base.set(base)
    try:
        yield
    finally:
        _base.reset(token)


_code_only: ContextVar[bool] = ContextVar("code_only", default=False)


@contextmanager
def code_only() -> Iterator[None]:
    """Import stored code in the block, whose study file may name data that isn't here.

    Configurations that are built in the block don't read data of the user. They hold made-up
    content, because only the classes of the code are used.
    """
    token = _code_only.set(True)
    try:
        yield
    finally:
        _code_only.reset(token)


def is_code_only() -> bool:
    """Return whether this is in a block of `code_only`."""
    return _code_only.get()


def absolute(path: str | Path) -> str:
    """Return a path of the user as an absolute path. "~" stands for the home folder."""
    expanded = os.path.expanduser(path)  # noqa: PTH111  # keeps "~name" of nobody
    return os.path.abspath((_base.get() or Path()) / expanded)  # noqa: PTH100  # keeps links


def exists(path: str) -> bool:
    """Return whether there is a file or folder of the user at a path or in the data folder."""
    return os.path.exists(path) or os.path.exists(folder() / Path(path).name)  # noqa: PTH110


def own(path: str) -> Path:
    """Return where a file or folder of the user is: at its path, or by its name in the data folder.

    The second place serves machines that have no such path. Raises DataError if there is neither.
    """
    for candidate in (Path(path), folder() / Path(path).name):
        if os.path.exists(candidate):  # noqa: PTH110  # false for an impossible path
            return candidate
    raise DataError(
        f"there is no {path}: put it back, or put {Path(path).name} into the data folder {folder()}"
    )


def fetch_command(data_set: str, within: Path) -> str:
    """Return the command that downloads a data set to the folder `within`."""
    option = "" if within == cache() else f" --data-dir {shlex.quote(str(within))}"
    return f"sabtune data fetch {data_set}{option}"


def damaged(path: Path, reason: str) -> DataError:
    """Return the error to raise for a file that is damaged, of a data set or of the user."""
    if path.parent.name not in DATA_SETS or path.parent.parent != folder():
        return DataError(f"{path} can't be used ({reason}): repair the file or replace it")
    return DataError(
        f"{path} is damaged ({reason}): "
        f"run `{fetch_command(path.parent.name, path.parent.parent)}` to get it again"
    )
