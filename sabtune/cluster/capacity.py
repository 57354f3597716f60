"""What can be placed at once: on the nodes that live, and on those that a cluster may yet bring."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from sabtune.cluster.cluster_file import BOOTSTRAP, ClusterFile, NodeType
from sabtune.errors import ResourceError
from sabtune.study.definition import AUTO, Resources, words

UNIT = 10_000
"""The parts of a GPU that Ray counts in."""

ARRIVAL = 300.0
"""Seconds that a search waits for machines that a cluster was given by address, and Ray is still
to be started on."""

HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head."""


def to_a_gpu(gpus: float) -> int:
    """How many trials that ask for this fraction share one GPU; Ray splits none over two."""
    return UNIT // int(gpus * UNIT + 1e-6)


def fit(resources: Resources, has: Mapping[str, float]) -> int:
    """How many trials fit at once on a node that has this."""
    assert resources.gpus != AUTO, "sharing.placed says first how many share a GPU"
    by_cpus, gpus = int(has.get("CPU", 0) // resources.cpus), int(has.get("GPU", 0))
    if not resources.gpus:
        return by_cpus
    whole = resources.gpus >= 1
    by_gpus = gpus // int(resources.gpus) if whole else gpus * to_a_gpu(resources.gpus)
    return min(by_cpus, by_gpus)


def _least(resources: Resources) -> Resources:
    """In numbers: "auto" is a GPU, of which it isn't known yet how many share it."""
    return dataclasses.replace(resources, gpus=1.0) if resources.gpus == AUTO else resources


@dataclass(frozen=True, kw_only=True)
class Node:
    """One that lives."""

    name: str
    resources: Mapping[str, float]
    head: bool = False


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Nodes that live and, where an autoscaler runs, the file that says which may come.

    Without a node that lives it is what the file promises, head and all.
    """

    live: tuple[Node, ...] = ()
    file: ClusterFile | None = None

    @property
    def coming(self) -> list[tuple[NodeType, int]]:
        """The types and how many there may be of each. Once the cluster has all its nodes, those of
        which it isn't known what they have are none any more that could surprise."""
        types = self.file.node_types if self.file else ()
        counts = [(of, of.most + (of.head and not self.live)) for of in types]
        return [(of, most) for of, most in counts if most and (of.resources or self._missing > 0)]

    @property
    def _missing(self) -> int:
        """The nodes that the cluster may still start."""
        assert self.file is not None
        workers = sum(not node.head for node in self.live)
        return self.file.together + (not self.live) - workers

    @property
    def unknown(self) -> bool:
        """Whether nodes may come of which the file doesn't say what they have: machines that it
        names by address have no types in it, before `ray up` has read it."""
        if self.file is not None and not self.file.node_types:
            return self._missing > 0
        return any(not of.resources for of, _ in self.coming)

    @property
    def has_gpus(self) -> bool:
        """Whether a node that lives, or one that may come, is known to have a GPU."""
        return any(has.get("GPU", 0) >= 1 for _, has in self._known())

    def _known(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        """What there is or may be, of which it is known what it has, with a name for it."""
        alone = len(self.live) == 1 and self.file is None
        for node in self.live:
            yield ("this machine" if alone else f"the largest node, {node.name},"), node.resources
        for of, _ in self.coming:
            if of.resources:
                yield f"the largest node type, {of.name},", of.resources

    def fits(self, resources: Resources) -> bool:
        """Whether a trial fits on a node that lives, or on one that is known to come if need be."""
        return any(fit(resources, has) for _, has in self._known())

    def most_by_cpus(self, cpus: int) -> int | None:
        """How many trials of so many CPUs go to one GPU at most, where there are most CPUs to each;
        None if no node with a GPU is known."""
        having = [has for _, has in self._known() if has.get("GPU", 0) >= 1]
        counts = [math.ceil(has.get("CPU", 0) // cpus / int(has["GPU"])) for has in having]
        return max(counts, default=None)

    def places(self, resources: Resources) -> int:
        """How many trials fit at once, nodes counted that may yet come.

        A node of which nothing is known is taken for one like the largest that lives.
        """
        heads = [fit(resources, node.resources) for node in self.live if node.head]
        lives = [fit(resources, node.resources) for node in self.live if not node.head]
        like = max([*heads, *lives, 1])
        sizes = [
            (fit(resources, of.resources) if of.resources else like, most)
            for of, most in self.coming
        ]
        may_be, left = 0, self.file.together + (not self.live) if self.file else 0
        for size, most in sorted(sizes, key=lambda of: -of[0]):
            taken = min(most, left)
            may_be, left = may_be + taken * size, left - taken
        return sum(heads) + max(sum(lives), may_be)

    def check(self, resources: Resources) -> None:
        """Raises ResourceError if a trial fits on no node that lives or may come."""
        if self.unknown or self.fits(resources):
            return

        def size(of: tuple[str, Mapping[str, float]]) -> tuple[float, float]:
            cpus, gpus = of[1].get("CPU", 0.0), of[1].get("GPU", 0.0)
            return (gpus, cpus) if resources.gpus else (cpus, gpus)

        assert resources.gpus != AUTO
        name, has = max(self._known(), key=size, default=("this cluster", {}))
        where = f"give {self.file.path} a larger type" if self.file else "use a larger machine"
        raise ResourceError(
            f"a trial asks for {words(resources.cpus, resources.gpus)} and {name} has "
            f"{words(has.get('CPU', 0), has.get('GPU', 0))}: "
            f"lower resources in the STUDY, or {where}"
        )

    def check_asked(self, resources: Resources) -> Resources:
        """What a study's trials ask for at least, here: "auto" of one GPU; up to one GPU of none,
        where there is none. Raises ResourceError if that fits on no node."""
        least = _least(resources)
        if float(least.gpus) <= 1 and not self.has_gpus and not self.unknown:
            least = dataclasses.replace(least, gpus=0.0)
        self.check(least)
        return least


def check_cluster(file: ClusterFile, resources: Resources) -> None:
    """Whether a cluster that isn't up yet could ever hold a trial. Raises ResourceError if not."""
    Capacity(file=file).check_asked(resources)


def this_machine() -> Capacity:
    """What Ray would find on this machine."""
    has = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    return Capacity(live=(Node(name="this machine", resources=has, head=True),))


def capacity(bootstrap: Path = BOOTSTRAP) -> Capacity:
    """What the Ray has that this process is connected to."""
    nodes = tuple(
        Node(
            name=node["NodeManagerAddress"],
            resources=node["Resources"],
            head=HEAD in node["Resources"],
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    )
    autoscaled = not _ours() and bootstrap.expanduser().is_file()
    return Capacity(live=nodes, file=ClusterFile.load(bootstrap) if autoscaled else None)


def _ours() -> bool:
    """Whether this process has started the Ray itself: a head's file tells nothing about that."""
    node: Any = ray._private.worker._global_node
    return bool(node and node.is_head())


def settled(
    resources: Resources,
    look: Callable[[], Capacity] = capacity,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> Capacity:
    """The capacity, once a trial fits or no unknown node can come; after a while none is expected.

    That is where machines are given by address: nobody knows what they have before Ray runs there.
    """
    asked = _least(resources)
    found, waited = look(), 0.0
    while found.unknown and not found.fits(asked):
        if waited >= ARRIVAL:
            return dataclasses.replace(found, file=None)
        wait(1.0)
        found, waited = look(), waited + 1.0
    return found
