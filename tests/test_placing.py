"""Test how Ray places trials on declared GPUs, on a machine without GPUs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import sabtune.tuning  # noqa: F401  sets variables that Ray reads on import

# isort: split
import pytest
import ray
import torch
from optuna.trial import TrialState

from sabtune.cluster import capacity
from sabtune.cluster.ray_session import left_in_peace, some_ray
from sabtune.storage.store import Store
from sabtune.study.definition import Resources
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.training.trial import TrialSpec
from sabtune.tuning import placement, probe, run
from sabtune.tuning.budget import Budget
from sabtune.tuning.trainable import Trial
from tests.local_cluster import Nodes, local_cluster
from tests.studies import learnable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def declared(nodes: Nodes) -> Iterator[None]:
    """Connect to a cluster on this machine whose nodes declare these resources."""
    with local_cluster(nodes) as cluster, left_in_peace():
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        yield


def witness(folder: str, together: int) -> type[Trial]:
    """Return a trial class that records its node and its GPUs at each step.

    The first trials wait, at most 90 seconds, until `together` trials have started.
    """

    class Witness(Trial):
        def step(self) -> dict[str, Any]:
            import time

            began = time.time()
            (Path(folder) / "begun" / str(self.task_config["assignment"]["number"])).touch()
            while len(list((Path(folder) / "begun").iterdir())) < together:
                if time.time() > began + 90:
                    break
                time.sleep(0.1)
            answer = super().step()
            seen = {
                "trial": self.task_config["assignment"]["number"],
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
    """Run a search on these nodes; return the recorded steps, the store and the budget.

    Also check that the search prints the placement that the study stores.
    """
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
    kept = StudyRecord.open(store, "learnable").plan.placed
    assert said == [kept] * bool(kept)
    steps = [
        json.loads(line) for of in seen.glob("*.jsonl") for line in of.read_text().splitlines()
    ]
    assert {step["trial"] for step in steps} == set(range(trials))
    return steps, store, budget


def most_at_once(steps: list[dict[str, Any]]) -> dict[tuple[str, int], int]:
    """Return the most trials that shared each GPU at a time, from first step to last."""
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


def test_fractions_share_a_gpu_and_no_trial_is_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.4 GPUs per trial, each of three GPUs holds two trials: six in all, not seven."""
    nodes = [{"num_cpus": 8, "num_gpus": 2}, {"num_cpus": 8, "num_gpus": 1}]
    steps, store, budget = searched(tmp_path, monkeypatch, nodes, "gpus=0.4", together=6)
    most = most_at_once(steps)
    assert len(most) == 3
    assert set(most.values()) == {2}
    trials = StudyRecord.open(store, "learnable").trials
    seconds = sum(trial.seconds for trial in trials)
    assert budget.used_gpu_hours == pytest.approx(0.4 * seconds / 3600)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert complete
    for trial in complete:  # it runs on the CPU if torch finds no GPU
        found = trial.environment["hardware"]["gpu"] is not None
        assert found == torch.cuda.is_available()


def test_cpus_limit_the_trials_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head without CPUs gets no trials, and a node with three CPUs gets three."""
    nodes = [{"num_cpus": 0, "num_gpus": 1}, {"num_cpus": 3, "num_gpus": 1}]
    steps, _, _ = searched(tmp_path, monkeypatch, nodes, "gpus=0.125", together=3)
    assert list(most_at_once(steps).values()) == [3]


def test_auto_shares_a_gpu_by_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe runs on a worker with a whole GPU; here, its reading says that three trials fit."""
    read = probe.Reading(name="H100", peak=20_000, total=80_000)
    asked = []

    def reading(spec: TrialSpec) -> probe.Reading:
        made = ray.remote(num_gpus=1)(lambda: ray.get_gpu_ids())
        asked.append(ray.get(made.remote()))
        return read

    monkeypatch.setattr(placement, "on_a_gpu", reading)
    nodes = [{"num_cpus": 8, "num_gpus": 1}]
    steps, store, _ = searched(tmp_path, monkeypatch, nodes, "gpus='auto'", together=3)
    assert asked == [[0]]
    assert list(most_at_once(steps).values()) == [3]
    plan = StudyRecord.open(store, "learnable").plan
    assert (plan.placed or "").startswith("A trial took 19.53 GiB at its peak, of the 78.1 GiB")


def test_the_probe_runs_on_a_worker_with_a_gpu(tmp_path: Path) -> None:
    """Check that the reading has a name and a total, or neither if torch finds no GPU there."""
    spec = placement.first(load(learnable(tmp_path)))
    with declared([{"num_cpus": 0}, {"num_cpus": 2, "num_gpus": 1}]):
        reading = placement.on_a_gpu(spec)
    assert (reading.total > 0) == bool(reading.name)


def test_capacity_equals_what_ray_places(tmp_path: Path) -> None:
    """Ray starts as many actors with these resources as `capacity` counts."""
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text("{cluster_name: lab, provider: {type: aws}, max_workers: 3}")
    with declared([{"num_cpus": 4, "num_gpus": 1}, {"num_cpus": 9, "num_gpus": 2}]):
        read = capacity.capacity(bootstrap)
        assert read.file is not None
        assert read.file.most_workers == 3
        have = capacity.capacity(tmp_path / "none.yaml")
        assert Counter(node.head for node in have.live) == {True: 1, False: 1}
        for cpus, gpus in ((1, 0.4), (1, 0.25), (4, 0.3333), (5, 0), (1, 2)):
            asked = Resources(cpus=cpus, gpus=gpus)
            assert started(cpus, gpus, have.places(asked)), (cpus, gpus)


def test_the_heads_file_does_not_apply_to_a_local_ray(tmp_path: Path) -> None:
    bootstrap = tmp_path / "bootstrap.yaml"
    bootstrap.write_text("{cluster_name: lab, provider: {type: aws}, max_workers: 3}")
    with some_ray(tmp_path / "ray.log"):
        have = capacity.capacity(bootstrap)
    assert have.file is None
    assert [node.head for node in have.live] == [True]
    assert have.places(Resources()) == have.live[0].resources["CPU"]


def started(cpus: int, gpus: float, places: int) -> bool:
    """Return whether Ray places this many actors at the same time, and not one more."""

    class Seat:  # local, so that workers need not import this file
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
