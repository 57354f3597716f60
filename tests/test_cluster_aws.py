"""Test `ray up cluster.yaml` with a local EC2 server: it requests what the file says.

The machines have no SSH; a fake ssh answers for them and records the commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).parent.parent
REGION = yaml.safe_load((ROOT / "cluster.yaml").read_text())["provider"]["region"]
MINE = "203.0.113.7/32"

SSH = """#!/bin/sh
printf '%s\\n' "$*" >> "$TOLD"
case "$*" in
  *Config.Env*) echo '["HOME=/home/ray"]' ;;
  *"printenv HOME"*) echo /home/ray ;;
  *"command -v docker"*) echo /usr/bin/docker ;;
esac
"""
RSYNC = """#!/bin/sh
for last; do from=$to; to=$last; done
cp -r "$from" "$COPIED"/
"""
"""A fake rsync that copies what is sent to a node into the folder $COPIED."""

LAUNCH = """
import sys, time
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

reader = FileConfigReader(sys.argv[1], skip_content_hash=True)
config = reader.get_cached_autoscaling_config()
provider = _get_node_provider(config.get_config("provider"), config.get_config("cluster_name"))
adapter = NodeProviderAdapter(provider, reader)
adapter.launch({"worker": 1}, "asked")
for _ in range(100):
    problems = adapter.poll_errors()
    if problems or len(provider.non_terminated_nodes({})) == 2:
        break
    time.sleep(0.5)
sys.exit(str(problems) if problems else 0)
"""
"""A script that launches a worker like the autoscaler on the head."""


LOGIN = """
import sys
from pathlib import Path
from sabtune.cluster.cluster_file import ClusterFile
from sabtune.cluster.ssh import Login

