"""Ray: found or started, and kept quiet."""

from __future__ import annotations

import gc
import logging
import os
import platform
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        with left_in_peace():
            _join(address)
            logger.handlers = [handler]
            yield _words(address) if address else ""
    finally:
        logger.handlers = []
        handler.close()


def _join(address: str | None) -> None:
    """The cluster at an address, or else a Ray of our own."""
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


@contextmanager
def left_in_peace() -> Iterator[None]:
    """Shuts Ray down at the end, while no thread collects garbage.

    Ray ends the whole process if a reference to something of its own is let go of just then, and
    Python's collector does that in whichever thread it happens to run. So it is waited for, what is
    garbage goes while Ray is there, and the collector rests until Ray is gone.
    """
    idle = threading.Event()
    idle.set()

    def collecting(phase: str, _: dict[str, int]) -> None:
        idle.clear() if phase == "start" else idle.set()

    gc.callbacks.append(collecting)
    try:
        yield
    finally:
        gc.disable()
        idle.wait()
        gc.collect()
        try:
            ray.shutdown()
        finally:
            gc.enable()
            gc.callbacks.remove(collecting)


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
    nodes = living()
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    counts = ((len(nodes), "node"), (have.get("CPU", 0), "CPU"), (have.get("GPU", 0), "GPU"))
    has = ", ".join(f"{count:g} {name}{'s' * (count != 1)}" for count, name in counts)
    return f"On the cluster at {address}: {has}"


def living() -> list[dict[str, Any]]:
    """Its nodes as Ray tells of them, the first of them ours."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    own = ray.get_runtime_context().get_node_id()
    return sorted(alive, key=lambda node: (node["NodeID"] != own, node["NodeManagerAddress"]))


def there(node: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task that runs on this node and takes no room."""
    pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return {"num_cpus": 0, "scheduling_strategy": pinned}


PATIENCE = 60.0
"""Seconds that a node has to say whether it sees a folder; one that is slower isn't waited for."""


def check_shared(folder: Path) -> None:
    """Raises ClusterError unless the nodes that are there see this folder's files."""
    _, *others = living()
    if not others:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-by-all-") as probe:
        asked = [_sees.options(**there(node)).remote(probe.name) for node in others]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=PATIENCE)
        blind = [name for name, sees in ray.get(answered) if not sees]
    if blind:
        raise ClusterError(
            f"{', '.join(sorted(blind))} of the cluster can't see the files in {folder}: "
            "give --files a folder that all machines share, or s3://BUCKET/PREFIX"
        )


@ray.remote
def _sees(path: str) -> tuple[str, bool]:
    return platform.node(), Path(path).exists()
