"""A Ray cluster whose nodes are all this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray.cluster_utils import Cluster

Nodes = Sequence[dict[str, Any]]


@contextmanager
def local_cluster(nodes: Nodes) -> Iterator[Any]:
    """Run a cluster of nodes that declare these resources; the first is the head.

    Unlike `ray start`, this doesn't record the cluster's address, so other tests don't find it.
    """
    cluster: Any = Cluster()
    try:
        with patch("ray._private.utils.write_ray_address"):
            for node in nodes:
                cluster.add_node(object_store_memory=80 * 2**20, **node)
        yield cluster
    finally:
        cluster.shutdown()
