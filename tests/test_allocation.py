"""Test what a process knows about its Slurm job: CPUs, GPUs, memory, and the head's address."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from sabtune.cluster.capacity import this_machine
from sabtune.cluster.local_ray import allocated_resources
from sabtune.cluster.slurm import HEAD_PORTS, Allocation, allocation, head_address, memory_limit
from sabtune.errors import ClusterError

JOB = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "SLURM_NNODES": "3", "SLURM_CPUS_ON_NODE": "8"}


def test_a_process_outside_of_a_job_has_no_allocation() -> None:
    assert allocation({}) is None
    assert allocation({"SLURM_JOB_ID": "7"}) is None  # a shell of salloc on a login node


@pytest.mark.parametrize(
    ("more", "gpus"),
    [
        ({}, 0),
        ({"SLURM_GPUS_ON_NODE": "2"}, 2),
        ({"SLURM_STEP_GPUS": "0,3,5"}, 3),
        ({"SLURM_JOB_GPUS": "1"}, 1),
    ],
)
def test_the_allocation_of_a_job(more: dict[str, str], gpus: int) -> None:
    found = allocation(JOB | more)
    assert found is not None
    limit = found.memory
    assert found == Allocation(job="7", nodes=3, cpus=8, gpus=gpus, memory=limit)


def test_a_private_ray_has_what_the_job_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without GPUs of the job, Ray would take all of the machine's."""
    for name in ("SLURM_JOB_ID", "SLURM_GPUS_ON_NODE", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    assert allocated_resources() == (None, None)
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert allocated_resources() == (8, 0)
    assert this_machine().live[0].resources == {"CPU": 8.0, "GPU": 0.0}
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    assert allocated_resources() == (8, None)  # those that Slurm's CUDA_VISIBLE_DEVICES names


def groups(folder: Path, line: str, limits: dict[str, str]) -> tuple[Path, Path]:
    """Write files as the kernel shows them, and return the paths for `memory_limit`."""
    mounts = folder / "cgroup"
    for path, text in limits.items():
        (mounts / path).parent.mkdir(parents=True, exist_ok=True)
        (mounts / path).write_text(f"{text}\n")
    own = folder / "self"
    own.write_text(f"{line}\n")
    return own, mounts


STEP = "system.slice/slurmstepd.scope/job_7/step_0"


@pytest.mark.parametrize(
    ("line", "limits", "expected"),
    [
        (f"0::/{STEP}", {f"{STEP}/memory.max": "max"}, None),
        (f"0::/{STEP}", {f"{STEP}/memory.max": "4096"}, 4096),
        # that of the job holds for the step, too
        (
            f"0::/{STEP}",
            {f"{STEP}/memory.max": "max", f"{Path(STEP).parent}/memory.max": "8192"},
            8192,
        ),
        (
            "4:memory:/slurm/job_7",
            {"memory/slurm/job_7/memory.limit_in_bytes": "1024"},
            1024,
        ),
        (
            "4:memory:/slurm/job_7",
            {"memory/slurm/job_7/memory.limit_in_bytes": str(2**63 - 4096)},
            None,
        ),
        ("0::/job_7", {"unified/job_7/memory.max": "99"}, 99),
        ("1:cpu:/job_7", {}, None),
    ],
)
def test_the_memory_limit_is_the_least_of_all_groups(
    tmp_path: Path, line: str, limits: dict[str, str], expected: int | None
) -> None:
    assert memory_limit(*groups(tmp_path, line, limits)) == expected


def test_no_memory_limit_without_cgroups(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "missing", tmp_path) is None


def test_the_head_has_a_free_port_on_the_interface() -> None:
    first = head_address("lo", "", "12345")
    host, port = first.split(":")
    assert host == "127.0.0.1"
    assert int(port) == HEAD_PORTS[12345 % len(HEAD_PORTS)]
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        assert head_address("lo", "", "12345") == f"{host}:{int(port) + 1}"
    assert head_address("", "127.0.0.1", "12345") == first  # the interface towards another node


def test_an_interface_without_an_address_is_one_line() -> None:
    with pytest.raises(ClusterError, match="SABTUNE_INTERFACE is 'ib9', which has no IPv4") as told:
        head_address("ib9", "", "1")
    assert "lo" in str(told.value)
    assert "lo" in psutil.net_if_addrs()


def test_a_node_without_a_way_to_the_others_is_one_line() -> None:
    with pytest.raises(ClusterError, match=r"finds no way to .*: set SABTUNE_INTERFACE"):
        head_address("", "no-such-node.invalid", "1")
