"""Cluster files, read as `ray up` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sabtune.errors import ClusterError
from sabtune.search.cluster_file import ClusterFile, NodeType

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


def test_node_types_with_what_they_have_and_how_many_there_may_be(tmp_path: Path) -> None:
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
        ("a: [", "is no YAML"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
        ("[1]", "describes no cluster"),
        ("{cluster_name: lab}", "describes no cluster (KeyError: 'provider')"),
        (FILE.replace("CPU: 8", "CPU: many"), "describes no cluster (ValueError"),
    ],
)
def test_what_is_no_cluster_file_is_one_line(text: str | None, says: str, tmp_path: Path) -> None:
    path = written(text, tmp_path) if text is not None else tmp_path / "none.yaml"
    with pytest.raises(ClusterError) as told:
        ClusterFile.load(path)
    (line,) = str(told.value).splitlines()
    assert str(path) in line
    assert says in line
