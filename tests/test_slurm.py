"""Test slurm.sbatch on a real Slurm cluster: on all nodes, and whatever ends a job or a node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sabtune.study.trial_record import TrialRecord
from sabtune.training.trial import Progress
from tests.faults import in_one_go, records
from tests.hosts import Host, network
from tests.slurm import Job, Slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TRIALS = 4

ONE_NODE = ("--nodes=1",)

STUDY = '''
"""Does an LSTM remember the first bit? It takes its time, while a file of the job's name exists."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import sabtune as sab
from sabtune.models import LSTM

FOLDER = Path({folder!r})


class FirstBit(sab.SyntheticTask):
    inputs, outputs, chance = 1, 2, 0.5
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(sab.TaskConfig):
        length: int = 4

        def build(self):
            return FirstBit(self)

    def batch(self, size, length, generator, device=torch.device("cpu")):
        if (FOLDER / f"slow-{{os.environ.get('SLURM_JOB_ID')}}").exists():
            time.sleep(0.2)
        x = torch.randint(0, 2, (size, length, 1), generator=generator)
        targets = x[:, :1, 0].expand(size, length)
        return sab.Batch(x=x.float(), targets=targets, scored=torch.arange(length) == length - 1)


STUDY = sab.Study(
    name="tiny",
    task=FirstBit.Config(length=4),
    ladder=sab.Ladder(lengths=(4, 8), select=(4,), sequences=32),
    trials={trials},
    points=[{{"hidden": hidden}} for hidden in range(8, 8 + {trials})],
    pruning=None,
)


def space(trial):
    model = LSTM.Config(hidden=trial.suggest_int("hidden", 8, 32))
    train = sab.TrainConfig(updates=100, batch_size=16, report_every=5, learning_rate=0.02)
    return sab.TrialConfig(model=model, train=train)
