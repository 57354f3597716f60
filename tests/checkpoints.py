"""Checkpoints as earlier versions wrote them, and ones that were changed on purpose."""

from __future__ import annotations

import json
from pathlib import Path

from sabtune import manifest


def of_format(directory: Path, number: int) -> None:
    """Makes it one of format 2 or 3, which had no manifest; the second had no stretch."""
    (directory / "manifest.json").unlink()
    path = directory / "progress.json"
    progress = json.loads(path.read_text()) | {"format": number}
    if number == 2:
        del progress["stretch"]
    path.write_text(json.dumps(progress))


def seal(directory: Path) -> None:
    """Has the manifest vouch for the files as they are now."""
    names = [path.name for path in directory.iterdir() if path.name != "manifest.json"]
    manifest.write(directory, {name: (directory / name).read_bytes() for name in names})
