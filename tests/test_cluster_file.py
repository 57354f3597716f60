"""Test that cluster files are read as `ray up` reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sabtune.cluster.cluster_file import ClusterFile, NodeType
from sabtune.errors import ClusterError

FILE = """
cluster_name: sab
max_workers: 6
provider: {type: aws, region: eu-west-1}
available_node_types:
  head: {resources: {CPU: 2}, node_config: {InstanceType: m7i.large}}
  gpu: {resources: {CPU: 8, GPU: 1}, min_workers: 1, max_workers: 4, node_config: {}}
  open: {node_config: {}, max_workers: 60}
head_node_type: head
"""


def written(text: str, folder: Path) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return path


def test_node_types_have_resources_and_limits(tmp_path: Path) -> None:
    file = ClusterFile.load(written(FILE, tmp_path))
    assert (file.name, file.provider) == ("sab", "aws")
    assert file.node_types == (
        NodeType(name="head", resources={"CPU": 2}, least=0, most=0, head=True),
        NodeType(name="gpu", resources={"CPU": 8, "GPU": 1}, least=1, most=4, head=False),
        NodeType(name="open", resources={}, least=0, most=6, head=False),
    )


def test_machines_given_by_address_have_no_types(tmp_path: Path) -> None:
    text = "{cluster_name: lab, provider: {type: local, head_ip: 10.0.0.1, worker_ips: []}}"
    assert ClusterFile.load(written(text, tmp_path)).node_types == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "can't be read (No such file or directory)"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("[1]", "describes no cluster"),
        ("{cluster_name: lab}", "describes no cluster (KeyError: 'provider')"),
        (FILE.replace("CPU: 8", "CPU: many"), "describes no cluster (ValueError"),
    ],
)
def test_an_invalid_cluster_file_is_one_line(text: str | None, says: str, tmp_path: Path) -> None:
    path = written(text, tmp_path) if text is not None else tmp_path / "none.yaml"
    with pytest.raises(ClusterError) as told:
        ClusterFile.load(path)
    (line,) = str(told.value).splitlines()
    assert str(path) in line
    assert says in line


def bomb(levels: int) -> str:
    """Return YAML that expands to 9 ** levels values in a few lines."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{bomb(30)}\n{FILE}", "more than 10,000 values, aliases written out"),
        (f"{bomb(9)}\ncluster_name: *a8\nprovider: {{type: local}}", "more than 10,000 values"),
        (
            "a: &a {x: 1}\nb: &b {<<: ["
            + "*a, " * 9
            + "]}\n"
            + "\n".join(
                f"b{i}: &b{i} {{<<: [" + f"*b{i - 1 or ''}, " * 9 + "]}" for i in range(1, 30)
            ),
            "more than 10,000 values",
        ),
        ("a: &a [*a]", "more than 10,000 values"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("x: " + "[" * 5000 + "]" * 5000, "nested more than 64 deep"),
        ("- x\n" * 100_000, "more than 10,000 values"),
        ("x: 1\n" * 300_000, "is larger than 1,048,576 bytes"),
        (f"# {'x' * (1 << 20)}\n{FILE}", "is larger than 1,048,576 bytes"),
        (f"cluster_name: twice\n{FILE}", "the key 'cluster_name' is there twice"),
        ("when: 2001-99-99", "is not valid YAML"),
        (f"n: {'9' * 5000}", "is not valid YAML"),
        (
            FILE.replace("max_workers: 6", "max_workers: .inf"),
            "describes no cluster (OverflowError",
        ),
        (
            FILE.replace("cluster_name: sab", f"cluster_name: [{'x, ' * 900}]"),
            "describes no cluster",
        ),
        (FILE.replace("CPU: 8", f"CPU: {'x' * 5000}"), "describes no cluster"),
    ],
)
def test_a_yaml_bomb_is_one_short_line(text: str, says: str, tmp_path: Path) -> None:
    path = written(text, tmp_path)
    with pytest.raises(ClusterError) as told:
        ClusterFile.load(path)
    (line,) = str(told.value).splitlines()
    assert says in line
    assert len(line) < len(str(path)) + 400


def test_a_device_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="is a device"):
        ClusterFile.load(Path("/dev/zero"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ClusterError, match="is a device"):
        ClusterFile.load(tmp_path / "pipe")


def test_reasonable_aliases_are_resolved(tmp_path: Path) -> None:
    text = FILE.replace("gpu: {", "gpu: &gpu {") + "other: {<<: *gpu, max_workers: 2}\n"
    file = ClusterFile.load(written(text, tmp_path))
    assert file.content["other"]["resources"] == {"CPU": 8, "GPU": 1}
