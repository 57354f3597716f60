"""MLflow's page on a store."""

from __future__ import annotations

import subprocess
import sys

from sabtune.store import Store


def serve(store: Store, port: int) -> int:
    """Runs MLflow's server on the loopback interface until it is stopped; its exit code."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", store.mlflow_uri]
    command += ["--default-artifact-root", store.artifacts.as_uri()]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0
