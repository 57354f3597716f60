"""Connections to a cluster's Ray or a private one, with Ray's output in a log file."""

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
from sabtune.cluster import RAY_IS_OLDER
from sabtune.cluster.local_ray import forward_no_credentials, prepare_token, private_folder, start
from sabtune.cluster.ray_watch import (
    CLUSTER_PACE_SECONDS,
    PACE_SECONDS,
    Head,
    Processes,
    RayLostError,
    Watch,
    watched,
)
from sabtune.errors import ClusterError


class _Log(logging.FileHandler):
    """A log handler that silently drops messages that it can't write, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextmanager
def some_ray(log: Path, step: Callable[[str], object] = str) -> Iterator[str]:
    """Join the cluster that this process is on, or start a private Ray on this machine.

    log: the file that receives Ray's log. step: called with which of the two begins. Yields a
    description of the cluster, or "" for a private Ray. Raises ClusterError if the cluster refuses
    the connection, if Ray doesn't start, or if the program imported Ray first. Raises RayLostError
    within the context once Ray is lost.
    """
    if RAY_IS_OLDER:
        raise ClusterError(
            "Ray was imported without authentication before sabtune could turn it on: set "
            "RAY_AUTH_MODE=token in the environment of Python, or import ray after the first search"
        )
    address = cluster_address()
    forward_no_credentials()
    prepare_token()
    with quiet(log) as attach:
        step("Starting Ray" if address is None else f"Connecting to the cluster at {address}")
        if address is None:
            with private_folder() as folder:
                with interrupts.kept():
                    start(folder)
                attach()
                with connected(Processes(), PACE_SECONDS):
                    yield ""
        else:
            with interrupts.kept():
                join(address)
            attach()
            with connected(Head(address), CLUSTER_PACE_SECONDS):
                yield _description(address)


@contextmanager
def quiet(log: Path) -> Iterator[Callable[[], None]]:
    """Send what Ray logs and prints in this process, including its C++ code, to a file.

    Yields a function that attaches the file to Ray's logger again. Call it after `ray.init`, which
    removes the logger's handlers.
    """
    logger = logging.getLogger("ray")
    handler = _Log(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers, print_lines = logger.handlers, ray._private.worker.print_to_stdstream

    def log_lines(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"]:
            logger.info("%s: %s", data.get("pid"), line)

    def attach() -> None:
        logger.handlers = [handler]

    ray._private.worker.print_to_stdstream = log_lines
    attach()
    try:
        with redirected_stderr(log):
            yield attach
    finally:
        ray._private.worker.print_to_stdstream = print_lines
        logger.handlers = handlers
        handler.close()


@contextmanager
def redirected_stderr(log: Path) -> Iterator[None]:
    """Redirect file descriptor 2 to a file, unless Python's stderr uses it."""
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
def connected(watched_ray: Processes | Head, pace: float) -> Iterator[None]:
    """Watch a private Ray or a cluster within the context, and disconnect from it at the end.

    The end of the context also ends a private Ray; a cluster keeps running. pace: seconds between
    two checks.
    """
    watch = Watch(watched_ray.look, pace)
    try:
        with (
            interrupts.last_act(watched_ray.end),
            watched(watch),
            left_in_peace(watched_ray.look, watch.leave),
        ):
            yield
    finally:
        watched_ray.end()


def join(address: str) -> None:
    """Connect to the cluster at an address. Raises ClusterError if that fails."""
    check_answers(address)
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
    except Exception as problem:
        raise _refused(address, problem) from None


def _refused(address: str, problem: Exception) -> ClusterError:
    return ClusterError(
        f"the cluster at {address} refused the connection "
        f"({' '.join(str(problem).split())[:300]}): run `sabtune doctor` for details"
    )


def check_answers(address: str) -> None:
    """Raise ClusterError unless the head of a cluster answers at an address, HOST:PORT.

    The address "auto" isn't checked. Ray itself would retry for a quarter of an hour.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}: give the head's HOST:PORT, such as 10.0.0.2:6379, or "
            "unset it"
        )
    remedy = "check that the cluster is up, or unset RAY_ADDRESS to search on this machine"
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
        raise _refused(address, problem) from None


@contextmanager
def left_in_peace(
    gone: Callable[[], str] = str, leave: Callable[[], object] = str
) -> Iterator[None]:
    """Shut Ray down at the end, while no thread collects garbage.

    gone: returns why Ray is lost, or "" while it runs. A lost Ray isn't shut down, because the
    shutdown would wait for processes that no longer exist. leave: called before the shutdown.

    Ray ends the whole process if one of its references is released during the shutdown, and
    Python's garbage collector may do that in any thread. So a running collection ends first, the
    remaining garbage is collected while Ray runs, and the collector is off during the shutdown.
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
    """Return the address of the cluster that this process is on, or None.

    RAY_ADDRESS names the cluster if it is set, as in a cluster's job; "local" stands for None.
    Otherwise, the address is in a file that `ray start` writes on this machine. A private Ray has
    no such file, so the Ray of another search is never found. The file is ignored if its cluster no
    longer runs or if another user wrote it.
    """
    from_user = os.environ.get("RAY_ADDRESS")
    if from_user:
        return None if from_user == "local" else from_user
    path = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108
    try:
        address = path.read_text().strip()
        ours = path.stat().st_uid == os.getuid()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return address if ours else None
    except (OSError, ValueError):
        return None


def _description(address: str) -> str:
    """Return a line that names the address of the connected cluster and its current resources."""
    nodes = live_nodes()
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    counts = ((len(nodes), "node"), (total.get("CPU", 0), "CPU"), (total.get("GPU", 0), "GPU"))
    resources = ", ".join(f"{count:g} {name}{'s' * (count != 1)}" for count, name in counts)
    return f"On the cluster at {address}: {resources}"


def live_nodes() -> list[dict[str, Any]]:
    """Return Ray's descriptions of the live nodes. The node of this process is first."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    own = ray.get_runtime_context().get_node_id()
    return sorted(alive, key=lambda node: (node["NodeID"] != own, node["NodeManagerAddress"]))


def pinned_options(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a Ray task that runs only on `node` and occupies no CPU."""
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return {"num_cpus": 0, "scheduling_strategy": strategy}


SHARED_CHECK_SECONDS = 60.0
"""Seconds that a node has to report whether it can read a folder; a slower node isn't checked."""


def check_shared(folder: Path) -> None:
    """Raise ClusterError unless all live nodes that answer can read the files in this folder."""
    _, *others = live_nodes()
    if not others:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".seen-by-all-") as probe:
        tasks = [_sees_file.options(**pinned_options(node)).remote(probe.name) for node in others]
        answered, _ = ray.wait(tasks, num_returns=len(tasks), timeout=SHARED_CHECK_SECONDS)
        blind = [name for name, sees in ray.get(answered) if not sees]
    if blind:
        raise ClusterError(
            f"{', '.join(sorted(blind))} of the cluster can't see the files in {folder}: "
            "give --files a folder that all machines share, or s3://BUCKET/PREFIX"
        )


@ray.remote
def _sees_file(path: str) -> tuple[str, bool]:
    """Return the name of this node, and whether it can read a file."""
    return platform.node(), Path(path).exists()
