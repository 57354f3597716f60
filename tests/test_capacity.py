"""Test how many trials can be placed at once, and which requests are refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sabtune.cluster import capacity as module
from sabtune.cluster.capacity import Capacity, Node, check_cluster, fit, settled, to_a_gpu
from sabtune.cluster.cluster_file import ClusterFile
from sabtune.errors import ConfigError, ResourceError
from sabtune.study.definition import AUTO, Resources
from sabtune.tuning.placement import fraction

HEAD = Node(name="10.0.0.1", resources={"CPU": 0}, head=True)
GPUS = Node(name="10.0.0.2", resources={"CPU": 16, "GPU": 2})
SLIM = Node(name="10.0.0.3", resources={"CPU": 3, "GPU": 1})
CPUS = Node(name="10.0.0.4", resources={"CPU": 7})
LOCAL = {"local.cluster.node": {"resources": {}, "min_workers": 2, "max_workers": 2}}


def cluster(types: dict[str, object], together: int | None, folder: Path) -> ClusterFile:
    """Return a cluster file with these node types; the first is the head's."""
    content: dict[str, object] = {"cluster_name": "lab", "provider": {"type": "aws"}}
    content |= {"available_node_types": types, "head_node_type": next(iter(types), "")}
    content |= {} if together is None else {"max_workers": together}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    return ClusterFile.load(path)


def cloud(folder: Path, together: int | None = 10) -> ClusterFile:
    types: dict[str, object] = {
        "head": {"resources": {"CPU": 0}},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 4},
        "cpu": {"resources": {"CPU": 4}},
    }
    return cluster(types, together, folder)


@pytest.mark.parametrize(
    ("cpus", "gpus", "has", "trials"),
    [
        (1, 0, {"CPU": 7}, 7),
        (3, 0, {"CPU": 8}, 2),
        (1, 0, {"GPU": 4}, 0),
        (1, 0.4, {"CPU": 16, "GPU": 2}, 4),  # not 5: no trial is split between GPUs
        (1, 1 / 3, {"CPU": 16, "GPU": 1}, 3),
        (1, 0.51, {"CPU": 16, "GPU": 3}, 3),
        (1, 0.125, {"CPU": 5, "GPU": 1}, 5),
        (1, 1, {"CPU": 16, "GPU": 3}, 3),
        (1, 2, {"CPU": 16, "GPU": 3}, 1),
        (1, 0.5, {"CPU": 16}, 0),
    ],
)
def test_trials_that_fit_on_one_node(
    cpus: int, gpus: float, has: dict[str, float], trials: int
) -> None:
    assert fit(Resources(cpus=cpus, gpus=gpus), has) == trials


@pytest.mark.parametrize("count", range(1, 101))
def test_the_fraction_for_a_number_of_trials_fits_exactly_that_number(count: int) -> None:
    assert to_a_gpu(fraction(count)) == count
    assert count * fraction(count) <= 1 < (count + 1) * fraction(count)


@pytest.mark.parametrize("gpus", [-0.5, 0.001, 1.5, float("nan"), float("inf"), True, "all", None])
def test_gpus_that_ray_cannot_provide_are_refused(gpus: object) -> None:
    with pytest.raises(ConfigError, match="gpus is "):
        Resources(gpus=gpus)  # type: ignore[arg-type]


def test_places_are_counted_node_by_node() -> None:
    """A trial can't use CPUs of two nodes."""
    have = Capacity(live=(HEAD, CPUS, SLIM))
    assert have.places(Resources(cpus=2)) == 3 + 1
    assert have.places(Resources(cpus=5)) == 1


def test_two_nodes_with_one_gpu_each_do_not_provide_two_gpus() -> None:
    have = Capacity(live=(HEAD, SLIM, SLIM))
    assert have.places(Resources(gpus=1)) == 2
    with pytest.raises(ResourceError, match="1 CPU and 2 GPUs and the largest node, 10"):
        have.check(Resources(gpus=2))


def test_nodes_that_the_autoscaler_may_add_are_counted(tmp_path: Path) -> None:
    """The file allows 10 workers: 4 with a GPU and 8 CPUs, and 6 with 4 CPUs."""
    have = Capacity(live=(HEAD,), file=cloud(tmp_path))
    assert have.places(Resources()) == 4 * 8 + 6 * 4
    assert have.places(Resources(gpus=0.5)) == 4 * 2
    assert Capacity(live=(HEAD,), file=cloud(tmp_path, 3)).places(Resources()) == 3 * 8
    # Without max_workers, Ray's default maximum applies.
    assert Capacity(live=(HEAD,), file=cloud(tmp_path, None)).places(Resources()) == 2 * 8


def test_live_nodes_are_not_counted_twice(tmp_path: Path) -> None:
    worker = Node(name="10.0.0.5", resources={"CPU": 8, "GPU": 1})
    have = Capacity(live=(HEAD, worker, worker), file=cloud(tmp_path))
    assert have.places(Resources(gpus=1)) == 4
    whole = Capacity(live=(HEAD, *[worker] * 4, *[CPUS] * 6), file=cloud(tmp_path))
    assert whole.places(Resources()) == 4 * 8 + 6 * 7