login = Login.of(ClusterFile.load(Path(sys.argv[1])))
print(login.user, login.address, login.key)
"""
"""A script that prints the user, address and key with which --cluster logs in."""


class Cloud:
    """A local AWS account, and a home folder with credentials for it."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.home, self.copied, self.told = (folder / part for part in ("home", "copied", "told"))
        for part in (self.home / ".ray", self.copied, folder / "bin", folder / "tmp"):
            part.mkdir(parents=True)
        (self.home / ".ray" / "auth_token").write_text("of a test")
        for name, text in (("ssh", SSH), ("rsync", RSYNC)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (self.home / "dist").mkdir()
        (self.home / "dist" / "constraints.txt").write_text("")
        self.told.touch()
        self.environment = {
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "TMPDIR": str(folder / "tmp"),
            "TOLD": str(self.told),
            "COPIED": str(self.copied),
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, REGION, endpoint_url=self.address, **keys)

    def prepare(self, ssh_from: str = MINE) -> dict[str, str]:
        """Create the resources of docs/aws.yaml and return its outputs."""
        stacks = self.client("cloudformation")
        stacks.create_stack(
            StackName="sabtune",
            TemplateBody=(ROOT / "docs" / "aws.yaml").read_text(),
            Parameters=[{"ParameterKey": "SshFrom", "ParameterValue": ssh_from}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (stack,) = stacks.describe_stacks(StackName="sabtune")["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def file(self, **values: str) -> Path:
        """Write cluster.yaml with the values that a user sets."""
        text = (ROOT / "cluster.yaml").read_text()
        for old, new in values.items():
            unset = {"group": "sg-CHANGE-ME", "files": "s3://CHANGE-ME/sabtune"}[old]
            assert text.count(unset) == 1
            text = text.replace(unset, new)
        path = self.home / "cluster.yaml"
        path.write_text(text)
        return path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ray_up(self, path: Path) -> subprocess.CompletedProcess[str]:
        return self.run("ray", "up", "--yes", "--no-config-cache", str(path))

    def instances(self) -> list[dict[str, Any]]:
        reservations = self.client("ec2").describe_instances()["Reservations"]
        return [instance for at in reservations for instance in at["Instances"]]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Cloud(f"http://{host}:{port}", tmp_path)
    finally:
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=60)
        server.stop()


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


@pytest.mark.slow
def test_ray_up_requests_what_the_file_says(cloud: Cloud) -> None:
    made = cloud.prepare()
    path = cloud.file(group=made["SecurityGroup"], files=made["Files"])
    said = yaml.safe_load(path.read_text())["available_node_types"]
    types = cloud.client("ec2").describe_instance_types(
        InstanceTypes=[said["worker"]["node_config"]["InstanceType"]]
    )["InstanceTypes"][0]
    assert said["worker"]["resources"] == {
        "CPU": types["VCpuInfo"]["DefaultVCpus"],
        "GPU": types["GpuInfo"]["Gpus"][0]["Count"],
    }

    up = cloud.ray_up(path)
    assert up.returncode == 0, up.stdout + up.stderr
    (head,) = cloud.instances()
    (bootstrap,) = cloud.copied.glob("ray-bootstrap-*")
    (cloud.home / "ray_bootstrap_key.pem").write_bytes(
        (cloud.home / ".ssh" / "sabtune.pem").read_bytes()
    )
    login = cloud.run(sys.executable, "-c", LOGIN, str(path))
    reached = f"ubuntu {head['PublicIpAddress']} {cloud.home}/.ssh/sabtune.pem"
    assert login.stdout.strip() == reached, login.stderr
    launched = cloud.run(sys.executable, "-c", LAUNCH, str(bootstrap))
    assert launched.returncode == 0, launched.stderr
    (worker,) = [one for one in cloud.instances() if one["InstanceId"] != head["InstanceId"]]

    for instance in (head, worker):
        kind = tags(instance)["ray-node-type"]
        assert (kind == "head") == (instance["InstanceId"] == head["InstanceId"])
        node = said[kind]["node_config"]
        assert instance["InstanceType"] == node["InstanceType"]
        assert instance["ImageId"] == node["ImageId"]
        assert instance["KeyName"] == "sabtune"
        (group,) = instance["SecurityGroups"]
        assert group["GroupId"] == made["SecurityGroup"]
        profile = node["IamInstanceProfile"]["Name"]
        assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
        assert instance.get("InstanceLifecycle") == ("spot" if kind == "worker" else None)


@pytest.mark.slow
def test_the_head_starts_ray_after_everything_is_installed(cloud: Cloud) -> None:
    made = cloud.prepare()
    assert (
        cloud.ray_up(cloud.file(group=made["SecurityGroup"], files=made["Files"])).returncode == 0
    )
    told = cloud.told.read_text()
    for line in told.splitlines():
        assert "-i" not in line.split() or f"{cloud.home}/.ssh/sabtune.pem" in line
    container = next(line for line in told.splitlines() if "docker run" in line)
    assert f"--env=SABTUNE_FILES={made['Files']}" in container
    assert "--env=RAY_AUTH_MODE=token" in container
    assert "rayproject/ray:2.60.0-py311-cpu" in container
    assert "--gpus" not in container
    order = ["docker run", "CHANGE-ME", "chmod 600", "pip install", "ray start --head"]
    places = [told.index(step) for step in order]
    assert places == sorted(places)
    assert told.count("pip install") == 1
    assert "RAY_OVERRIDE_RESOURCES=" in told
    assert "of a test" not in told
    assert (cloud.copied / "auth_token").read_text() == "of a test"
    config = json.loads(next(cloud.copied.glob("ray-bootstrap-*")).read_text())
    assert config["available_node_types"]["worker"]["node_config"]["SecurityGroupIds"] == [
        made["SecurityGroup"]
    ]


@pytest.mark.slow
def test_the_documented_account_allows_ssh_from_one_address_only(cloud: Cloud) -> None:
    made = cloud.prepare()
    ec2 = cloud.client("ec2")
    (group,) = ec2.describe_security_groups(GroupIds=[made["SecurityGroup"]])["SecurityGroups"]
    outside = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    (ssh,) = outside
    assert (ssh["IpProtocol"], ssh["FromPort"], ssh["ToPort"]) == ("tcp", 22, 22)
    assert [at["CidrIp"] for at in ssh["IpRanges"]] == [MINE]
    (among,) = [rule for rule in group["IpPermissions"] if rule not in outside]
    assert [pair["GroupId"] for pair in among["UserIdGroupPairs"]] == [made["SecurityGroup"]]
    iam = cloud.client("iam")
    for kind in ("head", "worker"):
        profile = iam.get_instance_profile(InstanceProfileName=f"sabtune-{kind}")
        (role,) = profile["InstanceProfile"]["Roles"]
        assert role["RoleName"] == f"sabtune-{kind}"
    assert iam.list_role_policies(RoleName="sabtune-worker")["PolicyNames"] == []
    assert iam.list_users()["Users"] == []


@pytest.mark.slow
def test_ray_up_fails_before_any_start_if_the_security_group_is_not_set(cloud: Cloud) -> None:
    made = cloud.prepare()
    up = cloud.ray_up(cloud.file(files=made["Files"]))
    assert up.returncode != 0
    assert "Failed to detect a security group" in up.stdout + up.stderr
    assert cloud.instances() == []


@pytest.mark.slow
def test_by_default_ray_allows_ssh_from_anywhere(cloud: Cloud) -> None:
    """Check why cluster.yaml has to name a security group.

    If this test fails, Ray may support `provider.security_group` by now.
    """
    made = cloud.prepare()
    path = cloud.file(files=made["Files"], group=made["SecurityGroup"])
    config = yaml.safe_load(path.read_text())
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": MINE}]}
    config["provider"]["security_group"] = {"GroupName": "by-ray", "IpPermissions": [rule]}
    for kind in config["available_node_types"].values():
        del kind["node_config"]["SecurityGroupIds"]
    path.write_text(yaml.safe_dump(config))
    cloud.ray_up(path)
    groups = cloud.client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["by-ray"]}]
    )["SecurityGroups"]
    (group,) = groups
    ranges = [at["CidrIp"] for rule in group["IpPermissions"] for at in rule["IpRanges"]]
    assert "0.0.0.0/0" in ranges
