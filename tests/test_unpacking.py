"""Test that archives that unpack to too much, or outside of their folder, are refused."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sabtune.data import formats
from sabtune.errors import DataError
from tests.data_files import idx

MOST = 1 << 20
MEMBER = "cifar-10-batches-bin/test_batch.bin"


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_BYTES", MOST)


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def member(
    name: str, kind: bytes = tarfile.REGTYPE, to: str = "", **headers: str
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, to, headers
    return info


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(2 * MOST, np.uint8))))
    with pytest.raises(DataError, match="it unpacks to more than"):
        formats.read_idx(path, 1)


@pytest.mark.parametrize("before", [True, False])
def test_a_tar_bomb_is_refused(tmp_path: Path, before: bool) -> None:
    """Check archives whose large part is the requested file, a file before it, or a header."""
    wanted, other = (member(MEMBER), bytes(3073)), (member("other"), bytes(2 * MOST))
    members = [other, wanted] if before else [(member(MEMBER), bytes(2 * MOST))]
    path = archive(tmp_path / "x.tar.gz", *members)
    with pytest.raises(DataError, match="it unpacks to more than"):
        formats.read_cifar10(path, [MEMBER])
    path = archive(tmp_path / "y.tar.gz", (member(MEMBER, comment="x" * 2 * MOST), bytes(3073)))
    with pytest.raises(DataError, match="it unpacks to more than"):
        formats.read_cifar10(path, [MEMBER])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_in_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = archive(tmp_path / "x.tar.gz", (member(MEMBER, kind, "/etc/passwd"), b""))
    with pytest.raises(DataError, match="is not a file"):
        formats.read_cifar10(path, [MEMBER])


def test_paths_in_an_archive_are_not_written(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    path = archive(
        tmp_path / "x.tar.gz",
        (member(str(outside)), b"x"), (member("../outside"), b"x"), (member(MEMBER), bytes(3073)),
    )  # fmt: skip
    ((images, _),) = formats.read_cifar10(path, [MEMBER])
    assert images.shape == (1, 3, 32, 32)
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.tar.gz"}


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text8.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("text8", "a" * 2 * MOST)
    with pytest.raises(DataError, match="it unpacks to more than"):
        formats.read_zipped_text(path, "text8")


def test_an_oversized_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ptb.train.txt"
    path.write_text("a" * 2 * MOST)
    with pytest.raises(DataError, match="it unpacks to more than"):
        formats.read_text(path)
