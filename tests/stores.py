"""A store that version 0.1 wrote, and the state of its files."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from sabtune.storage.store import Store

ARCHIVE = Path(__file__).with_name("store-0.1.tar.xz")
"""What `search` and `confirm` of version 0.1 wrote at /srv/lab, without the pages of reports.

This is the study of `old.py`: four complete trials, two interrupted ones and a confirmation.
"""


def unpacked(folder: Path) -> Store:
    """Unpack the store of version 0.1 below a folder whose name needs quoting everywhere."""
    place = folder / "what? a #1 100%25 ü {x}"
    place.mkdir()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(place, filter="data")
    return Store(place / "store-0.1" / "store")


def state(folder: Path) -> dict[str, tuple[int, str]]:
    """Return the time of the last write and a digest of everything below a folder, by path."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in [folder, *folder.rglob("*")]
    }
