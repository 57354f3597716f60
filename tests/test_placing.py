"""Trials on GPUs that are declared, on machines that have none: how Ray places them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import sabtune.search  # noqa: F401  before Ray, whose environment it sets

# isort: split
import pytest
import ray
import torch
from optuna.trial import TrialState

from sabtune.search import capacity, probe, record, run, sharing
from sabtune.search.budget import Budget
from sabtune.search.cluster import left_in_peace, some_ray
from sabtune.search.study import Resources, load
from sabtune.search.trainable import Trial
from sabtune.store import Store
from sabtune.trial import Assignment
from tests.local_cluster import Nodes, local_cluster
from tests.studies import learnable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@contextmanager
def declared(nodes: Nodes) -> Iterator[None]:
    """Connect to a cluster on this machine whose nodes declare these resources."""
    with local_cluster(nodes) as cluster, left_in_peace():
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        yield


def witness(folder: str, together: int) -> type[Trial]:
    """A trial that writes down, at each step, where it is and which GPUs it was given. The first
    ones stay, a minute and a half at most, until so many have begun."""

    class Witness(Trial):
        def step(self) -> dict[str, Any]:
            import time

            began = time.time()
            (Path(folder) / "begun" / str(self.order.assignment.number)).touch()
            while len(list((Path(folder) / "begun").iterdir())) < together:
                if time.time() > began + 90:
                    break
                time.sleep(0.1)
            answer = super().step()
            seen = {
                "trial": self.order.assignment.number,
                "node": ray.get_runtime_context().get_node_id(),
                "gpus": ray.get_gpu_ids(),
                "began": began,
                "ended": time.time(),
            }
            with (Path(folder) / f"{seen['trial']}.jsonl").open("a") as file:
                file.write(json.dumps(seen) + "\n")
            return answer

    return Witness


def searched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: Nodes,
    resources: str,
    *,
    together: int,
) -> tuple[list[dict[str, Any]], Store, Budget]:
    """What the trials of a search on these nodes wrote down; it says what the study keeps."""
    path, seen = learnable(tmp_path), tmp_path / "seen"
    (seen / "begun").mkdir(parents=True)
    trials = together + 3
    text = path.read_text().replace("    pruning=ASHA(grace=30, reduction=2),\n", "")
    path.write_text(text.replace("trials=8", f"trials={trials}, resources=Resources({resources})"))
    monkeypatch.setattr(run, "Trial", witness(str(seen), together))
    monkeypatch.setattr(run, "some_ray", lambda *_: declared(nodes))
    store, budget = Store(tmp_path / "store").made(), Budget()
    said: list[str] = []
    assert run.search(load(path), store, budget=budget, say=said.append).complete
    kept = record.plan(record.open_study(store, "learnable"))[record.PLACED]
    assert said == [kept] * bool(kept)
    steps = [
        json.loads(line) for of in seen.glob("*.jsonl") for line in of.read_text().splitlines()
    ]
    assert {step["trial"] for step in steps} == set(range(trials))
    return steps, store, budget


def most_at_once(steps: list[dict[str, Any]]) -> dict[tuple[str, int], int]:
    """For each GPU the most trials that were there at the same time: from first step to last."""
    spans: dict[tuple[str, int, int], list[float]] = {}
    for step in steps:
        (gpu,) = step["gpus"]
        span = spans.setdefault((step["node"], gpu, step["trial"]), [step["began"], step["ended"]])
        span[:] = min(span[0], step["began"]), max(span[1], step["ended"])
    there = defaultdict(list)
    for (node, gpu, _), span in spans.items():
        there[node, gpu].append(span)
    most: dict[tuple[str, int], int] = {}
    for place, found in there.items():
        most[place] = max(sum(a <= at < b for a, b in found) for at, _ in found)
    return most


def test_fractions_pack_and_none_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4 of two GPUs of one node and one of another: two on each, six in all, not seven."""
    nodes = [{"num_cpus": 8, "num_gpus": 2}, {"num_cpus": 8, "num_gpus": 1}]
    steps, store, budget = searched(tmp_path, monkeypatch, nodes, "gpus=0.4", together=6)
    most = most_at_once(steps)
    assert len(most) == 3
    assert set(most.values()) == {2}
    trials = record.records(record.open_study(store, "learnable"))
    seconds = sum(trial.seconds for trial in trials)
    assert budget.used_gpu_hours == pytest.approx(0.4 * seconds / 3600)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert complete
    for trial in complete:  # on the CPU where torch finds no GPU, whatever was declared
        found = trial.environment["hardware"]["gpu"] is not None
        assert found == torch.cuda.is_available()


