"""MLflow's page on a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from sabtune.store import Store


def serve(store: Store, port: int) -> int:
    """Runs MLflow's server on the loopback interface until it ends or Ctrl-C; its exit code."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", store.mlflow_uri]
    command += ["--default-artifact-root", store.artifacts.as_uri()]
    # In a session of its own: Ctrl-C reaches us alone, and its processes are ended without a trace.
    with subprocess.Popen(command, start_new_session=True) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            os.killpg(server.pid, signal.SIGTERM)
            return 0
