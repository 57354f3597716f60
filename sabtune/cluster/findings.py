"""What is wrong with a machine or a cluster, judged from what its nodes told; nothing is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sabtune.cluster.node_facts import SHOWN, Disk, NodeFacts, Token
from sabtune.wording import counted

LITTLE, SPARE = 1.0, 5.0
"""GiB that a disk must have free, and should have."""

CLOCK, DRIFT = 60.0, 2.0
"""Seconds that a clock must not be off, and should not be."""

GENERATE = "run `ray get-auth-token --generate` and `chmod 600 ~/.ray/auth_token`"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is wrong, or, if not `wrong`, worth knowing; with its remedy, on one line."""

    where: str
    says: str
    remedy: str
    wrong: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.says}; {self.remedy}"


def find_problems(
    nodes: Sequence[NodeFacts], *, files: str | None = None, cluster: bool = False
) -> list[Finding]:
    """All findings, the wrong ones first. The first checkup is the driver's own machine's."""
    found: list[Finding] = []
    told = [one for one in nodes if not one.unreachable]
    for one in nodes:
        if one.unreachable:
            found.append(_silent(one))
    for one in told:
        found += [*_gpus(one), *_disks(one), *_clock(one), *_files(one, files)]
        found += _token(one.node, one.token, cluster=cluster)
    found += [*_versions(told), *_drivers(told), *_modes(told)]
    return sorted(found, key=lambda finding: not finding.wrong)


def other_version(where: str, name: str, here: str, there: str) -> Finding:
    """The line for who meets another version than one's own."""
    return Finding(
        where=where,
        says=f"{name} {here} here, and {there} on the cluster",
        remedy=f"use the same on both: pip install '{name}=={there}'"
        if name not in ("python", "sabtune")
        else f"use the same on both: {name} {there}",
    )


def token_findings(where: str, token: Token, *, cluster: bool) -> list[Finding]:
    """Of the machine that this runs on."""
    return list(_token(where, token, cluster=cluster))


def _silent(one: NodeFacts) -> Finding:
    return Finding(
        where=one.node,
        says=f"doesn't tell how it is: {one.unreachable}",
        remedy="see that sabtune is installed there as on the head (`ray up` again does it), "
        "or end the node and let another come",
    )


def _versions(told: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Where a node has another version than the driver's machine, which is the first."""
    if not told:
        return
    first = told[0]
    for name in SHOWN:
        if first.versions.get(name) is None:
            yield _missing(first, name)
        for one in told[1:]:
            here, there = _public(first.versions.get(name)), _public(one.versions.get(name))
            if here != there:
                yield Finding(
                    where=one.node,
                    says=f"{name} {there or 'isn’t installed'}, and {here or 'none'} on "
                    f"{first.node}",
                    remedy="give both the same, by constraints.txt or the cluster file's image, "
                    "and `ray up` again",
                )


def _missing(one: NodeFacts, name: str) -> Finding:
    if name == "numba":
        remedy = "CPUs then train two to four times slower: pip install numba"
        return Finding(where=one.node, says="numba isn't installed", remedy=remedy, wrong=False)
    remedy = f"pip install {name}, by constraints.txt"
    return Finding(where=one.node, says=f"{name} isn't installed", remedy=remedy)


def _public(version: str | None) -> str | None:
    """Without what stands behind the +: a build for CPUs beside one for GPUs is right."""
    return version.partition("+")[0] if version else None


def _gpus(one: NodeFacts) -> Iterator[Finding]:
    there = len(one.gpus)
    if there and one.seen < there:
        yield Finding(
            where=one.node,
            says=f"its driver {one.gpus[0].driver} knows {counted(there, 'GPU')}, "
            f"and torch finds {one.seen}",
            remedy="install a torch built with CUDA"
            if one.cuda is None
            else f"install a driver that is new enough for CUDA {one.cuda}",
        )
    if one.declared > there:
        yield Finding(
            where=one.node,
            says=f"Ray gives out GPUs there: {one.declared:g}; its driver knows {there}",
            remedy="correct the node type's resources in the cluster file, or its image",
            wrong=False,
        )


def _drivers(told: Sequence[NodeFacts]) -> Iterator[Finding]:
    """A driver that is not the most frequent one."""
    drivers = Counter(one.gpus[0].driver for one in told if one.gpus)
    if len(drivers) < 2:
        return
    usual = drivers.most_common(1)[0][0]
    for one in told:
        if one.gpus and one.gpus[0].driver != usual:
            yield Finding(
                where=one.node,
                says=f"driver {one.gpus[0].driver}, and {usual} elsewhere",
                remedy="name one machine image for all workers in the cluster file",
                wrong=False,
            )


def _disks(one: NodeFacts) -> Iterator[Finding]:
    for disk in one.disks:
        if disk.free < SPARE:
            yield Finding(
                where=one.node,
                says=f"{disk.free:.1f} GiB of {disk.size:.0f} are free where {disk.of} is "
                f"({disk.path})",
                remedy=_room(disk),
                wrong=disk.free < LITTLE,
            )


def _room(disk: Disk) -> str:
    if disk.of == "Ray":
        return "make room there, or name another folder with RAY_TMPDIR"
    return "make room there" if disk.of == "home" else "make room there, or name another place"


def _clock(one: NodeFacts) -> Iterator[Finding]:
    """What is off for certain: more than the time that asking took could explain."""
    off = abs(one.offset) - one.within
    if off > DRIFT:
        direction = "ahead of" if one.offset > 0 else "behind"
        yield Finding(
            where=one.node,
            says=f"its clock is {abs(one.offset):.0f} s {direction} the driver's",
            remedy="have it set by NTP (`timedatectl set-ntp true`): object stores refuse a clock "
            "that is minutes off",
            wrong=off > CLOCK,
        )


def _files(one: NodeFacts, files: str | None) -> Iterator[Finding]:
    if files and one.files:
        yield Finding(
            where=one.node,
            says=f"can't keep files at {files}: {one.files}",
            remedy="check the address, and that the node's profile or account may list, read, "
            "write and delete there",
        )


def _token(where: str, token: Token, *, cluster: bool) -> Iterator[Finding]:
    needed = token.mode == "token" or (cluster and token.mode == "")
    if needed and not token.found:
        yield Finding(where=where, says="there is no token for Ray", remedy=GENERATE)
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


def _modes(told: Sequence[NodeFacts]) -> Iterator[Finding]:
    if len(told) < 2:
        return
    for one in told:
        if one.token.mode == "token":
            continue
        alone = any(other.token.mode == "token" for other in told)
        yield Finding(
            where=one.node,
            says="Ray runs there without RAY_AUTH_MODE=token"
            + (", and with it elsewhere" if alone else ": whoever reaches its ports may run code"),
            remedy="set it in every `ray start` of the cluster file, and `ray up` again",
            wrong=alone,
        )
