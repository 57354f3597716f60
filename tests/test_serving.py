"""Test a registered model behind `mlflow models serve` with real requests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sabtune.config import RunConfig
from sabtune.storage.folder import Folder
from sabtune.study.events import Version
from sabtune.training.loop import Training
from tests.experiments import COMPLETE, ENOUGH, Place, tell, until, views

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def asked(url: str, content: Any) -> Any:
    """Send a request and return the server's answer."""
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def alive(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the server ended"
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=2) as answer:
            return answer.status == 200  # type: ignore[no-any-return]
    except OSError:
        return False


def test_the_champion_answers_over_http(run: RunConfig, tmp_path: Path) -> None:
    training = Training(run)
    for _ in training:
        pass
    training.save(tmp_path / "checkpoint")
    place = Place(f"sqlite:///{tmp_path / 'mlflow.db'}", "served", tmp_path / "artifacts")
    outcome = replace(COMPLETE, checkpoint=Folder.at(tmp_path / "checkpoint"))
    tracker = place.tracker()
    tell(tracker, replace(views(run)[0], outcome=outcome))
    assert tracker.register([Version(trial=0)], champion=0), tracker.behind
    assert tracker.close(ENOUGH)
    (model,) = place.models()
    example = Path(model.artifact_location.removeprefix("file://")) / "serving_input_example.json"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri"]
    command += ["models:/served@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    # MLflow runs uvicorn by name.
    environment = {"MLFLOW_TRACKING_URI": place.uri, "PATH": programs}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: alive(url, process))
        shown = asked(url, json.loads(example.read_text()))["predictions"]
        assert np.asarray(shown).shape == (1, 9, training.task.outputs)
        for batch, steps in ((1, 3), (2, 40)):
            generator = np.random.default_rng(steps)
            x = generator.standard_normal((batch, steps, training.task.inputs)).astype(np.float32)
            with torch.no_grad():
                logits, _ = training.model.eval()(torch.from_numpy(x))
            said = asked(url, {"inputs": x.tolist()})["predictions"]
            np.testing.assert_array_equal(np.asarray(said, np.float32), logits.numpy())
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(url, {"inputs": [[[0.0] * (training.task.inputs + 1)]]})
        assert refused.value.code == 400
        refused.value.close()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
