"""Notices the end of Ray's own processes, for which Ray would have a search wait for ever."""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import ray

from sabtune import interrupts
from sabtune.cluster.local_ray import end

PACE = 1.0
"""Seconds between two looks at the processes of a Ray of our own."""

CLUSTER_PACE, CLUSTER_TIMEOUT = 5.0, 25.0
"""Seconds between two looks at a cluster, and those that it has to answer in."""

GRACE = 25.0
"""Seconds that the main thread has to leave Ray once that is gone; then the process is ended."""

SHUTDOWN_SECONDS = 120.0
"""Seconds that Ray may take to shut down after the first of its processes has ended."""

NEEDED = {"raylet", "gcs_server"}
"""The processes without which nothing runs."""


class RayLostError(BaseException):
    """Raised in the main thread wherever it is, so that nobody takes it for a trial's failure."""


class Watch:
    """A thread that looks whether Ray is there. `lost`: what has become of it, or ""."""

    def __init__(self, look: Callable[[], str], pace: float):
        self.look, self.pace = look, pace
        self.lost = ""
        self._leaving, self._left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="ray-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Expect Ray's processes to end from now on, as it is shut down."""
        self._leaving.set()

    def stop(self) -> None:
        """Look no more: Ray has been left."""
        self._left.set()
        self._thread.join(self.pace)

    def _work(self) -> None:
        words = ""
        while not words:
            if self._left.wait(self.pace):
                return
            words = self.look()
        if self._leaving.is_set():
            if not self._left.wait(SHUTDOWN_SECONDS):
                interrupts.at_once(2, f"Ray doesn't shut down; {interrupts.advice()}")
            return
        self.lost = words
        if self._left.wait(1.0):  # a signal to the whole process group ends Ray and the search
            return
        _thread.interrupt_main(signal.SIGUSR2)
        if not self._left.wait(GRACE):
            interrupts.at_once(2, f"{words}; {interrupts.advice()}")


class Processes:
    """The processes of a Ray of our own; this process may have started others before."""

    def __init__(self) -> None:
        self.node: Any = ray._private.worker._global_node
        self.all: set[psutil.Process] = set()
        self.look()

    def look(self) -> str:
        """Return what has become of Ray, "" while it is well."""
        for started in list(self.node.all_processes.values()):
            for info in started:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(info.process.pid)
                    self.all |= {process, *process.children(recursive=True)}
        for name, process in self.node.dead_processes():
            if name in NEEDED:
                return f"Ray on this machine came to an end ({name} {_how(process.returncode)})"
        return ""

    def end(self) -> None:
        """Kill those that are left."""
        end({process for process in self.all if process.is_running()})


def _how(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, as the kernel does when memory runs out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"exited with {code}"


class Head:
    """The cluster that this process has joined, at an address, and the node that it is on."""

    def __init__(self, address: str):
        self.address = address
        self.own = ray.get_runtime_context().get_node_id()
        self._asked = ThreadPoolExecutor(1, "ray-nodes")

    def look(self) -> str:
        """Return what has become of the cluster, "" while it is well."""
        try:
            nodes = self._asked.submit(ray.nodes).result(CLUSTER_TIMEOUT)
        except Exception:
            return f"the cluster at {self.address} doesn't answer any more"
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        return "" if self.own in alive else f"the cluster at {self.address} lost this machine"

    def end(self) -> None:
        """Leave the cluster's processes alone."""


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Watch Ray meanwhile. Raises RayLostError in the main thread once it is gone."""

    def raise_(number: int, frame: object) -> None:
        if watch.lost:
            raise RayLostError(watch.lost)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGUSR2, raise_) if main else None
    watch.start()
    try:
        yield
    except BaseException as problem:
        if watch.lost and not isinstance(problem, RayLostError):  # what Ray or Tune made of it
            raise RayLostError(watch.lost) from problem
        raise
    finally:
        watch.stop()
        if main:
            signal.signal(signal.SIGUSR2, before)
