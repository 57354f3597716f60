"""Recognize published files by the digests of their content."""

from __future__ import annotations

from pathlib import Path

from sabtune.data import place
from sabtune.data.catalogue import DATA_SETS, File
from sabtune.data.digests import combined, content_digest, file_digest, shown
from sabtune.errors import DataError


def digest(path: Path, file: File) -> str:
    """Return the digest that identifies the data of a published file, wherever it is stored."""
    return file_digest(path) if file.content is None else content_digest(path)


def is_published(path: Path, file: File) -> bool:
    """Return whether the file at `path` has the content of a published file."""
    return digest(path, file) == (file.content or file.sha256)


def identity(name: str, folder: Path) -> str:
    """Return the digest of a data set below `folder`. Raises DataError if a file is missing."""
    paths = {file: place.file(name, file.name, folder) for file in DATA_SETS[name].files}
    return combined(
        {file.name.removesuffix(".gz"): digest(path, file) for file, path in paths.items()}
    )


def check(name: str, folder: Path) -> None:
    """Raise DataError if a file of a data set below `folder` has another content than published."""
    for file in DATA_SETS[name].files:
        path = place.file(name, file.name, folder)
        if not is_published(path, file):
            title = DATA_SETS[name].title
            content = recognize(path)
            actual = (
                f"the content of {title_of(*content)}"
                if content
                else f"other data (SHA-256 {shown(digest(path, file))}, "
                f"published {shown(file.content or file.sha256)})"
            )
            raise DataError(
                f"{path} holds {actual}, not that of {title}: get the published file with "
                f"`{place.fetch_command(name, folder)}` or `sabtune data add`, or name your own "
                "data by its path in the task"
            )


def recognize(path: Path) -> tuple[str, File] | None:
    """Return the data set and the published file that a file holds, or None.

    Raises DataError if the file can't be read or is a damaged gzip file.
    """
    digests = {content_digest(path), file_digest(path)}
    for name, data_set in DATA_SETS.items():
        for file in data_set.files:
            if digests & {file.content, file.sha256}:
                return name, file
    return None


def title_of(name: str, file: File) -> str:
    """Return a published file in words, such as "Fashion-MNIST's train-labels-idx1-ubyte"."""
    return f"{DATA_SETS[name].title}'s {file.name.removesuffix('.gz')}"
