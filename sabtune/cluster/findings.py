"""The problems of a machine or a cluster that the facts of its nodes show."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sabtune.cluster.node_facts import BYTES_PER_GIB, SHOWN, Disk, NodeFacts, Token
from sabtune.cluster.sockets import RAY_PATH_BYTES, SOCKET_PATH_BYTES
from sabtune.wording import counted

LEAST_FREE_GIB, SPARE_FREE_GIB = 1.0, 5.0
"""The free GiB below which a disk is a problem, and below which it is a notice."""

CLOCK_ERROR_SECONDS, CLOCK_WARNING_SECONDS = 60.0, 2.0
"""The error in seconds above which a clock is a problem, and above which it is a notice."""

MEMORY_MARGIN = 1.1
"""How many times its limit Ray may count on before that is a finding: the two differ a little."""

ONE_SEARCH = (
    "never search a study in two jobs at once, and look at it on the machine that searches it, "
    "or give --store postgresql://…"
)
"""The remedy for locks that hold on one machine only."""

GENERATE_REMEDY = "run `ray get-auth-token --generate` and `chmod 600 ~/.ray/auth_token`"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem or a notice, with its remedy.

    where: what the finding is about, such as a node. says: what is the matter. wrong: True for a
    problem, False for a notice.
    """

    where: str
    says: str
    remedy: str
    wrong: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.says}; {self.remedy}"


def find_problems(
    nodes: Sequence[NodeFacts],
    *,
    files: str | None = None,
    cluster: bool = False,
    shared: str | None = None,
) -> list[Finding]:
    """Return all findings, problems before notices.

    nodes: the first is the driver's own machine. files: the address where the nodes store files.
    cluster: whether the nodes form a cluster. shared: the folder of the store that all nodes must
    see, None if there is no such folder.
    """
    findings: list[Finding] = []
    reachable = [node for node in nodes if not node.unreachable]
    for node in nodes:
        if node.unreachable:
            findings.append(_unreachable(node))
    for node in reachable:
        findings += [*_gpus(node), *_disks(node), *_clock(node), *_files(node, files)]
        findings += _token(node.node, node.token, cluster=cluster)
        findings += [*_slurm(node), *_store(node, shared, separate=files is not None)]
    findings += [*_versions(reachable), *_drivers(reachable), *_modes(reachable)]
    return sorted(findings, key=lambda finding: not finding.wrong)


def _slurm(node: NodeFacts) -> Iterator[Finding]:
    """Find what differs between a Slurm job and its Ray, and sockets whose path is too long."""
    job = node.slurm
    if job is None:
        return
    for name, option, rays, slurms in (
        ("CPU", "--num-cpus", node.cpus, job.cpus),
        ("GPU", "--num-gpus", None if node.cpus is None else node.declared, job.gpus),
    ):
        if rays is not None and slurms is not None and rays != slurms:
            yield Finding(
                where=node.node,
                says=f"Ray gives out {counted(int(rays), name)}, and job {job.job} has {slurms}",
                remedy=f"start Ray with {option}, as slurm.sbatch does",
                wrong=rays > slurms,
            )
    if job.memory is not None and node.memory > MEMORY_MARGIN * job.memory:
        yield Finding(
            where=node.node,
            says=f"Ray counts on {node.memory / BYTES_PER_GIB:.1f} GiB of memory, and the cgroup "
            f"of job {job.job} allows {job.memory / BYTES_PER_GIB:.1f}: the kernel kills trials "
            "before Ray notices",
            remedy="ask for more with --mem (0 is all), or lower the number of trials at once",
            wrong=False,
        )
    longest = SOCKET_PATH_BYTES - RAY_PATH_BYTES
    if len(os.fsencode(node.sockets)) > longest:
        yield Finding(
            where=node.node,
            says=f"{node.sockets} has {len(os.fsencode(node.sockets))} characters, and Ray's "
            f"sockets allow {longest}: `ray start` fails there",
            remedy="set RAY_TMPDIR to a short path, such as /tmp",
        )


def _store(node: NodeFacts, shared: str | None, *, separate: bool) -> Iterator[Finding]:
    """Find a node that doesn't see the store, or where the driver's locks don't hold.

    separate: whether the files are elsewhere than the databases, which only the driver opens.
    """
    if shared is None:
        return
    if node.sees_store is False:
        yield Finding(
            where=node.node,
            says=f"doesn't see the files in {shared}",
            remedy="give --store, or --files, a folder that all nodes share",
        )
    elif node.free_locks and not separate:
        yield Finding(
            where=node.node,
            says=f"locks of the driver in {shared} don't hold there ({', '.join(node.free_locks)})",
            remedy=ONE_SEARCH,
            wrong=False,
        )


def other_version(where: str, name: str, here: str, there: str) -> Finding:
    """Return the finding for a version that differs between this machine and the cluster."""
    return Finding(
        where=where,
        says=f"{name} {here} here, and {there} on the cluster",
        remedy=f"use the same on both: pip install '{name}=={there}'"
        if name not in ("python", "sabtune")
        else f"use the same on both: {name} {there}",
    )


def token_findings(where: str, token: Token, *, cluster: bool) -> list[Finding]:
    """Return the findings about the token of the machine `where`."""
    return list(_token(where, token, cluster=cluster))


def _unreachable(node: NodeFacts) -> Finding:
    return Finding(
        where=node.node,
        says=f"can't be checked: {node.unreachable}",
        remedy="check that sabtune is installed there as on the head (run `ray up` again), "
        "or end the node so that the cluster starts another",
    )


