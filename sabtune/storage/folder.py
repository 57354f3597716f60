"""Folders on this machine, on a disk that machines share, or in an object store."""

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
"""The URL schemes of the supported object stores."""

OPTIONS = {"s3": {"endpoint_override", "region", "scheme"}, "gs": {"endpoint_override", "scheme"}}
"""The options that an address may have after `?`, by scheme. Credentials are never among them."""

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")

MAX_ERROR_CHARACTERS = 300
"""The maximum length of an object store's error in a message."""


@dataclass(frozen=True)
class Folder:
    """A folder by its address: an absolute path, s3://BUCKET/PATH or gs://BUCKET/PATH.

    Files in an object store are written atomically. Methods raise StoreError, with a one-line
    message, if the folder can't be reached or access is denied.
    """

    address: str

    @classmethod
    def at(cls, place: str | Path) -> Folder:
        """Return the folder at an address. Raises StoreError if the address is invalid."""
        text = str(place)
        if text.startswith("file:"):
            text = _path_of(text)
        if "://" not in text:
            return cls(str(local(text, "--files")))
        parts = urlsplit(text)
        if parts.scheme not in SCHEMES or not parts.netloc:
            raise StoreError(
                f"the files' place {hide_password(text)!r} isn't supported: "
                "give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
            )
        if "@" in parts.netloc:
            raise StoreError(
                f"the files' place {hide_password(text)!r} holds credentials: leave them to the "
                "environment (AWS_ACCESS_KEY_ID …) or to the machine's profile"
            )
        unknown = dict(parse_qsl(parts.query)).keys() - OPTIONS[parts.scheme]
        if unknown:
            raise StoreError(
                f"the files' place has the unknown option {min(unknown)!r}: "
                f"after the ?, give {', '.join(sorted(OPTIONS[parts.scheme]))}"
            )
        return cls(text)

    def __truediv__(self, name: str) -> Folder:
        path, mark, query = self._split()
        return Folder(f"{path.rstrip('/')}/{name}{mark}{query}")

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Return the last component of the address."""
        return self._split()[0].rpartition("/")[2]

    def _split(self) -> tuple[str, str, str]:
        """Split the address into the path or URL, "?" and the options; a local path has none."""
        return self.address.partition("?") if "://" in self.address else (self.address, "", "")

    @property
    def path(self) -> Path | None:
        """Return the path on this machine; None in an object store."""
        return None if "://" in self.address else Path(self.address)

    @property
    def uri(self) -> str:
        """Return the URI for MLflow, without the options, which MLflow doesn't support."""
        return self.path.as_uri() if self.path else self._split()[0].rstrip("/")

    def storage(self) -> tuple[FileSystem, str]:
        """Return the pyarrow file system of the folder, and the folder's path in it."""
        from pyarrow.fs import LocalFileSystem

        if self.path is not None:
            return LocalFileSystem(), str(self.path)
        parts = urlsplit(self.address)
        with self.told("reached"):
            system = _system(parts.scheme, parts.netloc, parts.query)
        return system, f"{parts.netloc}{parts.path}".rstrip("/")

    def names(self) -> list[str]:
        """Return the sorted names of the folder's entries; [] if the folder doesn't exist."""
        if self.path is not None:
            try:
                return sorted(path.name for path in self.path.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [info.base_name for info in self._entries()]

    def times(self) -> dict[str, float]:
        """Return the modification time of each file in seconds since 1970, by name.

        These times are set by the clock of the folder's machine or object store.
        """
        return {info.base_name: info.mtime.timestamp() for info in self._entries() if info.mtime}

    def _entries(self) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        system, path = self.storage()
        with self.told("listed"):
            entries = system.get_file_info(FileSelector(path, allow_not_found=True))
        return sorted(entries, key=lambda info: str(info.base_name))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it doesn't exist."""
        system, path = self.storage()
        with self.told("read"):
            try:
                with system.open_input_stream(f"{path}/{name}") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, source: Path | bytes) -> None:
        """Create or replace a file atomically: readers never see a partial file.

        source: the content, or the path of a file to copy.
        """
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
        """Delete a file, if it exists."""
        system, path = self.storage()
        with self.told("written"):
            try:
                system.delete_file(f"{path}/{name}")
            except FileNotFoundError:
                return

    def delete_all(self) -> None:
        """Delete the folder and its content. Errors are ignored."""
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
        """Yield the path of the folder, or of a temporary copy if it is in an object store.

        names: the files to copy; by default, all of them. Files that don't exist are skipped.
        """
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as copy:
            system, path = self.storage()
            for name in names or self.names():
                with self.told("read"):
                    try:
                        source = system.open_input_stream(f"{path}/{name}")
                    except FileNotFoundError:
                        continue
                    with source, (Path(copy) / name).open("wb") as file:
                        shutil.copyfileobj(source, file)
            yield Path(copy)

    def check(self) -> None:
        """Raise StoreError unless files in the folder can be written, read and deleted."""
        probe = f".probe-{os.getpid()}"
        self.write(probe, b"sabtune")
        if self.read(probe) != b"sabtune":
            raise StoreError(f"{self}: what is written there can't be read: give another --files")
        self.delete(probe)

    @contextmanager
    def told(self, action: str) -> Iterator[None]:
        """Convert an OSError of the file system into StoreError.

        A permanent error of an object store, such as denied access, becomes RefusedError. action:
        what is done with the folder, as a participle such as "read".
        """
        try:
            yield
        except OSError as problem:
            raise self.failure(problem, action) from problem

    def failure(self, problem: OSError, action: str) -> StoreError:
        """Return the error to raise for an OSError. action: see `told`."""
        words = str(problem)
        if problem.strerror and problem.errno and "AWS Error" not in words:
            return StoreError(
                f"{self} can't be {action}: {problem.strerror}; give another folder with --files"
            )
        for remedy in REMEDIES:
            if remedy.scheme in self.address and any(sign in words for sign in remedy.signs):
                kind = RefusedError if remedy.for_good else StoreError
                return kind(f"{self} can't be {action}: {remedy.words}{self._endpoint_suffix()}")
        short = " ".join(words.split())[:MAX_ERROR_CHARACTERS]
        return StoreError(f"{self} can't be {action}: {short}{self._endpoint_suffix()}")

    def _endpoint_suffix(self) -> str:
        """Return a suffix for messages that names the S3 server, if the environment sets one."""
        endpoint = _endpoint() if self.address.startswith("s3://") else None
        if not endpoint or "?" in self.address:
            return ""
        return f" (asked: {hide_password(endpoint)})"


