"""The provenance of a result: git revision, package versions and machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

GIT_TIMEOUT_SECONDS = 20

PACKAGES = ("torch", "numpy", "numba", "scikit-learn", "optuna", "ray", "mlflow", "safetensors")


@cache
def software() -> dict[str, Any]:
    """Return the versions of sabtune, Python and the packages that affect results."""
    return {"python": platform.python_version(), "sabtune": _version("sabtune")} | {
        name: _version(name) for name in PACKAGES
    }


@cache
def hardware() -> dict[str, Any]:
    """Return the processor and the GPU, if any, of this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "host": platform.node(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


NOTE = ".revision.json"
"""The suffix of a file that is sent to a cluster with a study file, and holds its git revision."""


def revision(path: Path) -> dict[str, Any]:
    """Return the git commit of the folder of `path`, and whether it has uncommitted changes.

    The keys are "commit" and "dirty". For a study file that was sent from another machine, the
    result is that of the original file. The result is empty without git or outside a repository.
    """
    note = path.with_name(path.name + NOTE)
    if note.is_file():
        original: dict[str, Any] = json.loads(note.read_text())
        return original
    folder = path if path.is_dir() else path.parent
    folder = folder if folder.is_dir() else Path.cwd()  # the cell of a notebook is in no folder
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            check=False,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
