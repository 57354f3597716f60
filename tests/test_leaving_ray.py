"""Test shutting Ray down while other threads release its objects, and beside other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

LEAVES = """
import gc, sys, threading, time
from pathlib import Path

import sabtune.tuning
import ray
from sabtune.cluster.ray_session import some_ray


class Reference:
    '''As one of Ray's own that is let go of: Ray is asked whether it is there, then told.'''

    def __init__(self):
        self.cycle = self

    def __del__(self):
        worker = ray._private.worker.global_worker
        if worker.connected and hasattr(worker, "core_worker"):
            core = worker.core_worker
            time.sleep(0.3)
            core.get_worker_id()


def collect():
    begun.set()
    gc.collect()


begun = threading.Event()
with some_ray(Path(sys.argv[1])):
    for _ in range(8):
        Reference()
    threading.Thread(target=collect).start()
    begun.wait()
    time.sleep(0.2)
print("still here")
"""

SLOWLY = """
import sys, time
from pathlib import Path
from types import SimpleNamespace

import sabtune.tuning
import ray
from ray._private.node import Node
from sabtune.cluster.ray_session import some_ray

shutdown = ray.shutdown


def slowly():
    '''As on a busy machine: for a while the first process has ended and the others haven't.'''
    Node.dead_processes = lambda self: [("gcs_server", SimpleNamespace(returncode=0))]
    time.sleep(4)
    shutdown()


ray.shutdown = slowly
with some_ray(Path(sys.argv[1])):
    pass
print("still here")
"""


BESIDE = """
import subprocess, sys
from pathlib import Path

from sabtune.cluster.ray_session import some_ray

sleeper = ["sleep", "100"]
before = subprocess.Popen(sleeper)
with some_ray(Path(sys.argv[1])):
    during = subprocess.Popen(sleeper)
print(before.poll(), during.poll())
before.kill()
during.kill()
"""


def run(script: str, folder: Path) -> tuple[str, str, int]:
    """Run a script; return its stdout, its stderr and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "ray.log")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


def test_shutdown_waits_for_objects_being_collected(tmp_path: Path) -> None:
    assert run(LEAVES, tmp_path) == ("still here\n", "", 0)


def test_shutdown_does_not_end_other_processes(tmp_path: Path) -> None:
    assert run(BESIDE, tmp_path) == ("None None\n", "", 0)


def test_the_end_of_rays_processes_during_shutdown_is_no_error(tmp_path: Path) -> None:
    assert run(SLOWLY, tmp_path) == ("still here\n", "", 0)
