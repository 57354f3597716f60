"""The output of `sabtune doctor`: the nodes side by side, then the findings."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.cluster.doctor import HealthCheck
from sabtune.cluster.findings import Finding
from sabtune.cluster.node_facts import BYTES_PER_GIB, SHOWN, NodeFacts
from sabtune.cluster.slurm import Allocation
from sabtune.terminal.styles import styled
from sabtune.wording import counted

KINDS_PER_TABLE = 4
"""The maximum number of kinds of nodes in one table. Nodes of one kind share a column."""


def health_page(health: HealthCheck) -> RenderableType:
    """Return the output of `sabtune doctor`: tables of the nodes, then the findings."""
    nodes = health.nodes
    title = f"The cluster, {counted(len(nodes), 'node')}" if health.cluster else "This machine"
    parts: list[RenderableType] = [Text(title)]
    kinds = _kinds([node for node in nodes if not node.unreachable])
    for first in range(0, len(kinds), KINDS_PER_TABLE):
        parts += [_table(kinds[first : first + KINDS_PER_TABLE]), Text("")]
    return Group(*parts, findings_page(health.findings))


def findings_page(findings: Sequence[Finding]) -> RenderableType:
    """Return one line for each finding, or the line "Nothing is wrong."."""
    lines = [
        Text.assemble(styled("wrong" if finding.wrong else "note"), f": {finding}")
        for finding in findings
    ]
    if not any(finding.wrong for finding in findings):
        lines.append(styled("Nothing is wrong."))
    return Group(*lines)


def _kinds(nodes: Sequence[NodeFacts]) -> list[list[NodeFacts]]:
    """Group the nodes by kind. Nodes of one kind differ only in their names, disks and clocks."""
    kinds: dict[str, list[NodeFacts]] = {}
    for node in nodes:
        kinds.setdefault(str([node.head, *_facts(node).values()]), []).append(node)
    return list(kinds.values())


def _facts(node: NodeFacts) -> dict[str, str]:
    gpus = ", ".join(
        f"{sum(other == gpu for other in node.gpus)} {gpu.name}, {gpu.memory:.0f} GiB"
        for gpu in dict.fromkeys(node.gpus)
    )
    drivers = ", ".join(dict.fromkeys(gpu.driver for gpu in node.gpus))
    facts: dict[str, str] = {name: node.versions.get(name) or "none" for name in SHOWN}
    facts |= {"CUDA": node.cuda or "none", "driver": drivers or "none", "GPUs": gpus or "none"}
    facts |= {"token": _token(node)}
    return facts | {"Slurm": _job(node.slurm)} if node.slurm else facts


def _job(job: Allocation) -> str:
    """Return what a Slurm job has on a node."""
    counts = (("CPU", job.cpus), ("GPU", job.gpus))
    parts = [counted(count, name) for name, count in counts if count is not None]
    if job.memory is not None:
        parts.append(f"{job.memory / BYTES_PER_GIB:.1f} GiB")
    return f"job {job.job}: {', '.join(parts)}"


def _token(node: NodeFacts) -> str:
    if node.token.mode == "disabled":
        return "not required"
    where = node.token.found or "none"
    bits = f" ({node.token.bits:03o})" if node.token.bits is not None else ""
    return f"{where}{bits}" + ("" if node.token.mode else ", mode not set")


def _table(kinds: Sequence[Sequence[NodeFacts]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for kind in kinds:
        names = kind[0].node + (f" and {len(kind) - 1} alike" if len(kind) > 1 else "")
        table.add_column(names + (", the head" if kind[0].head else ""), overflow="fold")
    facts = [_facts(kind[0]) for kind in kinds]
    for name in facts[0]:
        table.add_row(name, *(fact.get(name, "") for fact in facts))
    for place in dict.fromkeys(disk.of for kind in kinds for disk in kind[0].disks):
        table.add_row(f"free: {place}", *(_free(kind, place) for kind in kinds))
    table.add_row("clock", *(_clock(kind) for kind in kinds))
    return table


def _free(kind: Sequence[NodeFacts], place: str) -> str:
    """Return the least free space that a node of this kind has for `place`."""
    disks = [disk for node in kind for disk in node.disks if disk.of == place]
    least = min(disks, key=lambda disk: disk.free, default=None)
    return f"{least.free:.0f} of {least.size:.0f} GiB" if least else ""


def _clock(kind: Sequence[NodeFacts]) -> str:
    """Return the largest clock offset of the nodes, with its uncertainty."""
    node = max(kind, key=lambda node: abs(node.offset))
    return f"{node.offset:+.2f} s ± {node.within:.2f}"
