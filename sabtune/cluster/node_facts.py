"""The facts of one machine: versions, GPUs, disks, token, and access to the store's files."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sabtune.cluster.slurm import Allocation, allocation
from sabtune.cluster.token import VARIABLE, token_path
from sabtune.errors import StoreError
from sabtune.provenance import software
from sabtune.storage import locking
from sabtune.storage.folder import Folder

BYTES_PER_GIB = 2.0**30
SHOWN = ("sabtune", "python", "ray", "torch", "numba")
"""The packages whose versions are compared."""

DRIVER_COMMAND = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version"]
DRIVER_COMMAND += ["--format=csv,noheader,nounits"]
TORCH_COMMAND = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU according to its driver. memory: in GiB."""

    name: str
    memory: float
    driver: str


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The disk of a folder.

    of: what the folder holds, such as "home". path: the folder, or its nearest parent that exists.
    free, size: in GiB.
    """

    of: str
    path: str
    free: float
    size: float


@dataclass(frozen=True, kw_only=True)
class Token:
    """Ray's authentication mode and the location of its token, without the token itself.

    mode: RAY_AUTH_MODE, or "" if it isn't set. found: "environment", the path of the token file, or
    "" if there is no token. bits: the permissions of the file, None if there is no file.
    """

    mode: str
    found: str
    bits: int | None = None


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """The facts of one machine.

    node: the machine's name. head: whether it is the cluster's head. cuda: the version of CUDA that
    torch is built with, None without CUDA. gpus: the GPUs that NVIDIA's driver finds. seen: the
    number of GPUs that torch finds. declared: the number of GPUs that Ray offers to trials. files:
    why the machine can't use the store's files, "" if it can, None if that wasn't checked. offset:
    the seconds that its clock is ahead of the driver's. within: the uncertainty of the offset, in
    seconds. unreachable: why the machine couldn't be examined, "" if it was. slurm: what a Slurm
    job allocates there, None outside of one. cpus: the number of CPUs that Ray offers to trials,
    None if it doesn't run. memory: the bytes of memory that Ray counts on. sockets: the folder
    where `ray start` puts its sockets. sees_store: whether the machine sees the driver's store,
    None if that wasn't checked. free_locks: the kinds of the driver's locks on files of the store
    that don't hold on this machine.
    """

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
    slurm: Allocation | None = None
    cpus: float | None = None
    memory: float = 0.0
    sockets: str = ""
    sees_store: bool | None = None
    free_locks: tuple[str, ...] = ()


def examine(
    folders: Mapping[str, str], files: str | None, locks: Mapping[str, str] | None = None
) -> NodeFacts:
    """Return the facts of the machine that runs this function.

    folders: the folders whose disks are examined, by what they hold. files: the address where files
    are stored, or None. locks: the files that the driver's process has locked in its store, by the
    kind of lock; None if that isn't checked.
    """
    import torch

    gpus = _gpus()
    versions = software()
    return NodeFacts(
        node=platform.node(),
        versions={name: versions[name] for name in SHOWN},
        cuda=torch.version.cuda,
        gpus=gpus,
        seen=_count_by_torch() if gpus else 0,
        disks=tuple(_disk(content, path) for content, path in folders.items()),
        token=token(),
        files=files_problem(files) if files else None,
        slurm=allocation(),
        memory=float(psutil.virtual_memory().total),
        sockets=str(Path(ray_folder(), "ray")),
        **(_shared(locks) if locks else {}),
    )


def _shared(locks: Mapping[str, str]) -> dict[str, Any]:
    """Return whether this machine sees the driver's files, and which of their locks don't hold."""
    try:
        return {"sees_store": True, "free_locks": locking.not_seen(locks)}
    except OSError:
        return {"sees_store": False}


def token(environment: Mapping[str, str] = os.environ) -> Token:
    """Return where Ray would find its token, in Ray's order of precedence."""
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
    """Return why files at an address can't be written, read and deleted, or "" if they can."""
    try:
        Folder.at(address).check()
    except StoreError as problem:
        return str(problem)
    return ""


def ray_folder() -> str:
    """Return the folder where Ray keeps the files of its sessions on this machine."""
    names = ("RAY_TMPDIR", "RAY_TEMP_DIR", "TMPDIR")
    return next(filter(None, map(os.environ.get, names)), "/tmp")  # noqa: S108


def mount(path: Path) -> tuple[str, frozenset[str]]:
    """Return the type of the file system of a path, such as "nfs4", and its mount's options."""
    path = path.resolve()
    holding = [
        partition
        for partition in psutil.disk_partitions(all=True)
        if path.is_relative_to(partition.mountpoint)
    ]
    nearest = max(holding, key=lambda partition: len(partition.mountpoint), default=None)
    return (nearest.fstype, frozenset(nearest.opts.split(","))) if nearest else ("", frozenset())


def existing(path: Path) -> Path:
    """Return a path, or its nearest parent that exists."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that NVIDIA's driver finds; none without a driver."""
    lines = _output(DRIVER_COMMAND).splitlines()
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.count(",") == 2]
    return tuple(
        Gpu(name=name, memory=float(memory) / 1024, driver=driver)
        for name, memory, driver in rows
        if memory.replace(".", "", 1).isdigit()
    )


def _count_by_torch() -> int:
    """Return how many GPUs torch finds, in a process where Ray hides none of them."""
    hiding = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    environment = {name: value for name, value in os.environ.items() if name not in hiding}
    words = _output([sys.executable, "-c", TORCH_COMMAND], environment).split()
    return int(words[-1]) if words and words[-1].isdigit() else 0


def _output(command: list[str], environment: Mapping[str, str] = os.environ) -> str:
    """Return what a command prints, "" if it fails."""
    try:
        process = subprocess.run(
            command, env=dict(environment), capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout if process.returncode == 0 else ""


def _disk(content: str, path: str) -> Disk:
    """Return the disk of a folder, or of its nearest parent that exists."""
    folder = existing(Path(path))
    usage = shutil.disk_usage(folder)
    free, size = usage.free / BYTES_PER_GIB, usage.total / BYTES_PER_GIB
    return Disk(of=content, path=str(folder), free=free, size=size)
