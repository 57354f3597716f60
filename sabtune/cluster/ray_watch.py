"""A watch that notices when Ray's processes end. Without it, a search would wait forever."""

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
from sabtune.cluster.local_ray import kill

PACE_SECONDS = 1.0
"""Seconds between two checks of a private Ray's processes."""

CLUSTER_PACE_SECONDS, CLUSTER_TIMEOUT_SECONDS = 5.0, 25.0
"""Seconds between two checks of a cluster, and the seconds that it has to answer."""

GRACE_SECONDS = 25.0
"""Seconds that the main thread has to end its work with a lost Ray, before the process ends."""

SHUTDOWN_SECONDS = 120.0
"""Seconds that Ray may take to shut down after its first process has ended."""

NEEDED = {"raylet", "gcs_server"}
"""The processes that Ray can't run without."""


class RayLostError(BaseException):
    """The loss of Ray, raised at any point of the main thread.

    It isn't a subclass of Exception, so that no code mistakes it for the failure of a trial.
    """


class Watch:
    """A thread that checks whether Ray is running.

    look: returns why Ray is lost, or "" while it runs. pace: seconds between two checks. The
    attribute `lost` is the reason once Ray is lost, and "" before.
    """

    def __init__(self, look: Callable[[], str], pace: float):
        self.look, self.pace = look, pace
        self.lost = ""
        self._leaving, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="ray-watch", daemon=True)

    def start(self) -> None:
        """Start checking."""
        self._thread.start()

    def leave(self) -> None:
        """Expect Ray's processes to end from now on, because Ray is being shut down."""
        self._leaving.set()

    def stop(self) -> None:
        """Stop checking after Ray is shut down."""
        self._stopped.set()
        self._thread.join(self.pace)

    def _work(self) -> None:
        reason = ""
        while not reason:
            if self._stopped.wait(self.pace):
                return
            reason = self.look()
        if self._leaving.is_set():
            if not self._stopped.wait(SHUTDOWN_SECONDS):
                interrupts.at_once(2, f"Ray doesn't shut down; {interrupts.advice()}")
            return
        self.lost = reason
        if self._stopped.wait(1.0):  # a signal to the process group ended Ray and the search
            return
        _thread.interrupt_main(signal.SIGUSR2)
        if not self._stopped.wait(GRACE_SECONDS):
            interrupts.at_once(2, f"{reason}; {interrupts.advice()}")


class Processes:
    """The processes of a private Ray, without other children of this process."""

    def __init__(self) -> None:
        self.node: Any = ray._private.worker._global_node
        self.all: set[psutil.Process] = set()
        self.look()

    def look(self) -> str:
        """Return why Ray is lost, or "" while it runs."""
        for started in list(self.node.all_processes.values()):
            for info in started:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(info.process.pid)
                    self.all |= {process, *process.children(recursive=True)}
        for name, process in self.node.dead_processes():
            if name in NEEDED:
                return f"Ray on this machine ended ({name} {_exit_reason(process.returncode)})"
        return ""

    def end(self) -> None:
        """Kill the processes that still run."""
        kill({process for process in self.all if process.is_running()})


def _exit_reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, possibly by the kernel because memory ran out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"exited with {code}"


class Head:
    """The cluster that this process has joined. address: the address of its head."""

    def __init__(self, address: str):
        self.address = address
        self.own = ray.get_runtime_context().get_node_id()
        self._executor = ThreadPoolExecutor(1, "ray-nodes")

    def look(self) -> str:
        """Return why the cluster is lost, or "" while it runs."""
        try:
            nodes = self._executor.submit(ray.nodes).result(CLUSTER_TIMEOUT_SECONDS)
        except Exception:
            return f"the cluster at {self.address} no longer answers"
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        return "" if self.own in alive else f"the cluster at {self.address} lost this machine"

    def end(self) -> None:
        """Do nothing, because the cluster keeps running."""


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Watch Ray in the context. Raises RayLostError in the main thread once Ray is lost."""

    def raise_(number: int, frame: object) -> None:
        if watch.lost:
            raise RayLostError(watch.lost)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGUSR2, raise_) if main else None
    watch.start()
    try:
        yield
    except BaseException as problem:
        if watch.lost and not isinstance(problem, RayLostError):  # Ray's or Tune's own error
            raise RayLostError(watch.lost) from problem
        raise
    finally:
        watch.stop()
        if main:
            signal.signal(signal.SIGUSR2, before)
