"""Downloads of data sets by pooch, which verifies each file before it moves it into place.

Files that exist and are intact are not downloaded again. Pooch itself would restart an interrupted
download from the beginning, so `Resuming` replaces its downloader.
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
from sabtune.data.published import is_published
from sabtune.errors import DataError
from sabtune.schema import check_name

Watch = Callable[[str, int, int], None]
"""A callback with a file's name, the bytes received so far, and its size in bytes."""

State = Literal["there", "missing", "damaged"]

RETRY_ATTEMPTS = 2
"""How often an interrupted transfer is resumed before the next address is tried."""

TIMEOUT_SECONDS = (10, 60)
"""The maximum seconds to connect, and the maximum seconds without data."""

CHUNK_BYTES = 1 << 16

MAX_REDIRECTS = 5


def find_data_set(name: str) -> DataSet:
    """Return a data set by its name. Raises ConfigError with the valid names for any other."""
    check_name("the data set", name, list(DATA_SETS))
    return DATA_SETS[name]


def state(path: Path, file: File) -> State:
    """Return the state of the file at `path`. A file with the published content is "there"."""
    if not path.is_file():
        return "missing"
    try:
        return "there" if is_published(path, file) else "damaged"
    except DataError:  # such as for half of a gzip file
        return "damaged"


def fetch(name: str, folder: Path, watch: Watch) -> list[Path]:
    """Download a data set to FOLDER/NAME, except files that are intact; return all paths.

    watch: called as data arrives. Raises DataError if none of a file's addresses yields the file
    with the expected digest, or if the folder is in use or not writable, and ConfigError for an
    unknown name.
    """
    directory = folder / name
    with exclusive(directory):
        return [_fetch_file(file, directory, watch) for file in find_data_set(name).files]


def _fetch_file(file: File, directory: Path, watch: Watch) -> Path:
    if state(directory / file.name, file) == "there":
        return directory / file.name
    problems = []
    for url in file.urls:
        registry = pooch.create(
            path=directory,
            base_url="",
            registry={file.name: f"sha256:{file.sha256}"},
            urls={file.name: url},
            retry_if_failed=RETRY_ATTEMPTS,
        )
        try:
            return Path(registry.fetch(file.name, downloader=Resuming(directory, file, watch)))
        except (requests.RequestException, ValueError, OSError) as problem:
            problems.append(f"{url}: {' '.join(str(problem).split())}")
    raise DataError(
        f"{file.name} can't be downloaded ({'; '.join(problems)}): "
        f"try again later, or import a copy with `sabtune data add {directory.name} PATH`"
    )


class Resuming:
    """A pooch downloader that resumes an interrupted transfer."""

    def __init__(self, directory: Path, file: File, watch: Watch):
        self.part = directory / f"{file.name}.part"
        self.size, self.watch = file.size, watch

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download the rest of the partial file, then move it to `output_file`.

        Raises ValueError if the server sends more than the file's size or redirects to an unsafe
        address.
        """
        have = self.part.stat().st_size if self.part.exists() else 0
        if have > self.size:  # it belongs to another file
            self.part.unlink()
            have = 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with _get(url, headers) as response:
            complete = response.headers.get("Content-Range") == f"bytes */{have}"
            if not complete:
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    self.part.unlink()  # too long, so it is of another file
                response.raise_for_status()
                resumed = response.status_code == requests.codes.partial_content
                self._receive(response, have if resumed else 0)
        self.part.replace(output_file)

    def _receive(self, response: requests.Response, have: int) -> None:
        declared = response.headers.get("Content-Length", "")
        self._check_size(have + int(declared) if declared.isdecimal() else have)
        with self.part.open("ab" if have else "wb") as part:
            for chunk in response.iter_content(CHUNK_BYTES):
                have += len(chunk)
                self._check_size(have)
                part.write(chunk)
                self.watch(self.part.stem, have, self.size)

    def _check_size(self, size: int) -> None:
        if size > self.size:
            self.part.unlink(missing_ok=True)
            raise ValueError(f"more than the {self.size:,} bytes that the file has")


def _get(url: str, headers: Mapping[str, str]) -> requests.Response:
    """Request a URL and follow its redirects.

    Raises ValueError for a redirect from https to http or to another scheme, and for more than
    `MAX_REDIRECTS` redirects.
    """
    for _ in range(1 + MAX_REDIRECTS):
        response = requests.get(
            url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS, allow_redirects=False
        )
        if not response.is_redirect:
            return response
        response.close()
        target = urljoin(url, response.headers["Location"])
        safe = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
        if urlsplit(target).scheme not in safe:
            raise ValueError(f"it redirects to {target}, which is no {' or '.join(safe)} address")
        url = target
    raise ValueError(f"more than {MAX_REDIRECTS} redirects")


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Lock a folder against other downloads and imports, and silence pooch meanwhile."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout:
        raise DataError(
            f"{directory} is being fetched already by another process: wait until it ends"
        ) from None
    except OSError as problem:
        raise DataError(
            f"{directory} can't be written ({problem.strerror}): name another with --data-dir"
        ) from None
    finally:
        logger.setLevel(level)
