"""Downloads, by pooch: what is there and whole is kept, what arrives is checked, then moved in.

A download that broke off goes on where it stood: pooch itself starts anew, so the transfer is ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin, urlsplit

import pooch
import requests
from filelock import FileLock, Timeout

from sabtune.data.catalogue import DATA_SETS, DataSet, File
from sabtune.errors import DataError
from sabtune.schema import check_name

Watch = Callable[[str, int, int], None]
"""Is told a file's name, the bytes that are there, and those there are in all."""

State = Literal["there", "missing", "damaged"]

RETRIES = 2
"""How often a transfer that broke off is gone on with, before the next address is tried."""

TIMEOUT = (10, 60)
"""Seconds to connect, and between two pieces."""

PIECE = 1 << 16

REDIRECTS = 5
"""Followed at most, and never from https to anything else."""


def known(name: str) -> DataSet:
    """A data set by its name. Raises ConfigError, with those there are, if there is none such."""
    check_name("the data set", name, list(DATA_SETS))
    return DATA_SETS[name]


def state(path: Path, file: File) -> State:
    """Whether the file is there as it was published."""
    if not path.is_file():
        return "missing"
    whole = path.stat().st_size == file.size
    return "there" if whole and pooch.file_hash(str(path)) == file.sha256 else "damaged"


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
            registry={file.name: f"sha256:{file.sha256}"},
            urls={file.name: url},
            retry_if_failed=RETRIES,
        )
        try:
            return Path(store.fetch(file.name, downloader=Resuming(directory, file, watch)))
        except (requests.RequestException, ValueError, OSError) as problem:
            problems.append(f"{url}: {' '.join(str(problem).split())}")
    raise DataError(
        f"{file.name} can't be downloaded ({'; '.join(problems)}): "
        f"try again later, or put the file into {directory} by hand"
    )


class Resuming:
    """Pooch's way of saying how a file is got: (url, where to write it, the pooch)."""

    def __init__(self, directory: Path, file: File, watch: Watch):
        self.part = directory / f"{file.name}.part"
        self.size, self.watch = file.size, watch

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Gets what is missing of the part that is there, and then moves it to `output_file`.

        Raises ValueError for more than the file's size, and for a redirect to an unsafe place.
        """
        have = self.part.stat().st_size if self.part.exists() else 0
        if have > self.size:  # of another file
            self.part.unlink()
            have = 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with _answer(url, headers) as answer:
            if answer.headers.get("Content-Range") != f"bytes */{have}":  # else it is all here
                if answer.status_code == requests.codes.requested_range_not_satisfiable:
                    self.part.unlink()  # more than there is: of another file
                answer.raise_for_status()
                resumed = answer.status_code == requests.codes.partial_content
                self._receive(answer, have if resumed else 0)
        self.part.replace(output_file)

    def _receive(self, answer: requests.Response, have: int) -> None:
        declared = answer.headers.get("Content-Length", "")
        self._check(have + int(declared) if declared.isdecimal() else have)
        with self.part.open("ab" if have else "wb") as part:
            for piece in answer.iter_content(PIECE):
                have += len(piece)
                self._check(have)
                part.write(piece)
                self.watch(self.part.stem, have, self.size)

    def _check(self, size: int) -> None:
        if size > self.size:
            self.part.unlink(missing_ok=True)
            raise ValueError(f"more than the {self.size:,} bytes that the file has")


def _answer(url: str, headers: Mapping[str, str]) -> requests.Response:
    """What is at an address, after redirects. Raises ValueError for one that leads away from
    https, or to something else than the web, and for too many."""
    for _ in range(1 + REDIRECTS):
        answer = requests.get(
            url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False
        )
        if not answer.is_redirect:
            return answer
        answer.close()
        target = urljoin(url, answer.headers["Location"])
        safe = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
        if urlsplit(target).scheme not in safe:
            raise ValueError(f"it redirects to {target}, which is no {' or '.join(safe)} address")
        url = target
    raise ValueError(f"more than {REDIRECTS} redirects")


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
