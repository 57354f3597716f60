"""Downloads, by pooch: what is there and whole is kept, what arrives is checked, then moved in.

A download that broke off goes on where it stood: pooch itself starts anew, so the transfer is ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pooch
import requests
from filelock import FileLock, Timeout

from sabtune.data.catalogue import DATA_SETS, DataSet, File
from sabtune.errors import DataError
from sabtune.schema import check_name

Watch = Callable[[str, int, int], None]
"""Is told a file's name, the bytes that are there, and those there are in all (0: not known)."""

State = Literal["there", "missing", "damaged"]

RETRIES = 2
"""How often a transfer that broke off is gone on with, before the next address is tried."""

TIMEOUT = (10, 60)
"""Seconds to connect, and between two pieces."""

PIECE = 1 << 16


def known(name: str) -> DataSet:
    """A data set by its name. Raises ConfigError, with those there are, if there is none such."""
    check_name("the data set", name, list(DATA_SETS))
    return DATA_SETS[name]


def state(path: Path, file: File) -> State:
    """Whether the file is there as it was published."""
    if not path.is_file():
        return "missing"
    algorithm, checksum = file.checksum.split(":")
    return "there" if pooch.file_hash(str(path), alg=algorithm) == checksum else "damaged"


def fetch(name: str, folder: Path, watch: Watch) -> list[Path]:
    """Has every file of a data set in DIR/NAME; returns their paths.

    Raises DataError if one can't be had from any of its addresses, or is not what it should be.
    """
    directory = folder / name
    with _alone(directory):
        return [_fetched(file, directory, watch) for file in known(name).files]


def _fetched(file: File, directory: Path, watch: Watch) -> Path:
    problems = []
    for url in file.urls:
        store = pooch.create(
            path=directory,
            base_url="",
            registry={file.name: file.checksum},
            urls={file.name: url},
            retry_if_failed=RETRIES,
        )
        try:
            return Path(store.fetch(file.name, downloader=Resuming(directory / file.name, watch)))
        except (requests.RequestException, ValueError, OSError) as problem:
            problems.append(f"{url}: {' '.join(str(problem).split())}")
    raise DataError(
        f"{file.name} can't be downloaded ({'; '.join(problems)}): "
        f"try again later, or put the file into {directory} by hand"
    )


class Resuming:
    """Pooch's way of saying how a file is got: (url, where to write it, the pooch)."""

    def __init__(self, path: Path, watch: Watch):
        self.part = path.with_name(path.name + ".part")
        self.watch = watch

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Gets what is missing of the part that is there, and then moves it to `output_file`."""
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.headers.get("Content-Range") != f"bytes */{have}":  # else it is all here
                if answer.status_code == requests.codes.requested_range_not_satisfiable:
                    self.part.unlink()  # more than there is: of another file
                answer.raise_for_status()
                resumed = answer.status_code == requests.codes.partial_content
                self._receive(answer, have if resumed else 0)
        self.part.replace(output_file)

    def _receive(self, answer: requests.Response, have: int) -> None:
        total = have + int(answer.headers.get("Content-Length", 0))
        with self.part.open("ab" if have else "wb") as part:
            for piece in answer.iter_content(PIECE):
                part.write(piece)
                have += len(piece)
                self.watch(self.part.stem, have, total)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Nobody else fetches into the folder meanwhile, and pooch is quiet."""
    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout:
        raise DataError(f"{directory} is being fetched already: wait for that to end") from None
    except OSError as problem:
        raise DataError(
            f"{directory} can't be written ({problem.strerror}): name another with --data-dir"
        ) from None
    finally:
        logger.setLevel(before)
