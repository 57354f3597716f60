"""What one machine tells of itself: versions, GPUs, disks, its token, the files' place."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sabtune.cluster.token import VARIABLE, token_path
from sabtune.errors import StoreError
from sabtune.provenance import software
from sabtune.storage.folder import Folder

GIB = 2.0**30
SHOWN = ("sabtune", "python", "ray", "torch", "numba")
"""Whose versions are compared."""

ASK_DRIVER = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version"]
ASK_DRIVER += ["--format=csv,noheader,nounits"]
ASK_TORCH = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as its driver names it; memory in GiB."""

    name: str
    memory: float
    driver: str


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk that something is on; in GiB."""

    of: str
    path: str
    free: float
    size: float


@dataclass(frozen=True, kw_only=True)
class Token:
    """How Ray asks who one is, and what there is to answer with; never the token itself.

    mode: RAY_AUTH_MODE, or "" where it isn't set. found: "environment", the token file's path, or
    "". bits: the file's permissions, None where there is no file.
    """

    mode: str
    found: str
    bits: int | None = None


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What one machine told. `offset`: how far its clock is ahead of the driver's, in s, known to
    `within`. `declared`: the GPUs that Ray gives out there. `unreachable`: why it could not tell
    anything, or ""."""

    node: str
    head: bool = False
    versions: Mapping[str, str | None] = field(default_factory=dict)
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    seen: int = 0
    declared: float = 0.0
    disks: tuple[Disk, ...] = ()
    token: Token = Token(mode="", found="")
    files: str | None = None
    offset: float = 0.0
    within: float = 0.0
    unreachable: str = ""


def examine(folders: Mapping[str, str], files: str | None) -> NodeFacts:
    """Of the machine that this runs on. `folders`: whose disks are looked at, by what they hold."""
    import torch

    gpus = _gpus()
    versions = software()
    return NodeFacts(
        node=platform.node(),
        versions={name: versions[name] for name in SHOWN},
        cuda=torch.version.cuda,
        gpus=gpus,
        seen=_seen_by_torch() if gpus else 0,
        disks=tuple(_disk(of, path) for of, path in folders.items()),
        token=token(),
        files=files_problem(files) if files else None,
    )


def token(environment: Mapping[str, str] = os.environ) -> Token:
    """Where Ray would find its token, in the order in which it looks."""
    mode = environment.get("RAY_AUTH_MODE", "").lower()
    if environment.get(VARIABLE):
        return Token(mode=mode, found="environment")
    path = token_path(environment)
    try:
        bits = path.stat().st_mode & 0o777
    except OSError:
        return Token(mode=mode, found="")
    return Token(mode=mode, found=str(path), bits=bits)


def files_problem(address: str) -> str:
    """Why a small file can't be written there, read and taken away; "" if it can."""
    try:
        Folder.at(address).check()
    except StoreError as problem:
        return str(problem)
    return ""


def ray_folder() -> str:
    """Where Ray keeps a session's files on this machine."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("RAY_TEMP_DIR") or "/tmp"  # noqa: S108


def _gpus() -> tuple[Gpu, ...]:
    """Those that NVIDIA's driver knows; none where there is no driver."""
    lines = _output(ASK_DRIVER).splitlines()
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.count(",") == 2]
    return tuple(
        Gpu(name=name, memory=float(memory) / 1024, driver=driver)
        for name, memory, driver in rows
        if memory.replace(".", "", 1).isdigit()
    )


def _seen_by_torch() -> int:
    """How many GPUs torch finds, asked where Ray hides none of them."""
    hiding = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    open_to_all = {name: value for name, value in os.environ.items() if name not in hiding}
    told = _output([sys.executable, "-c", ASK_TORCH], open_to_all).split()
    return int(told[-1]) if told and told[-1].isdigit() else 0


def _output(command: list[str], environment: Mapping[str, str] = os.environ) -> str:
    try:
        done = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _disk(of: str, path: str) -> Disk:
    """Of the nearest folder above that exists."""
    place = Path(path).expanduser().absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    return Disk(of=of, path=str(place), free=usage.free / GIB, size=usage.total / GIB)
