"""A folder wherever it is: on this machine, on a disk that machines share, in an object store."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from sabtune.errors import RefusedError, StoreError
from sabtune.redaction import hide_password

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

SCHEMES = ("s3", "gs")
"""Of the object stores that are known."""

OPTIONS = {"s3": {"endpoint_override", "region", "scheme"}, "gs": {"endpoint_override", "scheme"}}
"""What may stand behind the `?` of an address: where a store is, never who may use it."""

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(frozen=True)
class Folder:
    """A folder by its address: an absolute path, s3://BUCKET/PATH or gs://BUCKET/PATH.

    A file in an object store is there whole or not at all. All but `here`'s local way raise
    StoreError, in one line, where a folder can't be reached or doesn't let us.
    """

    address: str

    @classmethod
    def at(cls, place: str | Path) -> Folder:
        """The folder that a person names. Raises StoreError if that is no address of one."""
        text = str(place)
        if text.startswith("file:"):
            text = _path_of(text)
        if "://" not in text:
            return cls(str(local(text, "--files")))
        parts = urlsplit(text)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise StoreError(
                f"the files' place {hide_password(text)!r} is none that is known: "
                "give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
            )
        if "@" in parts.netloc:
            raise StoreError(
                f"the files' place {hide_password(text)!r} holds credentials: leave them to the "
                "environment (AWS_ACCESS_KEY_ID …) or to the machine's profile"
            )
        others = dict(parse_qsl(parts.query)).keys() - OPTIONS[parts.scheme]
        if others:
            raise StoreError(
                f"the files' place has the option {min(others)!r}: "
                f"behind the ? there may be {', '.join(sorted(OPTIONS[parts.scheme]))}"
            )
        return cls(text)

    def __truediv__(self, name: str) -> Folder:
        path, mark, query = self._split()
        return Folder(f"{path.rstrip('/')}/{name}{mark}{query}")

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return self._split()[0].rpartition("/")[2]

    def _split(self) -> tuple[str, str, str]:
        """The path or URL, and a ? and the options behind it; a path of this machine has none."""
        return self.address.partition("?") if "://" in self.address else (self.address, "", "")

    @property
    def path(self) -> Path | None:
        """Where it is on this machine; None in an object store."""
        return None if "://" in self.address else Path(self.address)

    @property
    def uri(self) -> str:
        """For MLflow: without options, which it doesn't know."""
        return self.path.as_uri() if self.path else self._split()[0].rstrip("/")

    def storage(self) -> tuple[FileSystem, str]:
        """The file system that it is in, as pyarrow knows it, and its path there."""
        from pyarrow.fs import LocalFileSystem

        if self.path is not None:
            return LocalFileSystem(), str(self.path)
        parts = urlsplit(self.address)
        with self.told("reached"):
            system = _system(parts.scheme, parts.netloc, parts.query)
        return system, f"{parts.netloc}{parts.path}".rstrip("/")

    def names(self) -> list[str]:
        """What is in it, sorted; nothing if it isn't there."""
        if self.path is not None:
            try:
                return sorted(path.name for path in self.path.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [info.base_name for info in self._entries()]

    def times(self) -> dict[str, float]:
        """When each of its files was written, by the clock of where they are: s since 1970."""
        return {of.base_name: of.mtime.timestamp() for of in self._entries() if of.mtime}

    def _entries(self) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        system, path = self.storage()
        with self.told("listed"):
            found = system.get_file_info(FileSelector(path, allow_not_found=True))
        return sorted(found, key=lambda info: str(info.base_name))

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if it isn't there."""
        system, path = self.storage()
        with self.told("read"):
            try:
                with system.open_input_stream(f"{path}/{name}") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, source: Path | bytes) -> None:
        """Makes or replaces a file, so that nobody who reads it sees half of it."""
        system, path = self.storage()
        part = f".{name}.part" if self.path else name
        with self.told("written"):
            if self.path:
                system.create_dir(path)
            with system.open_output_stream(f"{path}/{part}") as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    with source.open("rb") as content:
                        shutil.copyfileobj(content, file)
            if part != name:
                system.move(f"{path}/{part}", f"{path}/{name}")

    def delete(self, name: str) -> None:
        """Takes a file away, if it is there."""
        system, path = self.storage()
        with self.told("written"):
            try:
                system.delete_file(f"{path}/{name}")
            except FileNotFoundError:
                return

    def delete_all(self) -> None:
        """Takes away the folder and all that is in it; what can't be, stays."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        system, path = self.storage()
        try:
            system.delete_dir(path)
        except OSError:
            return

    @contextmanager
    def here(self, names: Sequence[str] = ()) -> Iterator[Path]:
        """The folder on this machine: itself, or a copy that is removed afterwards, of these files
        or of all. Files that aren't there are in neither."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as copied:
            system, path = self.storage()
            for name in names or self.names():
                with self.told("read"):
                    try:
                        source = system.open_input_stream(f"{path}/{name}")
                    except FileNotFoundError:
                        continue
                    with source, (Path(copied) / name).open("wb") as file:
                        shutil.copyfileobj(source, file)
            yield Path(copied)

    def check(self) -> None:
        """Raises StoreError unless files can be written here, read and taken away."""
        probe = f".probe-{os.getpid()}"
        self.write(probe, b"sabtune")
        if self.read(probe) != b"sabtune":
            raise StoreError(f"{self}: what is written there can't be read: give another --files")
        self.delete(probe)

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Raise StoreError where the file system raises OSError; RefusedError if an object store
        refuses for good. what: "read", say, of the folder."""
        try:
            yield
        except OSError as problem:
            raise self.failure(problem, what) from problem

    def failure(self, problem: OSError, what: str) -> StoreError:
        """Return what to raise for a problem of the file system."""
        words = str(problem)
        if problem.strerror and problem.errno and "AWS Error" not in words:
            remedy = f"{problem.strerror}; give another folder with --files"
            return StoreError(f"{self} can't be {what}: {remedy}")
        for known in REMEDIES:
            if known.scheme in self.address and any(sign in words for sign in known.signs):
                kind = RefusedError if known.for_good else StoreError
                return kind(f"{self} can't be {what}: {known.words}{self._asked()}")
        short = " ".join(words.split())[:300]
        return StoreError(f"{self} can't be {what}: {short}{self._asked()}")

    def _asked(self) -> str:
        """Return which server was asked, where that isn't the provider's own."""
        named = _endpoint() if self.address.startswith("s3://") else None
        return f" (asked: {hide_password(named)})" if named and "?" not in self.address else ""


@dataclass(frozen=True)
class Remedy:
    """What helps where a problem's words hold one of the signs. scheme: of the addresses that it
    is for. for_good: to ask again is of no use."""

    scheme: str
    signs: Sequence[str]
    words: str
    for_good: bool


REMEDIES = (
    Remedy(
        "s3://",
        ("NETWORK_CONNECTION", "curlCode", "Could not connect", "Couldn't connect"),
        "nothing answers there; see that the network is up, and AWS_ENDPOINT_URL and the region "
        "are right",
        for_good=False,
    ),
    Remedy(
        "gs://",
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Could not resolve", "Couldn't", "Failed to connect"),
        "nothing answers there; see that the network is up",
        for_good=False,
    ),
    Remedy(
        "://",
        ("NO_SUCH_BUCKET", "NoSuchBucket", "bucket does not exist", "not found"),
        "there is no such bucket; make it, or correct --files",
        for_good=True,
    ),
    Remedy(
        "s3://",
        ("ExpiredToken", "EXPIRED_TOKEN", "TokenRefreshRequired", "InvalidToken"),
        "the credentials have expired; sign in again and set AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or AWS_PROFILE",
        for_good=True,
    ),
    Remedy(
        "s3://",
        (
            "ACCESS_DENIED",
            "AccessDenied",
            "INVALID_ACCESS_KEY",
            "InvalidAccessKeyId",
            "INVALID_CLIENT_TOKEN",
            "UNRECOGNIZED_CLIENT",
            "MISSING_AUTHENTICATION",
            "SIGNATURE",
            "SignatureDoesNotMatch",
            "HTTP status 401",
            "HTTP status 403",
        ),
        "access is denied; see that the machine's profile, AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, may list, read, write and delete there, and that "
        "AWS_ENDPOINT_URL is right",
        for_good=True,
    ),
    Remedy(
        "gs://",
        (
            "PERMISSION_DENIED",
            "UNAUTHENTICATED",
            "invalid_grant",
            "OAuth2",
            "Anonymous caller",
            "Permission denied",
        ),
        "access is denied; set GOOGLE_APPLICATION_CREDENTIALS to a key's file, or run `gcloud auth "
        "application-default login`, of an account that may list, read, write and delete there",
        for_good=True,
    ),
)


def _endpoint() -> str | None:
    """Return the address of an S3 that isn't Amazon's, if the environment names one."""
    return next((os.environ[key] for key in ENDPOINTS if os.environ.get(key)), None)


@functools.cache
def _system(scheme: str, bucket: str, query: str) -> FileSystem:
    """The file system of a bucket. Credentials come from the environment or the machine."""
    from pyarrow import fs

    if scheme != "s3":
        uri = f"{scheme}://{bucket}/" + (f"?{query}" if query else "")
        return fs.FileSystem.from_uri(uri)[0]
    options = dict(parse_qsl(query))
    named = _endpoint()
    if named and "endpoint_override" not in options:
        parts = urlsplit(named)
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    region = options.pop("region", None)
    region = region or next((os.environ[key] for key in REGIONS if os.environ.get(key)), None)
    if region is None:
        region = "us-east-1" if options else fs.resolve_s3_region(bucket)
    # small files in one request each; the options go to workers with it, credentials don't
    return fs.S3FileSystem(region=region, allow_delayed_open=True, **options)


def local(text: str, option: str) -> Path:
    """Return the absolute path that a person gives with an option.

    Raises StoreError if there is none, of a user that isn't known, or of a name that is too long.
    """
    if not text.strip():
        raise StoreError(f"{option} is {text!r}: give a folder")
    try:
        if "\0" in text:
            raise ValueError("null character")
        path = Path(text).expanduser().absolute()
        path.exists()
    except RuntimeError:
        user = text.partition("/")[0]
        raise StoreError(f"{option} {text}: there is no user {user[1:]!r}, give a path") from None
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise StoreError(f"{option} {text[:60]}… can't be used ({why}): give another") from None
    return path


def _path_of(uri: str) -> str:
    """Return the path of a file's URI. Raises StoreError if that is on another machine."""
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise StoreError(f"the files' place {uri!r} is another machine's: give file:///PATH")
    return unquote(uri.removeprefix("file:").removeprefix(f"//{parts.netloc}"))