def _versions(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Find versions that differ from those of the first node, the driver's machine."""
    if not nodes:
        return
    first = nodes[0]
    for name in SHOWN:
        if first.versions.get(name) is None:
            yield _missing(first, name)
        for node in nodes[1:]:
            here, there = _public(first.versions.get(name)), _public(node.versions.get(name))
            if here != there:
                yield Finding(
                    where=node.node,
                    says=f"{name} {there or 'isn’t installed'}, and {here or 'none'} on "
                    f"{first.node}",
                    remedy="install the same version on both, with constraints.txt or the image in "
                    "the cluster file, and run `ray up` again",
                )


def _missing(node: NodeFacts, name: str) -> Finding:
    """Return the finding for a package that isn't installed."""
    if name == "numba":
        remedy = "without it, CPUs train two to four times slower: pip install numba"
        return Finding(where=node.node, says="numba isn't installed", remedy=remedy, wrong=False)
    remedy = f"pip install {name} -c constraints.txt"
    return Finding(where=node.node, says=f"{name} isn't installed", remedy=remedy)


def _public(version: str | None) -> str | None:
    """Return a version without its build, such as +cpu, because nodes may have different builds."""
    return version.partition("+")[0] if version else None


def _gpus(node: NodeFacts) -> Iterator[Finding]:
    count = len(node.gpus)
    if count and node.seen < count:
        yield Finding(
            where=node.node,
            says=f"its driver {node.gpus[0].driver} knows {counted(count, 'GPU')}, "
            f"and torch finds {node.seen}",
            remedy="install a torch built with CUDA"
            if node.cuda is None
            else f"install a driver that is new enough for CUDA {node.cuda}",
        )
    if node.declared > count:
        yield Finding(
            where=node.node,
            says=f"Ray gives out GPUs there: {node.declared:g}; its driver knows {count}",
            remedy="check nvidia-smi there, and the cluster's gres.conf"
            if node.slurm
            else "correct the node type's resources in the cluster file, or its image",
            wrong=False,
        )


def _drivers(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Find drivers that differ from the most frequent one."""
    drivers = Counter(node.gpus[0].driver for node in nodes if node.gpus)
    if len(drivers) < 2:
        return
    usual = drivers.most_common(1)[0][0]
    for node in nodes:
        if node.gpus and node.gpus[0].driver != usual:
            yield Finding(
                where=node.node,
                says=f"driver {node.gpus[0].driver}, and {usual} elsewhere",
                remedy="use one machine image for all workers in the cluster file",
                wrong=False,
            )


def _disks(node: NodeFacts) -> Iterator[Finding]:
    for disk in node.disks:
        if disk.free < SPARE_FREE_GIB:
            yield Finding(
                where=node.node,
                says=f"{disk.free:.1f} GiB of {disk.size:.0f} are free where {disk.of} is "
                f"({disk.path})",
                remedy=_disk_remedy(disk),
                wrong=disk.free < LEAST_FREE_GIB,
            )


def _disk_remedy(disk: Disk) -> str:
    if disk.of == "Ray":
        return "make room there, or set another folder with RAY_TMPDIR"
    return "make room there" if disk.of == "home" else "make room there, or give another location"


def _clock(node: NodeFacts) -> Iterator[Finding]:
    """Find a clock that is off by more than the uncertainty of its measurement explains."""
    off = abs(node.offset) - node.within
    if off > CLOCK_WARNING_SECONDS:
        direction = "ahead of" if node.offset > 0 else "behind"
        yield Finding(
            where=node.node,
            says=f"its clock is {abs(node.offset):.0f} s {direction} the driver's",
            remedy="set it by NTP (`timedatectl set-ntp true`): object stores refuse a clock "
            "that is minutes off",
            wrong=off > CLOCK_ERROR_SECONDS,
        )


def _files(node: NodeFacts, files: str | None) -> Iterator[Finding]:
    if files and node.files:
        yield Finding(
            where=node.node,
            says=f"can't store files at {files}: {node.files}",
            remedy="check the address, and that the node's profile or account may list, read, "
            "write and delete there",
        )


def _token(where: str, token: Token, *, cluster: bool) -> Iterator[Finding]:
    """Find a missing token, a token that other users may read, and an unknown RAY_AUTH_MODE."""
    needed = token.mode == "token" or (cluster and token.mode == "")
    if needed and not token.found:
        yield Finding(where=where, says="there is no token for Ray", remedy=GENERATE_REMEDY)
    if token.bits is not None and token.bits & 0o077:
        yield Finding(
            where=where,
            says=f"others may read the token {token.found} (mode {token.bits:03o})",
            remedy=f"chmod 600 {token.found}",
            wrong=needed,
        )
    if token.mode not in ("", "token", "disabled"):
        yield Finding(
            where=where,
            says=f"RAY_AUTH_MODE is {token.mode!r}, which Ray doesn't know",
            remedy="set it to token",
        )


def _modes(nodes: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Find nodes of a cluster where Ray runs without a token."""
    if len(nodes) < 2:
        return
    for node in nodes:
        if node.token.mode == "token":
            continue
        differs = any(other.token.mode == "token" for other in nodes)
        yield Finding(
            where=node.node,
            says="Ray runs there without RAY_AUTH_MODE=token"
            + (
                ", and with it elsewhere"
                if differs
                else ": anyone who reaches its ports can run code"
            ),
            remedy="set it in every `ray start` of the cluster file, and run `ray up` again",
            wrong=differs,
        )
