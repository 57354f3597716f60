"""What a Slurm job allocates on this machine, and the address of the head that a job starts."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from sabtune.errors import ClusterError

HEAD_PORTS = range(20_000, 30_000)
"""The ports for Ray's head: between those of its workers and those that the kernel gives out."""

UNLIMITED = 2**60
"""Bytes from which on a limit stands for none: cgroup v1 writes a number close to 2**63."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The resources that a Slurm job may use on one node.

    job: the job's number. nodes: the number of its nodes. cpus, gpus: None if Slurm doesn't say.
    memory: the bytes that the cgroup of the job's processes allows; None without a limit.
    """

    job: str
    nodes: int = 1
    cpus: int | None = None
    gpus: int | None = None
    memory: int | None = None


def allocation(environment: Mapping[str, str] = os.environ) -> Allocation | None:
    """Return what a Slurm job allocates to this process, or None outside of a job's nodes.

    A shell of `salloc` on a login node has a job, but isn't on one of its nodes.
    """
    job = environment.get("SLURM_JOB_ID")
    if not job or "SLURMD_NODENAME" not in environment:
        return None
    gpus = _whole(environment.get("SLURM_GPUS_ON_NODE"))
    if gpus is None:
        named = environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS") or ""
        gpus = len(named.split(",")) if named else 0
    return Allocation(
        job=job,
        nodes=_whole(environment.get("SLURM_NNODES")) or 1,
        cpus=_whole(environment.get("SLURM_CPUS_ON_NODE")),
        gpus=gpus,
        memory=memory_limit(),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def memory_limit(
    groups: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes of memory that the cgroups of this process allow, or None without a limit.

    A group's limit also holds for the groups below it, so the smallest of its parents' counts.
    Both versions of cgroups are read. groups: a file like /proc/self/cgroup. mounts: the folder
    where the kernel shows them.
    """
    limits = [limit for path in _limit_files(groups, mounts) if (limit := _limit(path)) is not None]
    return min(limits, default=None)


def _limit_files(groups: Path, mounts: Path) -> Iterator[Path]:
    """Yield the files with the limits of a process's cgroups and of all groups above them."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, name = mounts / "memory", "memory.limit_in_bytes"
        elif not controllers:
            unified = mounts / "unified"  # where both versions are mounted
            root, name = unified if unified.is_dir() else mounts, "memory.max"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder / name
            if folder == root:
                break


def _limit(path: Path) -> int | None:
    """Return the limit in a file; None if there is no file, or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) < UNLIMITED else None


def head_address(interface: str, peer: str, job: str) -> str:
    """Return the address for Ray's head on this machine, as HOST:PORT, with a port that is free.

    interface: the network interface that other nodes shall reach; "" for the one that reaches
    `peer`, another node of the job. job: the job's number, which decides where the search for a
    port begins. Raises ClusterError if there is no such interface, address or port.
    """
    host = _interface_address(interface) if interface else _address_towards(peer)
    first = int(job) % len(HEAD_PORTS) if job.isdecimal() else 0
    for port in (*HEAD_PORTS[first:], *HEAD_PORTS[:first]):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return f"{host}:{port}"
    raise ClusterError(f"no port from {HEAD_PORTS[0]} to {HEAD_PORTS[-1]} is free on {host}")


def _interface_address(interface: str) -> str:
    """Return the IPv4 address of an interface of this machine."""
    addresses = psutil.net_if_addrs()
    for address in addresses.get(interface, ()):
        if address.family == socket.AF_INET:
            return str(address.address)
    having = [
        name
        for name, listed in addresses.items()
        if any(address.family == socket.AF_INET for address in listed)
    ]
    raise ClusterError(
        f"SABTUNE_INTERFACE is {interface!r}, which has no IPv4 address on {platform.node()}: "
        f"give one of {', '.join(having)}"
    )


def _address_towards(peer: str) -> str:
    """Return the address of this machine on the way to another node; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    except OSError as problem:
        raise ClusterError(
            f"{platform.node()} finds no way to {peer} ({problem.strerror}): set "
            "SABTUNE_INTERFACE to the interface between the nodes, such as ib0"
        ) from None
