"""Test how many trials share a GPU according to a reading, and that the study stores this."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch

from sabtune.cluster.capacity import Capacity, Node, to_a_gpu
from sabtune.errors import ResourceError
from sabtune.storage.store import Store
from sabtune.study.definition import AUTO, Resources
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import StudyFile
from sabtune.study.summary import overview
from sabtune.study.writer import StudyWriter
from sabtune.training.trial import TrialSpec
from sabtune.tuning import probe
from sabtune.tuning.placement import (
    MEMORY_SHARE,
    MOST_TRIALS_PER_GPU,
    Placement,
    first,
    placed,
    shared,
    trials_a_gpu,
)
from sabtune.tuning.run import open_or_create
from tests.studies import learnable

H100 = Node(name="gpu", resources={"CPU": 16, "GPU": 1})
CPUS = Node(name="cpu", resources={"CPU": 4})


def read(peak: float, total: float = 80_000) -> probe.Reading:
    return probe.Reading(name="H100", peak=peak, total=total)


@pytest.mark.parametrize(
    ("peak", "by_cpus", "count"),
    [
        (MEMORY_SHARE * 80_000 / 3, 16, 3),
        (MEMORY_SHARE * 80_000 / 3 + 1, 16, 2),
        (79_000, 16, 1),  # above the share that trials may use, but one trial fits
        (10, 16, MOST_TRIALS_PER_GPU),
        (10, 5, 5),
        (10, 0, 1),
        (10, None, MOST_TRIALS_PER_GPU),
    ],
)
def test_trials_that_share_a_gpu(peak: float, by_cpus: int | None, count: int) -> None:
    assert trials_a_gpu(read(peak), by_cpus) == count


def test_cpus_next_to_a_gpu_limit_its_trials() -> None:
    nodes = [{"CPU": 6, "GPU": 2}, {"CPU": 4, "GPU": 1}, {"CPU": 64}]
    have = Capacity(live=tuple(Node(name="", resources=of) for of in nodes))
    assert have.most_by_cpus(1) == 4
    assert have.most_by_cpus(4) == 1
    assert Capacity(live=(CPUS,)).most_by_cpus(1) is None


def test_the_placement_is_described_and_counted() -> None:
    found = shared(Resources(gpus=AUTO), Capacity(live=(H100, CPUS)), read(20_000))
    assert found.words == (
        "A trial took 19.53 GiB at its peak, of the 78.1 GiB of H100: 3 trials share one, "
        "each with 1 CPU."
    )
    assert (to_a_gpu(found.gpus), found.at_once) == (3, 3)
    alone = shared(Resources(cpus=2, gpus=AUTO), Capacity(live=(H100,)), read(70_000))
    assert alone.words.endswith("1 trial has a GPU to itself, each with 2 CPUs.")
    assert (alone.gpus, alone.at_once) == (1, 1)
    plain = shared(Resources(gpus=0.5), Capacity(live=(H100, CPUS)), None)
    assert plain == Placement(cpus=1, gpus=0.5, at_once=2)


@pytest.fixture
def asks(tmp_path: Path) -> Callable[[str], tuple[StudyFile, optuna.Study]]:
    """Return a function that opens a study with given resources, always in the same store."""

    def make(resources: str) -> tuple[StudyFile, optuna.Study]:
        path = learnable(tmp_path)
        text = path.read_text().replace("trials=8", f"trials=8, resources=Resources({resources})")
        path.write_text(text)
        file = load(path)
        return file, open_or_create(file, Store(tmp_path / "store").made()).optuna

    return make


Asks = Callable[[str], tuple[StudyFile, optuna.Study]]


def gives(*nodes: Node) -> Callable[[Resources], Capacity]:
    return lambda asked: Capacity(live=nodes)


def never(spec: TrialSpec) -> probe.Reading:
    raise AssertionError("probed")


def test_a_resumed_search_shares_gpus_as_before(asks: Asks) -> None:
    file, study = asks("gpus='auto'")
    asked: list[TrialSpec] = []

    def reading(spec: TrialSpec) -> probe.Reading:
        asked.append(spec)
        return read(20_000)

    before = placed(file, StudyWriter(study), look=gives(H100), read=reading)
    assert asked == [first(file)]
    assert asked[0].run.trial == file.try_space()
    assert asked[0].ladder.lengths == (2, 4, 8)
    file, study = asks("gpus='auto'")
    assert placed(file, StudyWriter(study), look=gives(H100), read=never) == before
    assert before.words in overview(StudyRecord(study), complete=False).budget


def test_without_a_gpu_the_study_runs_on_cpus_and_later_on_gpus(asks: Asks) -> None:
    file, study = asks("cpus=2, gpus='auto'")
    here = placed(file, StudyWriter(study), look=gives(CPUS), read=never)
    words = "No GPU here: each trial runs on 2 CPUs."
    assert here == Placement(cpus=2, gpus=0, at_once=2, words=words)
    assert words in overview(StudyRecord(study), complete=False).budget
    file, study = asks("cpus=2, gpus='auto'")
    there = placed(file, StudyWriter(study), look=gives(CPUS, H100), read=lambda _: read(20_000))
    assert (to_a_gpu(there.gpus), there.at_once) == (3, 3)
    assert StudyRecord(study).plan.placed == there.words


def test_a_fraction_is_not_probed(asks: Asks) -> None:
    file, study = asks("gpus=0.5")
    assert placed(file, StudyWriter(study), look=gives(H100), read=never).at_once == 2
    assert "1 CPU and 0.5 GPU a trial" in overview(StudyRecord(study), complete=False).budget


def test_a_request_that_fits_nowhere_is_refused_before_a_probe(asks: Asks) -> None:
    file, study = asks("cpus=17, gpus='auto'")
    with pytest.raises(ResourceError, match="17 CPUs and 1 GPU and this machine has 16 CPUs and"):
        placed(file, StudyWriter(study), look=gives(H100), read=never)


def test_a_gpu_that_torch_does_not_find_is_not_shared(asks: Asks) -> None:
    file, study = asks("gpus='auto'")
    found = placed(file, StudyWriter(study), look=gives(H100), read=probe.read_gpu)
    if torch.cuda.is_available():
        assert "share one" in found.words
    else:
        assert (found.gpus, found.at_once) == (1, 1)
        assert "torch finds no GPU" in found.words


def test_a_reading_includes_all_memory_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA uses 500 MiB, and the allocator keeps 300 MiB of a peak of 2,000 MiB."""
    mib = 2**20
    cuda = SimpleNamespace(
        mem_get_info=lambda device: ((16_000 - 500 - 300) * mib, 16_000 * mib),
        memory_reserved=lambda device: 300 * mib,
        max_memory_reserved=lambda device: 2_000 * mib,
        get_device_name=lambda device: "T4",
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    reading = probe.held(torch.device("cuda"))
    assert reading == probe.Reading(name="T4", peak=2_500, total=16_000)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_read_while_a_trial_trains_on_it(tmp_path: Path) -> None:
    reading = probe.read_gpu(first(load(learnable(tmp_path))))
    assert 0 < reading.peak < reading.total