'''


class Lab:
    """A Slurm cluster with a study file.

    Two jobs run while others are tested: `limited` reaches its time limit, and `examined` is a
    doctor on two nodes with GPUs.
    """

    def __init__(self, slurm: Slurm):
        self.slurm = slurm
        text = STUDY.format(folder=str(slurm.work), trials=TRIALS)
        (slurm.work / "tiny.py").write_text(text)
        limit = ("--partition=single", "--time=2", "--signal=B:TERM@50")
        self.limited = self.search("limited", *ONE_NODE, *limit, slow=True)
        # the tasks of a job's script are those of Ray, whatever the job says
        options = ("--partition=gpu", "--nodes=2", "--gres=gpu:2", "--ntasks-per-node=2")
        self.examined = slurm.submit("doctor", options=options)

    def search(self, name: str, *options: str, slow: bool = False) -> Job:
        """Submit a search of the file as a study of this name.

        slow: whether its trials hardly move until `hurry` is called.
        """
        job = self.slurm.submit("tiny.py", "--study", name, options=options)
        if slow:
            self.slowing(job).touch()
        return job

    def slowing(self, job: Job) -> Path:
        return self.slurm.work / f"slow-{job.number}"

    def hurry(self, job: Job) -> None:
        self.slowing(job).unlink()

    def trials(self, name: str) -> list[TrialRecord]:
        return records(self.slurm.store, name)

    def running_on(self, name: str, node: Host) -> list[TrialRecord]:
        """Return the trials that run on a node and have a checkpoint."""
        running = [trial for trial in self.trials(name) if trial.state == TrialState.RUNNING]
        return [trial for trial in running if len(trial.scores) > 2 and host_of(trial) == node.name]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Yield a cluster for all tests of this file; one of them kills a node."""
    with network(tmp_path_factory.mktemp("slurm")) as hosts:
        yield Lab(Slurm(hosts))


def host_of(trial: TrialRecord) -> str:
    return str(trial.environment["hardware"]["host"])


RESULTS: dict[int, tuple[object, ...]] = {}
"""The results of each trial without an interruption, once they are known."""


def assert_as_unbroken(trials: list[TrialRecord]) -> None:
    """Check the number of trials, and that each has the results of an uninterrupted run.

    The studies differ only in their names, so one run of each trial is enough for all.
    """
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    for trial in trials:
        if trial.number not in RESULTS:
            told: list[Progress] = list(in_one_go(trial))
            scores = {progress.report.step: progress.score for progress in told}
            RESULTS[trial.number] = (scores, told[-1].ladder, told[-1].test)
        assert (trial.scores, trial.ladder, trial.test) == RESULTS[trial.number]


def test_a_job_is_requeued_and_then_loses_a_node(lab: Lab) -> None:
    job = lab.search("requeued", "--nodes=3", slow=True)
    job.until("#2 5/100 updates")
    secret = job.token
    lab.slurm.run("scontrol", "requeue", job.number)
    job.begin_again()
    assert "On the cluster at 10.1.0.1:" in job.output  # on the fast interface
    assert ": 3 nodes, 3 CPUs, 0 GPUs" in job.output
    *left, lost = lab.slurm.nodes
    job.until(lambda: "#2 resumes" in job.output and lab.running_on("requeued", lost))
    assert job.token != secret
    lost.kill()
    there = lab.running_on("requeued", lost)
    assert there
    lab.hurry(job)
    assert job.end() == "COMPLETED 0:0", job.output
    assert job.facts()["Restarts"] == "1"
    trials = lab.trials("requeued")
    assert_as_unbroken(trials)
    for trial in there:
        assert host_of(trials[trial.number]) in {node.name for node in left}
    shown = [job.output, *(path.read_text() for path in lab.slurm.folder.glob("*.log"))]
    assert not any(secret in text for text in shown)
    for node in left:
        lab.slurm.until(lambda node=node: not lab.slurm.processes(node))  # type: ignore[misc]


def test_a_cancelled_job_is_submitted_again(lab: Lab) -> None:
    cancelled = lab.search("cancelled", "--nodes=2", slow=True)
    cancelled.until("#1 5/100 updates")
    lab.slurm.run("scancel", cancelled.number)
    assert cancelled.end().startswith("CANCELLED")
    stopped = lab.search("cancelled", *ONE_NODE, slow=True)
    stopped.until("#0 resumes")
    lab.slurm.run("scancel", "--batch", "--signal=INT", stopped.number)
    assert stopped.end() == "FAILED 143:0"  # ended as by Ctrl-C, and not queued again
    assert "Interrupted. Resume with:" in stopped.output
    last = lab.search("cancelled", *ONE_NODE)
    assert last.end() == "COMPLETED 0:0", last.output
    assert {job.facts()["Restarts"] for job in (cancelled, stopped, last)} == {"0"}
    assert_as_unbroken(lab.trials("cancelled"))


def test_a_complete_study_and_a_mistake_end_the_job(lab: Lab) -> None:
    mistakes = {
        "missing.py": "sabtune: there is no study file",
        "--new": "use --study NAME, not --new",
    }
    jobs = {words: lab.slurm.submit(words, options=ONE_NODE) for words in mistakes}
    for words, job in jobs.items():
        assert job.end() == "FAILED 2:0"
        assert mistakes[words] in job.output
        assert job.facts()["Restarts"] == "0"
    before = lab.trials("cancelled")
    complete = lab.search("cancelled", *ONE_NODE)
    assert complete.end() == "COMPLETED 0:0", complete.output
    assert complete.facts()["Restarts"] == "0"
    assert lab.trials("cancelled") == before


def test_doctor_compares_the_job_with_ray(lab: Lab) -> None:
    job = lab.examined
    assert job.end() == "COMPLETED 0:0", job.output
    assert "The cluster, 2 nodes" in job.output
    assert f"job {job.number}: 2 CPUs, 2 GPUs" in job.output
    assert not re.search(r"Ray gives out \d+ \w+, and job", job.output)


def test_a_job_at_its_time_limit_saves_its_trials_and_is_queued_again(lab: Lab) -> None:
    job = lab.limited
    job.until("the job is queued again")
    assert "Interrupted. Resume with:" in job.output
    assert TrialState.RUNNING in {trial.state for trial in lab.trials("limited")}
    lab.hurry(job)
    lab.slurm.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")
    job.begin_again()
    assert job.end() == "COMPLETED 0:0", job.output
    assert int(job.facts()["Restarts"]) >= 1  # more if other tests took longer than Slurm's delay
    assert "resumes" in job.output
    assert_as_unbroken(lab.trials("limited"))


def test_a_job_that_loses_its_first_node_is_queued_again(lab: Lab) -> None:
    """The other nodes notice the loss, because the script of the job is gone with its node."""
    job = lab.search("headless", "--nodes=1-2", slow=True)
    job.until("#1 5/100 updates")
    assert "2 nodes, 2 CPUs, 0 GPUs" in job.output
    first = next(node for node in lab.slurm.nodes if node.name == job.facts()["BatchHost"])
    first.kill()
    job.until(lambda: job.facts()["Restarts"] == "1")
    job.begin_again()
    job.until("#0 resumes")
    lab.hurry(job)
    assert job.end() == "COMPLETED 0:0", job.output
    assert_as_unbroken(lab.trials("headless"))
