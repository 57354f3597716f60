"""Test that `sabtune doctor` reports each problem on one line with a remedy, and no others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sabtune.cli import app
from sabtune.cluster import node_facts
from sabtune.cluster.cluster_file import ClusterFile
from sabtune.cluster.doctor import no_cluster, offset
from sabtune.cluster.findings import find_problems
from sabtune.cluster.node_facts import Disk, Gpu, NodeFacts, Token, examine, token
from sabtune.cluster.preflight import problems_before
from sabtune.cluster.slurm import Allocation
from sabtune.storage.database import database_at
from sabtune.tracking.reach import problem_of
from tests.faults import small_disk

VERSIONS = {"sabtune": "0.1", "python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cpu",
            "numba": "0.68.1"}  # fmt: skip
WELL = NodeFacts(
    node="head",
    versions=VERSIONS,
    disks=(Disk(of="home", path="/", free=50, size=100),),
    token=Token(mode="token", found="/t", bits=0o600),
)
OTHER = replace(WELL, node="worker")
L4 = Gpu(name="L4", memory=22.5, driver="580.1")
IN_JOB = replace(
    OTHER,
    slurm=Allocation(job="7", nodes=2, cpus=8, gpus=2, memory=8 * 2**30),
    cpus=8,
    declared=2,
    gpus=(L4,) * 2,
    seen=2,
    memory=8 * 2**30,
    sockets="/tmp/sab-7/ray",
)


def lines(*nodes: NodeFacts, files: str | None = None) -> list[str]:
    """Return the findings as lines; check that each is one line and has a remedy."""
    found = find_problems(nodes, files=files, cluster=True)
    for finding in found:
        assert len(str(finding).splitlines()) == 1
        assert finding.remedy
    return [f"{'wrong' if finding.wrong else 'note'}: {finding}" for finding in found]


def test_a_healthy_cluster_has_no_findings() -> None:
    built = replace(OTHER, versions=VERSIONS | {"torch": "2.13.0+cu130"})
    assert lines(WELL, built, files="s3://lab/x") == []
    assert lines(WELL, IN_JOB, files="s3://lab/x") == []


def test_a_store_that_a_node_does_not_see_is_found() -> None:
    def found(**facts: object) -> list[str]:
        node = replace(OTHER, **facts)  # type: ignore[arg-type]
        return [str(one) for one in find_problems([WELL, node], cluster=True, shared="/store")]

    assert found(sees_store=True) == []
    assert found() == []
    (unseen,) = found(sees_store=False)
    assert unseen.startswith("worker: doesn't see the files in /store")
    (local,) = found(sees_store=True, free_locks=("flock",))
    assert local.startswith("worker: locks of the driver in /store don't hold there (flock)")


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (replace(OTHER, versions=VERSIONS | {"ray": "2.59.0"}), "wrong: worker: ray 2.59.0, and"),
        (replace(OTHER, versions=VERSIONS | {"torch": None}), "wrong: worker: torch isn’t"),
        (replace(OTHER, gpus=(L4,), seen=0), "wrong: worker: its driver 580.1 knows 1 GPU, and"),
        (replace(OTHER, declared=1), "note: worker: Ray gives out GPUs there: 1;"),
        (replace(OTHER, offset=-3600, within=1), "wrong: worker: its clock is 3600 s behind"),
        (replace(OTHER, offset=5, within=1), "note: worker: its clock is 5 s ahead of"),
        (replace(OTHER, token=Token(mode="token", found="")), "wrong: worker: there is no token"),
        (replace(OTHER, token=Token(mode="disabled", found="")), "wrong: worker: Ray runs there"),
        (replace(OTHER, token=Token(mode="token", found="/t", bits=0o644)), "wrong: worker: other"),
        (replace(OTHER, files="ACCESS_DENIED"), "wrong: worker: can't store files at s3://lab/x"),
        (NodeFacts(node="worker", unreachable="gone"), "wrong: worker: can't be checked"),
        (replace(IN_JOB, cpus=16), "wrong: worker: Ray gives out 16 CPUs, and job 7 has 8"),
        (replace(IN_JOB, cpus=4), "note: worker: Ray gives out 4 CPUs, and job 7 has 8"),
        (
            replace(IN_JOB, declared=3, gpus=(L4,) * 3, seen=3),
            "wrong: worker: Ray gives out 3 GPUs, and job 7 has 2",
        ),
        (replace(IN_JOB, memory=9 * 2**30), "note: worker: Ray counts on 9.0 GiB of memory, and"),
        (replace(IN_JOB, sockets="/scratch/" + "x" * 40), "wrong: worker: /scratch/xxx"),
    ],
)  # fmt: skip
def test_a_problem_of_one_node_is_found(node: NodeFacts, says: str) -> None:
    (line,) = lines(WELL, node, files="s3://lab/x")
    assert line.startswith(says)


def test_a_clock_offset_within_the_round_trip_time_is_no_problem() -> None:
    assert lines(WELL, replace(OTHER, offset=30, within=40)) == []


def test_the_clock_offset_is_that_of_the_quickest_answer() -> None:
    ours = iter([0.0, 8.0, 10.0, 10.2, 20.0, 26.0])
    theirs = iter([104.0, 110.1, 123.0])
    ahead, within = offset(lambda: next(theirs), lambda: next(ours))
    assert ahead == pytest.approx(100.0)
    assert within == pytest.approx(0.1)


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        own = examine({"home": str(disk)}, None)
        (line,) = [line for line in lines(own) if "GiB" in line]
    assert line.startswith(f"wrong: {own.node}: 0.0 GiB of 0 are free where home is ({disk})")


def test_the_token_is_found_where_ray_looks_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert token({"RAY_AUTH_MODE": "token"}).found == ""
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("a secret")
    path.chmod(0o640)
    assert token({}) == Token(mode="", found=str(path), bits=0o640)
    held = token({"RAY_AUTH_TOKEN": "a secret"})
    assert "secret" not in repr(held)


def test_the_check_of_a_files_folder_leaves_no_file(tmp_path: Path) -> None:
    assert node_facts.files_problem(str(tmp_path)) == ""
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    (tmp_path / "file").touch()
    assert node_facts.files_problem(str(tmp_path / "file" / "below"))


def test_unreachable_databases_and_mlflow_are_found(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"postgresql://me:secret@127.0.0.1:{port}/x"
        words = database_at(url).problem()
        assert "refused" in words
        assert "secret" not in words
        assert "can't be reached" in problem_of(f"http://127.0.0.1:{port}")
    (tmp_path / "bad.db").write_text("no database" * 100)
    assert "not a database" in database_at(f"sqlite:///{tmp_path / 'bad.db'}").problem()
    assert database_at(f"sqlite:///{tmp_path / 'none.db'}").problem() == ""


def test_another_version_of_ray_than_the_clusters_is_one_line() -> None:
    ray_says = "Version mismatch: The cluster was started with:\n  Ray: 2.59.0\n  Python: 3.11.7"
    finding = no_cluster(RuntimeError(ray_says))
    assert len(str(finding).splitlines()) == 1
    assert "use the cluster's Ray" in finding.remedy


def test_a_cluster_file_that_is_not_filled_in_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = Path(__file__).parent.parent / "cluster.yaml"
    found = [str(finding) for finding in problems_before(ClusterFile.load(path)) if finding.wrong]
    assert any("yours.files is still" in line for line in found)
    assert any("yours.security_group is still" in line for line in found)
    assert any("there is no token" in line for line in found)
    older = tmp_path / "older.yaml"
    text = path.read_text().replace("py311", f"py{sys.version_info[0]}{sys.version_info[1]}")
    older.write_text(text.replace("ray:2.60.0", "ray:2.59.1"))
    found = [str(finding) for finding in problems_before(ClusterFile.load(older))]
    assert sum("on the cluster; use the same on both" in line for line in found) == 2


def test_doctor_runs_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a secret")
    done = CliRunner().invoke(app, ["doctor", "--store", str(tmp_path / "store")])
    assert "This machine" in done.output
    assert "a secret" not in done.output
    assert done.exit_code == (1 if "\nwrong: " in done.output else 0)


TWO_NODES = """
import os, sys
from sabtune.provenance import software
from sabtune.storage.database import database_at
from sabtune.cluster.doctor import see
from sabtune.storage.store import Store
from tests.local_cluster import local_cluster

with local_cluster([{"num_cpus": 0}, {"num_cpus": 1, "num_gpus": 1}]) as cluster:
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    found = see(Store.at(sys.argv[1] + "/store", sys.argv[1] + "/files"))
assert found.cluster
assert [one.head for one in found.nodes] == [True, False]
for one in found.nodes:
    assert one.unreachable == "", one
    assert one.versions == {name: software()[name] for name in one.versions}
    assert abs(one.offset) <= one.within + 0.5
    assert one.files == ""
assert [one.declared for one in found.nodes] == [0, 1]
assert any("Ray gives out GPUs there: 1" in str(finding) for finding in found.findings)
"""


@pytest.mark.slow
def test_doctor_has_facts_of_every_node_of_a_real_cluster(tmp_path: Path) -> None:
    token = {"RAY_AUTH_TOKEN": "of-a-test-that-starts-nodes-of-its-own"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_NODES, str(tmp_path)],
        env=os.environ | token,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
