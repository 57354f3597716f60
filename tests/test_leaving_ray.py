"""Ray, left while another thread lets go of what is Ray's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

LEAVES = """
import gc, sys, threading, time
from pathlib import Path

import sabtune.search
import ray
from sabtune.search.cluster import some_ray


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


def test_ray_is_left_once_what_is_being_collected_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAVES, str(tmp_path / "ray.log")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("still here\n", "", 0)