@dataclass(frozen=True)
class Remedy:
    """The remedy for errors of an object store whose message contains one of the signs.

    scheme: a part of the addresses that the remedy applies to. words: the cause and the remedy.
    for_good: whether the error is permanent, so that a retry can't succeed.
    """

    scheme: str
    signs: Sequence[str]
    words: str
    for_good: bool


REMEDIES = (
    Remedy(
        "s3://",
        ("NETWORK_CONNECTION", "curlCode", "Could not connect", "Couldn't connect"),
        "nothing answers there; check that the network is up, and that AWS_ENDPOINT_URL and the "
        "region are right",
        for_good=False,
    ),
    Remedy(
        "gs://",
        ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Could not resolve", "Couldn't", "Failed to connect"),
        "nothing answers there; check that the network is up",
        for_good=False,
    ),
    Remedy(
        "://",
        ("NO_SUCH_BUCKET", "NoSuchBucket", "bucket does not exist", "not found"),
        "there is no such bucket; create it, or correct --files",
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
        "access is denied; check that the machine's profile, AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY may list, read, write and delete there, and that AWS_ENDPOINT_URL "
        "is right",
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
        "access is denied; set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run `gcloud auth "
        "application-default login`, for an account that may list, read, write and delete there",
        for_good=True,
    ),
)


def _endpoint() -> str | None:
    """Return the S3 endpoint that the environment sets; None for Amazon's own."""
    return next((os.environ[key] for key in ENDPOINTS if os.environ.get(key)), None)


@functools.cache
def _system(scheme: str, bucket: str, query: str) -> FileSystem:
    """Return the file system of a bucket. Credentials come from the environment or the machine."""
    from pyarrow import fs

    if scheme != "s3":
        uri = f"{scheme}://{bucket}/" + (f"?{query}" if query else "")
        return fs.FileSystem.from_uri(uri)[0]
    options = dict(parse_qsl(query))
    endpoint = _endpoint()
    if endpoint and "endpoint_override" not in options:
        parts = urlsplit(endpoint)
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    region = options.pop("region", None)
    region = region or next((os.environ[key] for key in REGIONS if os.environ.get(key)), None)
    if region is None:
        region = "us-east-1" if options else fs.resolve_s3_region(bucket)
    # A delayed open writes a small file in one request. Workers receive the options, so these must
    # not contain credentials.
    return fs.S3FileSystem(region=region, allow_delayed_open=True, **options)


def local(text: str, option: str) -> Path:
    """Return the absolute path for the value of a command-line option.

    text: the value. option: the option's name, for messages. Raises StoreError if the path is empty
    or invalid, or if its `~user` doesn't exist.
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
        reason = getattr(problem, "strerror", None) or str(problem)
        raise StoreError(
            f"{option} {text[:60]}… can't be used ({reason}): give another path"
        ) from None
    return path


def _path_of(uri: str) -> str:
    """Return the path of a file URI. Raises StoreError if it names another machine."""
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise StoreError(f"the files' place {uri!r} is on another machine: give file:///PATH")
    return unquote(uri.removeprefix("file:").removeprefix(f"//{parts.netloc}"))
