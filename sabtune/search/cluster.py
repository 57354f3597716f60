"""Ray: found or started, and kept quiet."""

from __future__ import annotations

import logging
import os
import platform
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sabtune.errors import ClusterError


class _Log(logging.FileHandler):
    """What can't be written, as on a full disk, is lost in silence: Python would tell at length."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextmanager
def some_ray(log: Path) -> Iterator[str]:
    """The Ray of the cluster that this process is on; where it is on none, one of our own on this
    machine, on loopback. Quiet: what it logs goes to the file `log`.

    Gives what a person is told of the cluster; "" of our own. Raises ClusterError if the cluster
    doesn't let us in.
    """
    address = cluster_address()
    logger = logging.getLogger("ray")
    handler = _Log(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, AuthenticationError) as problem:
        if address is None:
            raise
        raise ClusterError(
            f"the cluster at {address} doesn't let us in "
            f"({' '.join(str(problem).split())[:300]}): sabtune doctor tells more"
        ) from None
    logger.handlers = [handler]
    try:
        yield _words(address) if address else ""
    finally:
        ray.shutdown()
        logger.handlers = []
        handler.close()


def cluster_address() -> str | None:
    """Of the cluster that this process is on: a job of it, or on a machine of it.

    `ray start` notes it, and nothing else does: the Ray that another search has made for itself is
    never found. A note that is left from a cluster that is gone leads nowhere.
    """
    named = os.environ.get("RAY_ADDRESS")
    if named:
        return named
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108
    try:
        address = note.read_text().strip()
        ours = note.stat().st_uid == os.getuid()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return address if ours else None
    except (OSError, ValueError):
        return None


def _words(address: str) -> str:
    """Where it is and what it has now."""
    nodes = _living()
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    counts = ((len(nodes), "node"), (have.get("CPU", 0), "CPU"), (have.get("GPU", 0), "GPU"))
    has = ", ".join(f"{count:g} {name}{'s' * (count != 1)}" for count, name in counts)
    return f"On the cluster at {address}: {has}"


def _living() -> list[str]:
    """The ids of its nodes, the first of them ours."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    own = ray.get_runtime_context().get_node_id()
    living = [str(node["NodeID"]) for node in nodes if node["Alive"]]
    return sorted(living, key=lambda node: (node != own, node))


PATIENCE = 60.0
"""Seconds that a node has to say whether it sees a folder; one that is slower isn't waited for."""


def check_shared(folder: Path) -> None:
    """Raises ClusterError unless the nodes that are there see this folder's files."""
    _, *others = _living()
    if not others:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-by-all-") as probe:
        asked = [_asked(node, probe.name) for node in others]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=PATIENCE)
        blind = [name for name, sees in ray.get(answered) if not sees]
    if blind:
        raise ClusterError(
            f"{', '.join(sorted(blind))} of the cluster can't see the files in {folder}: "
            "give --files a folder that all machines share, or s3://BUCKET/PREFIX"
        )


def _asked(node: str, path: str) -> ray.ObjectRef[tuple[str, bool]]:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return _sees.options(num_cpus=0, scheduling_strategy=there).remote(path)


@ray.remote
def _sees(path: str) -> tuple[str, bool]:
    return platform.node(), Path(path).exists()
