"""What `sabtune doctor` found, on one screen: the nodes side by side, then what is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.cluster.doctor import HealthCheck
from sabtune.cluster.findings import Finding
from sabtune.cluster.node_facts import SHOWN, NodeFacts
from sabtune.wording import counted

WIDE = 4
"""So many kinds of node stand side by side; more of them come below."""


def health_page(findings: HealthCheck) -> RenderableType:
    """The whole page."""
    nodes = findings.nodes
    title = f"The cluster, {counted(len(nodes), 'node')}" if findings.cluster else "This machine"
    parts: list[RenderableType] = [Text(title)]
    kinds = _kinds([one for one in nodes if not one.unreachable])
    for first in range(0, len(kinds), WIDE):
        parts += [_table(kinds[first : first + WIDE]), Text("")]
    return Group(*parts, findings_page(findings.findings))


def findings_page(findings: Sequence[Finding]) -> RenderableType:
    """A line for each."""
    if not findings:
        return Text("Nothing is wrong.")
    lines = [Text(f"{'wrong' if finding.wrong else 'to know'}: {finding}") for finding in findings]
    if not any(finding.wrong for finding in findings):
        lines.append(Text("Nothing is wrong."))
    return Group(*lines)


def _kinds(nodes: Sequence[NodeFacts]) -> list[list[NodeFacts]]:
    """Nodes of which all but disks and clocks are the same, together."""
    kinds: dict[str, list[NodeFacts]] = {}
    for one in nodes:
        kinds.setdefault(str([one.head, *_facts(one).values()]), []).append(one)
    return list(kinds.values())


def _facts(one: NodeFacts) -> dict[str, str]:
    gpus = ", ".join(
        f"{sum(other == gpu for other in one.gpus)} {gpu.name}, {gpu.memory:.0f} GiB"
        for gpu in dict.fromkeys(one.gpus)
    )
    drivers = ", ".join(dict.fromkeys(gpu.driver for gpu in one.gpus))
    facts: dict[str, str] = {name: one.versions.get(name) or "none" for name in SHOWN}
    facts |= {"CUDA": one.cuda or "none", "driver": drivers or "none", "GPUs": gpus or "none"}
    return facts | {"token": _token(one)}


def _token(one: NodeFacts) -> str:
    if one.token.mode == "disabled":
        return "not asked for"
    where = one.token.found or "none"
    bits = f" ({one.token.bits:03o})" if one.token.bits is not None else ""
    return f"{where}{bits}" + ("" if one.token.mode else ", mode not set")


def _table(kinds: Sequence[Sequence[NodeFacts]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for kind in kinds:
        names = kind[0].node + (f" and {len(kind) - 1} alike" if len(kind) > 1 else "")
        table.add_column(names + (", the head" if kind[0].head else ""), overflow="fold")
    facts = [_facts(kind[0]) for kind in kinds]
    for name in facts[0]:
        table.add_row(name, *(fact[name] for fact in facts))
    for of in dict.fromkeys(disk.of for kind in kinds for disk in kind[0].disks):
        table.add_row(f"free: {of}", *(_free(kind, of) for kind in kinds))
    table.add_row("clock", *(_clock(kind) for kind in kinds))
    return table


def _free(kind: Sequence[NodeFacts], of: str) -> str:
    """The least that one of them has."""
    disks = [disk for one in kind for disk in one.disks if disk.of == of]
    least = min(disks, key=lambda disk: disk.free, default=None)
    return f"{least.free:.0f} of {least.size:.0f} GiB" if least else ""


def _clock(kind: Sequence[NodeFacts]) -> str:
    """The one that is off most."""
    off = max(kind, key=lambda one: abs(one.offset))
    return f"{off.offset:+.2f} s ± {off.within:.2f}"