def test_a_node_type_can_replace_idle_nodes(tmp_path: Path) -> None:
    """All ten live nodes have only CPUs; idle ones can be replaced by one with a GPU."""
    have = Capacity(live=(HEAD, *[CPUS] * 10), file=cloud(tmp_path))
    assert have.check_asked(Resources(gpus=1)) == Resources(gpus=1)
    assert have.places(Resources(gpus=1)) == 4


def test_a_head_gets_trials_only_if_it_has_cpus(tmp_path: Path) -> None:
    assert Capacity(live=(HEAD, CPUS)).places(Resources()) == 7
    head = Node(name="10.0.0.1", resources={"CPU": 2}, head=True)
    assert Capacity(live=(head, CPUS)).places(Resources()) == 9


def test_a_request_that_no_node_type_can_meet_is_refused_by_the_file(tmp_path: Path) -> None:
    file = cloud(tmp_path)
    check_cluster(file, Resources(cpus=8))
    check_cluster(file, Resources(cpus=8, gpus=AUTO))
    for resources, asked, largest in (
        (Resources(cpus=9), "9 CPUs", "gpu, has 8 CPUs and 1 GPU"),
        (Resources(cpus=9, gpus=AUTO), "9 CPUs and 1 GPU", "gpu, has 8 CPUs and 1 GPU"),
        (Resources(gpus=2), "1 CPU and 2 GPUs", "gpu, has 8 CPUs and 1 GPU"),
    ):
        with pytest.raises(ResourceError) as told:
            check_cluster(file, resources)
        (line,) = str(told.value).splitlines()
        assert line == (
            f"a trial asks for {asked} and the largest node type, {largest}: lower resources in "
            f"the STUDY, or give {tmp_path / 'cluster.yaml'} a larger type"
        )


def test_a_node_type_with_no_workers_meets_no_request(tmp_path: Path) -> None:
    types: dict[str, object] = {
        "head": {"resources": {"CPU": 2}},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 0},
    }
    have = Capacity(file=cluster(types, 5, tmp_path))
    with pytest.raises(ResourceError, match="the largest node type, head, has 2 CPUs"):
        have.check(Resources(cpus=4))
    assert have.places(Resources()) == 2  # only the head itself


def test_without_gpus_a_request_for_up_to_one_uses_cpus_and_more_is_refused() -> None:
    have = Capacity(live=(CPUS,))
    for gpus in (0.25, 1, AUTO):
        assert have.check_asked(Resources(cpus=2, gpus=gpus)) == Resources(cpus=2)
    with pytest.raises(ResourceError, match="1 CPU and 2 GPUs and this machine has 7 CPUs"):
        have.check_asked(Resources(gpus=2))


@pytest.mark.parametrize("types", [{}, {"head": {}, "gpu": {}}])
def test_nothing_is_refused_if_the_file_does_not_say_what_nodes_have(
    types: dict[str, object], tmp_path: Path
) -> None:
    have = Capacity(file=cluster(types, 3, tmp_path))
    assert have.unknown
    assert have.check_asked(Resources(cpus=64, gpus=8)) == Resources(cpus=64, gpus=8)


def test_machines_by_address_are_known_once_all_are_alive(tmp_path: Path) -> None:
    file = cluster(dict(LOCAL), 2, tmp_path)
    half, whole = (Capacity(live=(HEAD, *[SLIM] * n), file=file) for n in (1, 2))
    assert half.unknown
    assert not whole.unknown
    half.check(Resources(cpus=4))
    with pytest.raises(ResourceError, match=r"4 CPUs and the largest node, .* has 3 CPUs"):
        whole.check(Resources(cpus=4))
    assert half.places(Resources()) == whole.places(Resources()) == 6


def test_a_search_waits_for_machines_by_address(tmp_path: Path) -> None:
    file = cluster(dict(LOCAL), 2, tmp_path)
    slept: list[float] = []

    def look() -> Capacity:
        return Capacity(live=(HEAD, SLIM) if len(slept) >= 5 else (HEAD,), file=file)

    found = settled(Resources(gpus=AUTO), look, wait=slept.append)
    assert found.live == (HEAD, SLIM)
    assert len(slept) == 5


def test_after_a_while_a_search_starts_with_the_machines_that_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ARRIVAL_SECONDS", 20.0)
    have = Capacity(live=(CPUS,), file=cluster(dict(LOCAL), 2, tmp_path))
    slept: list[float] = []
    found = settled(Resources(gpus=AUTO), lambda: have, wait=slept.append)
    assert sum(slept) == 20
    assert found.check_asked(Resources(gpus=AUTO)) == Resources()


def test_a_search_does_not_wait_for_nodes_of_known_types(tmp_path: Path) -> None:
    have = Capacity(live=(HEAD,), file=cloud(tmp_path))

    def wait(seconds: float) -> None:
        raise AssertionError("waited")

    assert settled(Resources(gpus=AUTO), lambda: have, wait=wait) is have