def test_cpus_bound_what_shares_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head without CPUs gets nothing, and three CPUs beside a GPU bear three trials."""
    nodes = [{"num_cpus": 0, "num_gpus": 1}, {"num_cpus": 3, "num_gpus": 1}]
    steps, _, _ = searched(tmp_path, monkeypatch, nodes, "gpus=0.125", together=3)
    assert list(most_at_once(steps).values()) == [3]


def test_auto_shares_as_the_reading_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading is made on a worker that has a whole GPU; here it says three trials fit."""
    read = probe.Reading(name="H100", peak=20_000, total=80_000)
    asked = []

    def reading(assignment: Assignment) -> probe.Reading:
        made = ray.remote(num_gpus=1)(lambda: ray.get_gpu_ids())
        asked.append(ray.get(made.remote()))
        return read

    monkeypatch.setattr(sharing, "on_a_gpu", reading)
    nodes = [{"num_cpus": 8, "num_gpus": 1}]
    steps, store, _ = searched(tmp_path, monkeypatch, nodes, "gpus='auto'", together=3)
    assert asked == [[0]]
    assert list(most_at_once(steps).values()) == [3]
    plan = record.plan(record.open_study(store, "learnable"))
    assert plan[record.PLACED].startswith("A trial took 19.53 GiB at its peak, of the 78.1 GiB")


def test_the_probe_runs_on_a_worker_with_a_gpu(tmp_path: Path) -> None:
    """Here torch finds none there, and the reading says so."""
    assignment = sharing.first(load(learnable(tmp_path)))
    with declared([{"num_cpus": 0}, {"num_cpus": 2, "num_gpus": 1}]):
        reading = sharing.on_a_gpu(assignment)
    assert (reading.total > 0) == bool(reading.name)


def test_what_is_counted_is_what_ray_places(tmp_path: Path) -> None:
    """Actors of these shares, as many as Ray starts, beside as many as `capacity` counts."""
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text("{cluster_name: lab, provider: {type: aws}, max_workers: 3}")
    with declared([{"num_cpus": 4, "num_gpus": 1}, {"num_cpus": 9, "num_gpus": 2}]):
        read = capacity.capacity(bootstrap)
        assert read.file is not None
        assert read.file.together == 3
        have = capacity.capacity(tmp_path / "none.yaml")
        assert Counter(node.head for node in have.live) == {True: 1, False: 1}
        for cpus, gpus in ((1, 0.4), (1, 0.25), (4, 0.3333), (5, 0), (1, 2)):
            asked = Resources(cpus=cpus, gpus=gpus)
            assert started(cpus, gpus, have.places(asked)), (cpus, gpus)


def test_a_heads_file_tells_nothing_about_a_ray_of_our_own(tmp_path: Path) -> None:
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text("{cluster_name: lab, provider: {type: aws}, max_workers: 3}")
    with some_ray(tmp_path / "ray.log"):
        have = capacity.capacity(bootstrap)
    assert have.file is None
    assert [node.head for node in have.live] == [True]
    assert have.places(Resources()) == have.live[0].resources["CPU"]


def started(cpus: int, gpus: float, places: int) -> bool:
    """Whether so many find a place and one more doesn't while they stay."""

    class Seat:  # here, so that it is sent to the workers: to import this file takes them seconds
        def place(self) -> Any:
            return ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()

    seats: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(Seat)
    actors = [seats.remote() for _ in range(places)]
    at = ray.get([actor.place.remote() for actor in actors], timeout=200)
    more = seats.remote()
    ready, _ = ray.wait([more.place.remote()], timeout=3)
    if gpus > 1:
        whole = [{(node, gpu) for gpu in given} for node, given in at]
        assert all(not a & b for a, b in combinations(whole, 2))
    for actor in (*actors, more):
        ray.kill(actor)
    return not ready
