"""Test the files that run a search unattended: the RayJob of KubeRay, and the unit of systemd."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError, validate

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SCHEMA = json.loads((ROOT / "tests" / "rayjob-schema.json").read_text())


@pytest.fixture
def job() -> Any:
    return yaml.safe_load((DOCS / "rayjob.yaml").read_text())


def test_the_rayjob_is_valid(job: Any) -> None:
    validate(job, SCHEMA)
    spec = job["spec"]["rayClusterSpec"]
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    (image,) = {pod["template"]["spec"]["containers"][0]["image"] for pod in pods}
    assert "CHANGE-ME" in image
    assert f"ray=={spec['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert f"FROM rayproject/ray:{spec['rayVersion']}-py311-" in (DOCS / "Dockerfile").read_text()
    (mounts,) = {
        tuple(mount["mountPath"] for mount in pod["template"]["spec"]["containers"][0][key])
        for pod in pods
        for key in ("volumeMounts",)
    }
    _, _, file, option, store = job["spec"]["entrypoint"].split()
    assert (option, store) == ("--store", mounts[0])
    assert Path(file).parent == Path(mounts[1])
    group = spec["workerGroupSpecs"][0]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def _misnamed(job: Any) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpecs"] = {}


def _number(job: Any) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _headless(job: Any) -> None:
    del job["spec"]["rayClusterSpec"]["headGroupSpec"]


def _open(job: Any) -> None:
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "none"


@pytest.mark.parametrize("change", [_misnamed, _number, _headless, _open])
def test_the_schema_refuses_mistakes(job: Any, change: Callable[[Any], None]) -> None:
    wrong = copy.deepcopy(job)
    change(wrong)
    with pytest.raises(ValidationError):
        validate(wrong, SCHEMA)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return a copy of the unit, for a user who has an environment with sabtune."""
    program = tmp_path / "studies" / ".venv" / "bin" / "sabtune"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    return Path(shutil.copy(DOCS / "sabtune@.service", tmp_path))


def verified(unit: Path) -> str:
    """Return what systemd says about a user's unit, "" if it has nothing to say."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("units can't be verified here: install systemd")
    home = unit.parent
    (home / "run").mkdir(exist_ok=True)
    done = subprocess.run(
        [tool, "verify", "--user", str(unit)],
        env=os.environ | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_systemd_accepts_the_unit(unit: Path) -> None:
    assert verified(unit) == ""
    unit.write_text(unit.read_text().replace("KillMode", "KilMode"))
    assert "Unknown key 'KilMode'" in verified(unit)


def test_the_unit_starts_again_what_was_killed_only() -> None:
    """Exit codes 1 and 2 are final: `sabtune.cli` returns them with a line that says why."""
    lines = (DOCS / "sabtune@.service").read_text().splitlines()
    assert "Restart=on-failure" in lines
    assert "RestartPreventExitStatus=1 2" in lines
    assert "SuccessExitStatus=143" in lines
