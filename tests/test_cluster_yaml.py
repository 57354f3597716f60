"""Test every cluster*.yaml: Ray accepts it, and it does what the README promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from sabtune.cluster.cluster_file import ClusterFile

ROOT = Path(__file__).parent.parent
FILES = sorted(ROOT.glob("cluster*.yaml"))
UNSET = "CHANGE-ME"

every = pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
clouds = pytest.mark.parametrize("path", [ROOT / "cluster.yaml", ROOT / "cluster.gcp.yaml"])


def content(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text())
    return read


def prepared(path: Path) -> dict[str, Any]:
    """Return the file as `ray up` completes it before it calls the provider."""
    ready: dict[str, Any] = prepare_config(content(path))
    return ready


def commands(path: Path, *kinds: str) -> list[str]:
    return [command for kind in kinds for command in content(path).get(kind, [])]


def starts(path: Path) -> list[str]:
    kinds = ("head_start_ray_commands", "worker_start_ray_commands")
    return [command for command in commands(path, *kinds) if "ray start" in command]


@every
def test_ray_accepts_it(path: Path) -> None:
    validate_config(prepared(path))
    assert ClusterFile.load(path).content == content(path)


@every
def test_ray_refuses_an_unknown_key_in_it(path: Path) -> None:
    with pytest.raises(ValidationError, match="worker_nods"):
        validate_config(prepared(path) | {"worker_nods": {}})


@every
def test_every_machine_requires_the_token(path: Path) -> None:
    assert len(starts(path)) == 2
    sourced = [line for line in commands(path, "setup_commands") if "RAY_AUTH_MODE=token" in line]
    for command in starts(path):
        assert "RAY_AUTH_MODE=token" in command or (sourced and command.startswith(". ~/"))
    mounts = content(path)["file_mounts"]
    assert [local for remote, local in mounts.items() if remote.endswith("/.ray/auth_token")]


@every
def test_the_head_starts_the_autoscaler_and_listens_on_loopback(path: Path) -> None:
    head, worker = starts(path)
    assert "--head" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "$RAY_HEAD_IP" in worker


@every
def test_nothing_is_open_to_the_internet(path: Path) -> None:
    assert "0.0.0.0" not in path.read_text()


@every
def test_it_contains_no_secret(path: Path) -> None:
    for word in ("RAY_AUTH_TOKEN=", "AWS_SECRET", "AWS_ACCESS", "aws_credentials", "password"):
        assert word not in path.read_text()


@clouds
def test_the_image_has_the_ray_and_python_versions_of_the_tests(path: Path) -> None:
    config = AutoscalingConfig(prepared(path), skip_content_hash=True)
    images = {kind: config.get_docker_config(kind)["image"] for kind in ("head", "worker")}
    tag = f"{ray.__version__}-py{sys.version_info.major}{sys.version_info.minor}"
    if sys.version_info[:2] == (3, 11):
        assert images == {
            "head": f"rayproject/ray:{tag}-cpu",
            "worker": f"rayproject/ray:{tag}-gpu",
        }
    assert {image.split("-py")[0] for image in images.values()} == {
        f"rayproject/ray:{ray.__version__}"
    }
    assert f"\nray=={ray.__version__}\n" in (ROOT / "constraints.txt").read_text()


@clouds
def test_it_has_a_small_head_and_scales_workers_from_zero(path: Path) -> None:
    head, worker = ClusterFile.load(path).node_types
    assert (head.head, head.resources, head.least, head.most) == (True, {"CPU": 0}, 0, 0)
    assert worker.resources["GPU"] >= 1
    assert (worker.least, worker.most) == (0, 8)
    assert content(path)["idle_timeout_minutes"] > 0


@clouds
def test_only_containers_on_workers_use_gpus(path: Path) -> None:
    docker = content(path)["docker"]
    assert docker["worker_run_options"] == ["--gpus=all"]
    assert "--env=RAY_AUTH_MODE=token" in docker["run_options"]


@clouds
def test_only_setup_installs_the_project_with_pinned_versions(path: Path) -> None:
    installs = [line for line in commands(path, "setup_commands") if "sabtune-*.whl" in line]
    assert len(installs) == 1
    assert "--constraint ~/sabtune-dist/constraints.txt" in installs[0]
    assert content(path)["file_mounts"]["~/sabtune-dist"] == "dist"
    assert not [line for line in starts(path) if "pip" in line]


@clouds
def test_values_to_set_are_listed_once_at_the_top_and_used(path: Path) -> None:
    text = path.read_text()
    top, rest = text.split("\nmax_workers:")
    assert UNSET in top
    assert [line for line in rest.splitlines() if UNSET in line] == [
        line for line in rest.splitlines() if "not set" in line
    ]
    yours = top.partition("\n  yours:")[2]
    anchors = re.findall(r"&(\w+)", yours)
    assert len(anchors) >= 6
    for anchor in anchors:
        assert re.search(rf"\*{anchor}\b", rest), f"{anchor} is bound and not used"


@clouds
@pytest.mark.parametrize(("files", "code"), [("s3://CHANGE-ME/x", 1), ("s3://lab/x", 0)])
def test_a_node_without_its_bucket_fails_in_the_first_command(
    path: Path, files: str, code: int
) -> None:
    first = commands(path, "setup_commands")[0]
    done = subprocess.run(
        ["bash", "-c", first],
        env={"SABTUNE_FILES": files},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stdout == (f"{path.name}: yours.files is not set\n" if code else "")


def test_aws_uses_spot_profiles_and_its_own_security_group() -> None:
    types = content(ROOT / "cluster.yaml")["available_node_types"]
    head, worker = (types[kind]["node_config"] for kind in ("head", "worker"))
    assert "InstanceMarketOptions" not in head
    assert worker["InstanceMarketOptions"]["MarketType"] == "spot"
    assert head["IamInstanceProfile"] != worker["IamInstanceProfile"]
    for node in (head, worker):
        assert set(node["IamInstanceProfile"]) == {"Name"}
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert node["SecurityGroupIds"], "Ray would make a group that lets in SSH from anywhere"
        assert node["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]


def test_gcp_uses_spot_its_own_account_and_network() -> None:
    types = content(ROOT / "cluster.gcp.yaml")["available_node_types"]
    head, worker = (types[kind]["node_config"] for kind in ("head", "worker"))
    assert "scheduling" not in head
    assert worker["scheduling"]["provisioningModel"] == "SPOT"
    assert worker["serviceAccounts"][0]["email"].startswith("sabtune-worker@")
    for node in (head, worker):
        assert node["networkInterfaces"], "Ray would take a network that lets in SSH from anywhere"
