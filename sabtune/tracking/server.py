"""MLflow's page on a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from sabtune.errors import TrackingError
from sabtune.store import Store
from sabtune.tracking.manners import refuse_database, shown

NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Of its own accord the server starts seven more processes, for jobs that no study has."""


def serve(store: Store, port: int) -> int:
    """Runs MLflow's server on the loopback interface until it ends; its exit code.

    Ctrl-C and SIGTERM end it, and all its processes, in order. Raises TrackingError if the store's
    MLflow is a server already, or another version's.
    """
    if store.artifacts is None:
        raise TrackingError(f"the store's MLflow has its page: open {shown(store.mlflow_uri)}")
    refuse_database(store.mlflow_uri)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", store.artifacts]
    # not among the arguments, which everybody on the machine may read: it may hold a password
    environment = NO_JOBS | os.environ | {"MLFLOW_BACKEND_STORE_URI": store.mlflow_uri}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In a session of its own: Ctrl-C reaches us alone, and no process of its is left to itself.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            os.killpg(server.pid, signal.SIGTERM)
            return 0
