"""Convert checkpoints to earlier formats, and rewrite the manifests of changed ones."""

from __future__ import annotations

import json
from pathlib import Path

from sabtune import manifest


def of_format(directory: Path, number: int) -> None:
    """Convert a checkpoint to format 2 or 3.

    Neither format has a manifest, and format 2 has no partial report.
    """
    (directory / "manifest.json").unlink()
    path = directory / "progress.json"
    progress = json.loads(path.read_text()) | {"format": number}
    if number == 2:
        del progress["stretch"]
    path.write_text(json.dumps(progress))


def seal(directory: Path) -> None:
    """Rewrite the manifest for the current content of the files."""
    names = [path.name for path in directory.iterdir() if path.name != "manifest.json"]
    manifest.write(directory, {name: (directory / name).read_bytes() for name in names})
