"""Import published data sets from a local disk. The checksum of a file decides which one it is."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sabtune.data.catalogue import DATA_SETS, File
from sabtune.data.digests import GZIP, content_digest, unreadable
from sabtune.data.fetch import exclusive, find_data_set, state
from sabtune.data.published import recognize, title_of
from sabtune.errors import DataError

MAX_FILE_BYTES = 1 << 30
"""The size above which a file can't be a published one."""


@dataclass(frozen=True, kw_only=True)
class Added:
    """The result of an import.

    paths: the files that were written. missing: the names of the files that the data set still
    lacks.
    """

    paths: list[Path]
    missing: list[str]


def add(name: str, path: Path, folder: Path) -> Added:
    """Copy the files of a data set from a local file or folder to FOLDER/NAME.

    A file may be the published one, its uncompressed content, or that content in another gzip file,
    under any name. A folder is searched with all of its subfolders.

    Raises DataError if `path` has no file of the data set or can't be read, or if the target can't
    be written, and ConfigError for an unknown name.
    """
    data_set = find_data_set(name)
    sources: dict[File, Path] = {}
    others: dict[str, None] = {}
    for candidate in _files(path):
        try:
            match = recognize(candidate)
        except DataError:
            if candidate == path:
                raise
            continue  # a damaged file that may not belong to the data set
        if match is None:
            continue
        known, file = match
        if known == name:
            sources.setdefault(file, candidate)
        else:
            others.setdefault(known)
    if not sources:
        raise DataError(_nothing(name, path, list(others)))
    directory = folder / name
    with exclusive(directory):
        paths = [_write(source, file, directory) for file, source in sources.items()]
        missing = [f.name for f in data_set.files if state(directory / f.name, f) != "there"]
    return Added(paths=paths, missing=missing)


def _files(path: Path) -> Iterator[Path]:
    """Yield the files at a path that are small enough to be published ones."""
    if not path.exists():
        raise DataError(f"there is no {path}: give a file or a folder that has the data set")
    try:
        paths = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in paths if p.is_file() and p.stat().st_size <= MAX_FILE_BYTES)
    except OSError as problem:
        raise unreadable(path, problem) from None


def _nothing(name: str, path: Path, others: list[str]) -> str:
    title = DATA_SETS[name].title
    if others:
        titles = " and ".join(DATA_SETS[other].title for other in others)
        return f"{path} holds {titles}, not {title}: add it as {' or '.join(others)}"
    wanted = ", ".join(title_of(name, file) for file in DATA_SETS[name].files)
    return f"{path} has no published file of {title}: give {wanted}, compressed or not"


def _write(source: Path, file: File, directory: Path) -> Path:
    """Write a file under its published name, complete or not at all."""
    target, part = directory / file.name, directory / f"{file.name}.added"
    try:
        with source.open("rb") as opened:
            packed = opened.read(len(GZIP)) == GZIP
        if file.name.endswith(".gz") and not packed:
            with source.open("rb") as content, gzip.GzipFile(part, "wb", 6, mtime=0) as archive:
                shutil.copyfileobj(content, archive, 1 << 20)
        elif packed and not file.name.endswith(".gz"):
            with gzip.open(source) as archive, part.open("wb") as content:
                shutil.copyfileobj(archive, content, 1 << 20)
        else:
            shutil.copyfile(source, part)
        if file.content is not None and content_digest(part) != file.content:
            raise DataError(f"{source} changed while it was copied: add it again")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
