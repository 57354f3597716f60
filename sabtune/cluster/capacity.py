"""The number of trials that fit on the live nodes and on those that a cluster may still start."""

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
from sabtune.cluster.local_ray import allocated_resources
from sabtune.errors import ResourceError
from sabtune.study.definition import AUTO, Resources, words

PARTS_PER_GPU = 10_000
"""The number of equal parts into which Ray divides a GPU."""

ARRIVAL_SECONDS = 300.0
"""Seconds that a search waits until Ray runs on machines that the cluster file lists by address."""

HEAD_RESOURCE = "node:__internal_head__"
"""The resource with which Ray marks the head."""


def to_a_gpu(gpus: float) -> int:
    """Return how many trials fit on one GPU if each uses the fraction `gpus` of it.

    Ray never splits such a trial over two GPUs.
    """
    return PARTS_PER_GPU // int(gpus * PARTS_PER_GPU + 1e-6)


def fit(resources: Resources, available: Mapping[str, float]) -> int:
    """Return how many trials fit at once on a node with these resources."""
    assert resources.gpus != AUTO, "placement.placed first resolves auto to a number"
    by_cpus, gpus = int(available.get("CPU", 0) // resources.cpus), int(available.get("GPU", 0))
    if not resources.gpus:
        return by_cpus
    whole = resources.gpus >= 1
    by_gpus = gpus // int(resources.gpus) if whole else gpus * to_a_gpu(resources.gpus)
    return min(by_cpus, by_gpus)


def _least(resources: Resources) -> Resources:
    """Return the resources, with one GPU in place of "auto"."""
    return dataclasses.replace(resources, gpus=1.0) if resources.gpus == AUTO else resources


@dataclass(frozen=True, kw_only=True)
class Node:
    """A live node. head: whether it is the head of the cluster."""

    name: str
    resources: Mapping[str, float]
    head: bool = False


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The live nodes, and the nodes that an autoscaler may still start.

    file: the autoscaler's cluster file; None without an autoscaler. Without a live node, the
    capacity is that of the whole cluster file, including its head.
    """

    live: tuple[Node, ...] = ()
    file: ClusterFile | None = None

    @property
    def coming(self) -> list[tuple[NodeType, int]]:
        """The node types that may start, with the largest number of nodes of each type.

        Types whose resources are unknown are left out once the cluster has all its nodes.
        """
        types = self.file.node_types if self.file else ()
        counts = [(kind, kind.most + (kind.head and not self.live)) for kind in types]
        return [
            (kind, most) for kind, most in counts if most and (kind.resources or self._missing > 0)
        ]

    @property
    def _missing(self) -> int:
        """The number of nodes that the cluster may still start."""
        assert self.file is not None
        workers = sum(not node.head for node in self.live)
        return self.file.most_workers + (not self.live) - workers

    @property
    def unknown(self) -> bool:
        """Whether nodes may start whose resources the cluster file doesn't state.

        Machines that the file lists by address have no node types before `ray up` reads it.
        """
        if self.file is not None and not self.file.node_types:
            return self._missing > 0
        return any(not kind.resources for kind, _ in self.coming)

    @property
    def has_gpus(self) -> bool:
        """Whether a live node, or one that may start, is known to have a GPU."""
        return any(available.get("GPU", 0) >= 1 for _, available in self._known_resources())

    def _known_resources(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        """Yield a description and the resources of each node and node type, if they are known."""
        alone = len(self.live) == 1 and self.file is None
        for node in self.live:
            yield ("this machine" if alone else f"the largest node, {node.name},"), node.resources
        for kind, _ in self.coming:
            if kind.resources:
                yield f"the largest node type, {kind.name},", kind.resources

    def fits(self, resources: Resources) -> bool:
        """Return whether a trial fits on a live node, or on a known node that may start."""
        return any(fit(resources, available) for _, available in self._known_resources())

    def most_by_cpus(self, cpus: int) -> int | None:
        """Return the largest number of trials per GPU for which a node has enough CPUs.

        cpus: the number of CPUs per trial. Only nodes with a GPU count. Returns None if no
        such node is known.
        """
        with_gpus = [
            available for _, available in self._known_resources() if available.get("GPU", 0) >= 1
        ]
        counts = [math.ceil(node.get("CPU", 0) // cpus / int(node["GPU"])) for node in with_gpus]
        return max(counts, default=None)

    def places(self, resources: Resources) -> int:
        """Return how many trials fit at once, including nodes that may still start.

        A node with unknown resources counts like the largest live node.
        """
        heads = [fit(resources, node.resources) for node in self.live if node.head]
        workers = [fit(resources, node.resources) for node in self.live if not node.head]
        largest = max([*heads, *workers, 1])
        sizes = [
            (fit(resources, kind.resources) if kind.resources else largest, most)
            for kind, most in self.coming
        ]
        by_file, nodes_left = 0, self.file.most_workers + (not self.live) if self.file else 0
        for size, most in sorted(sizes, key=lambda pair: -pair[0]):
            nodes = min(most, nodes_left)
            by_file, nodes_left = by_file + nodes * size, nodes_left - nodes
        return sum(heads) + max(sum(workers), by_file)

    def check(self, resources: Resources) -> None:
        """Raise ResourceError if a trial fits neither on a live node nor on one that may start."""
        if self.unknown or self.fits(resources):
            return

        def size(node: tuple[str, Mapping[str, float]]) -> tuple[float, float]:
            cpus, gpus = node[1].get("CPU", 0.0), node[1].get("GPU", 0.0)
            return (gpus, cpus) if resources.gpus else (cpus, gpus)

        assert resources.gpus != AUTO
        name, available = max(self._known_resources(), key=size, default=("this cluster", {}))
        remedy = f"give {self.file.path} a larger type" if self.file else "use a larger machine"
        raise ResourceError(
            f"a trial asks for {words(resources.cpus, resources.gpus)} and {name} has "
            f"{words(available.get('CPU', 0), available.get('GPU', 0))}: "
            f"lower resources in the STUDY, or {remedy}"
        )

    def check_asked(self, resources: Resources) -> Resources:
        """Return the minimum resources that a trial needs on these nodes, and check that they fit.

        "auto" needs one GPU. Where no node has a GPU, a request for at most one GPU needs none.
        Raises ResourceError if a trial fits on no node.
        """
        least = _least(resources)
        if float(least.gpus) <= 1 and not self.has_gpus and not self.unknown:
            least = dataclasses.replace(least, gpus=0.0)
        self.check(least)
        return least


def check_cluster(file: ClusterFile, resources: Resources) -> None:
    """Raise ResourceError if no trial can ever fit on a cluster that isn't running yet."""
    Capacity(file=file).check_asked(resources)


def this_machine() -> Capacity:
    """Return the capacity that Ray would find on this machine."""
    cpus, gpus = allocated_resources()
    cpus = (os.cpu_count() or 1) if cpus is None else cpus
    gpus = torch.cuda.device_count() if gpus is None else gpus
    available = {"CPU": float(cpus), "GPU": float(gpus)}
    return Capacity(live=(Node(name="this machine", resources=available, head=True),))


def capacity(bootstrap: Path = BOOTSTRAP) -> Capacity:
    """Return the capacity of the Ray that this process is connected to.

    bootstrap: the path of the cluster file, which exists on a head that `ray up` started.
    """
    nodes = tuple(
        Node(
            name=node["NodeManagerAddress"],
            resources=node["Resources"],
            head=HEAD_RESOURCE in node["Resources"],
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    )
    autoscaled = not _started_here() and bootstrap.expanduser().is_file()
    return Capacity(live=nodes, file=ClusterFile.load(bootstrap) if autoscaled else None)


def _started_here() -> bool:
    """Return whether this process started Ray, so that the head's cluster file doesn't apply."""
    node: Any = ray._private.worker._global_node
    return bool(node and node.is_head())


def settled(
    resources: Resources,
    look: Callable[[], Capacity] = capacity,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> Capacity:
    """Wait until a trial fits or no node of unknown resources can start; return the capacity.

    The resources of machines that the cluster file lists by address are unknown until Ray runs
    there. After ARRIVAL_SECONDS, only the live nodes count. look: returns the current capacity.
    wait: sleeps for a number of seconds.
    """
    least = _least(resources)
    available, waited = look(), 0.0
    while available.unknown and not available.fits(least):
        if waited >= ARRIVAL_SECONDS:
            return dataclasses.replace(available, file=None)
        wait(1.0)
        available, waited = look(), waited + 1.0
    return available
