"""Ray: found or started, and kept quiet."""

from __future__ import annotations

import gc
import logging
import os
import platform
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RpcError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sabtune import interrupts
from sabtune.cluster.local_ray import forward_no_credentials, prepare_token, private_folder, start
from sabtune.cluster.ray_watch import (
    CLUSTER_PACE,
    PACE,
    Head,
    Processes,
    RayLostError,
    Watch,
    watched,
)
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
    doesn't let us in or no Ray starts here, RayLostError once it is gone.
    """
    address = cluster_address()
    forward_no_credentials()
    prepare_token()
    with quiet(log) as attach:
        if address is None:
            with private_folder() as folder:
                with interrupts.kept():
                    start(folder)
                attach()
                with connected(Processes(), PACE):
                    yield ""
        else:
            with interrupts.kept():
                join(address)
            attach()
            with connected(Head(address), CLUSTER_PACE):
                yield _words(address)


@contextmanager
def quiet(log: Path) -> Iterator[Callable[[], None]]:
    """Lead to a file what Ray logs and prints in this process, its C++ included.

    Gives what is to be called after `ray.init`, which takes the handlers away.
    """
    logger = logging.getLogger("ray")
    handler = _Log(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers, printing = logger.handlers, ray._private.worker.print_to_stdstream

    def note(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            logger.info("%s: %s", data.get("pid"), line)

    def attach() -> None:
        logger.handlers = [handler]

    ray._private.worker.print_to_stdstream = note
    attach()
    try:
        with led_away(log):
            yield attach
    finally:
        ray._private.worker.print_to_stdstream = printing
        logger.handlers = handlers
        handler.close()


@contextmanager
def led_away(log: Path) -> Iterator[None]:
    """Lead what is written to file descriptor 2 to a file, unless it is Python's stderr."""
    try:
        is_ours = sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        is_ours = True
    if is_ours:
        yield
        return
    before, file = os.dup(2), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


@contextmanager
def connected(there: Processes | Head, pace: float) -> Iterator[None]:
    """Watch the Ray that was started or joined, and leave it at the end."""
    watch = Watch(there.look, pace)
    try:
        with (
            interrupts.last_act(there.end),
            watched(watch),
            left_in_peace(there.look, watch.leave),
        ):
            yield
    finally:
        there.end()


def join(address: str) -> None:
    """Connects to the cluster at an address. Raises ClusterError if that can't be done."""
    check_answers(address)
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
    except Exception as problem:
        raise ClusterError(
            f"the cluster at {address} doesn't let us in "
            f"({' '.join(str(problem).split())[:300]}): sabtune doctor tells more"
        ) from None


def check_answers(address: str) -> None:
    """Raises ClusterError unless the address is HOST:PORT and the head of a cluster answers there;
    Ray would try for a quarter of an hour."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}: give the head's HOST:PORT, such as 10.0.0.2:6379, or "
            "unset it"
        )
    remedy = "see that the cluster is up there, or unset RAY_ADDRESS to search on this machine"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass
        GcsClient(address=address)
    except (OSError, UnicodeError) as problem:
        words = getattr(problem, "strerror", None) or str(problem)
        raise ClusterError(f"nothing answers at {address} ({words}): {remedy}") from None
    except RpcError as problem:
        words = " ".join(str(problem).split())[:300]
        raise ClusterError(f"no Ray answers at {address} ({words}): {remedy}") from None
    except Exception as problem:
        raise ClusterError(
            f"the cluster at {address} doesn't let us in "
            f"({' '.join(str(problem).split())[:300]}): sabtune doctor tells more"
        ) from None


@contextmanager
def left_in_peace(
    gone: Callable[[], str] = str, leave: Callable[[], object] = str
) -> Iterator[None]:
    """Shut Ray down at the end, while no thread collects garbage.

    Not where `gone` says that it has come to an end, since it would wait for what isn't there.
    leave: called before it is shut down.

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
            if isinstance(sys.exception(), RayLostError) or gone():
                interrupts.abandon()
            else:
                leave()
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
        return None if named == "local" else named
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
