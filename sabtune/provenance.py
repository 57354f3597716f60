"""What a result was made with: revision, packages, machine."""

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

PACKAGES = ("torch", "numpy", "numba", "scikit-learn", "optuna", "ray", "mlflow", "safetensors")


@cache
def software() -> dict[str, Any]:
    """Versions of sabtune, Python and the packages that a number could depend on."""
    return {"python": platform.python_version(), "sabtune": _version("sabtune")} | {
        name: _version(name) for name in PACKAGES
    }


@cache
def hardware() -> dict[str, Any]:
    """The processor and, where there is one, the GPU of this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "host": platform.node(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


NOTE = ".revision.json"
"""Ends the name of what is written beside a file that is sent elsewhere: its revision here."""


def revision(of: Path) -> dict[str, Any]:
    """The git revision of the folder that holds `of`, and whether it has uncommitted changes; of a
    file that was sent here, as it was where it came from.

    Empty where there is no git, or no repository.
    """
    note = of.with_name(of.name + NOTE)
    if note.is_file():
        sent: dict[str, Any] = json.loads(note.read_text())
        return sent
    folder = of if of.is_dir() else of.parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git(folder, "status", "--porcelain")
    return {"commit": commit, "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


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
