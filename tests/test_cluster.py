"""Test a cluster of a head and two workers from cluster.local.yaml, used from a laptop."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.trial_record import TrialRecord
from tests.clusters import Lab
from tests.faults import assert_as_unbroken, records, study
from tests.hosts import ROOT, Host, network
from tests.studies import own

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CLUSTER = ("--cluster", "cluster.yaml")

RARELY = {"plain": {"report_every": 100}}
"""Trials that report, and so write, less often than others."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Yield a cluster for all tests of this file; the last test shuts it down."""
    with network(tmp_path_factory.mktemp("hosts")) as hosts:
        lab = Lab(hosts)
        lab.up()
        yield lab


def hosts_of(trials: list[TrialRecord]) -> set[str]:
    return {trial.environment["hardware"]["host"] for trial in trials}


def committed(host: Host, file: str) -> str:
    """Make the host's home a git repository with one file; return the commit."""
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", file], ["commit", "-qm", "A study"]):
        host.run(*git, *words)
    return host.run("git", "rev-parse", "HEAD").stdout.strip()


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # MLflow's, of its own classes
def test_a_study_with_own_parts_is_searched_on_all_machines(lab: Lab) -> None:
    own(lab.laptop.home, trials=9, updates=4000)
    commit = committed(lab.laptop, "own.py")
    done = lab.sabtune("search", "own.py", *CLUSTER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "On the cluster at 10.0.0.2:6379: 3 nodes, 3 CPUs, 0 GPUs" in done.stdout
    assert "Study own: 9 trials (9 complete)" in done.stdout

    trials = records(lab.store, "own")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 9
    assert hosts_of(trials) == {"head", "worker1", "worker2"}
    assert {trial.environment["study"]["commit"] for trial in trials} == {commit}
    assert_as_unbroken(trials[0])
    client = mlflow.MlflowClient(lab.store.mlflow_uri)
    experiment = client.get_experiment_by_name("own")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 10  # the search and its trials
    assert {run.info.status for run in runs} == {"FINISHED"}
    confirmed = lab.sabtune("confirm", "own", "--top", 1, "--seeds", 1, *CLUSTER)
    assert confirmed.returncode == 0, confirmed.stdout + confirmed.stderr
    assert "Champion of own: trial" in confirmed.stdout
    again = lab.head.run("bash", "-c", ". ~/.sabtune.sh; sabtune reproduce own 0")
    assert "metrics are the same, bit for bit." in again.stdout
    mlflow.set_tracking_uri(lab.store.mlflow_uri)
    model = mlflow.pyfunc.load_model("models:/own@champion")
    assert model.predict(np.zeros((2, 5, 1), np.float32)).shape == (2, 5, 2)
    report = lab.sabtune("report", "own", *CLUSTER)
    assert "Study own: 9 trials (9 complete)" in report.stdout


def test_ui_shows_the_clusters_mlflow(lab: Lab) -> None:
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:5000/health').read())"
    with lab.driver("ui", *CLUSTER) as ui:
        ui.until("MLflow of the cluster: http://127.0.0.1:5000")
        assert "OK" in lab.laptop.run(sys.executable, "-c", fetch).stdout
        interrupt(ui.process.pid)
        assert ui.end() == 0


def test_doctor_asks_every_machine(lab: Lab) -> None:
    (lab.laptop.home / "dist" / "a.whl").touch()
    unsafe = lab.sabtune("doctor", *CLUSTER)
    assert unsafe.returncode == 1
    assert "others may read the token" in unsafe.stdout
    (lab.laptop.home / ".ray" / "auth_token").chmod(0o600)
    done = lab.sabtune("doctor", *CLUSTER)
    assert done.stderr == ""
    here, _, cluster = done.stdout.partition("cluster.yaml\n")
    assert here.startswith("This machine, before ")
    for host in (lab.head, *lab.workers):
        assert f"{host.name} ({host.address})" in cluster
    assert "no answer" not in cluster
    assert done.returncode == ("wrong: " in done.stdout), done.stdout


def test_a_search_is_detached_followed_stopped_and_resumed_on_the_head(lab: Lab) -> None:
    study(lab.laptop.home, "left", ["plain"] * 3, updates=10**7)
    with lab.driver("search", "left.py", *CLUSTER) as search:
        search.until("#2 60/10000000 updates")
        interrupt(search.process.pid)
        assert search.end() == 130
        assert "left keeps running on the cluster" in search.shown
    again = lab.sabtune("search", "left.py", *CLUSTER)
    assert again.returncode == 2
    (line,) = again.stderr.splitlines()
    assert "'left' is being searched on the cluster" in line
    assert "A search is writing to it now" in lab.sabtune("status", "left", *CLUSTER).stdout
    assert "running" in lab.sabtune("status", *CLUSTER).stdout
    with lab.driver("status", "--follow", *CLUSTER) as following:
        following.until("#2 60/10000000 updates")  # --follow begins with the output so far
        stopped = lab.sabtune("stop", "left", *CLUSTER)
        assert stopped.returncode == 0, stopped.stderr
        assert following.end() == 130
    assert [trial.state for trial in records(lab.store, "left")] == [TrialState.RUNNING] * 3

    told = {trial.number: set(trial.scores) for trial in records(lab.store, "left")}
    command = "sabtune search sabtune-studies/*/left.py --hours 0.02"
    done = lab.head.run("bash", "-c", f". ~/.sabtune.sh; {command}", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "On the cluster at 10.0.0.2:6379: 3 nodes" in done.stdout
    trials = records(lab.store, "left")
    assert any(set(trial.scores) > told[trial.number] for trial in trials)
    for trial in trials:
        assert f"#{trial.number} resumes at" in done.stdout
        assert sorted(trial.scores) == list(range(30, max(trial.scores) + 1, 30))


def interrupt(prefix: int) -> None:
    """Send SIGINT to the command on a host, the only child of the process `prefix`."""
    child = Path(f"/proc/{prefix}/task/{prefix}/children").read_text()
    os.kill(int(child), signal.SIGINT)


def test_a_files_folder_that_some_machines_cannot_see_is_refused(lab: Lab) -> None:
    study(lab.laptop.home, "hidden", ["plain"])
    done = lab.sabtune("search", "hidden.py", *CLUSTER, "--files", lab.head.home / "own")
    assert done.returncode == 2
    assert "worker1, worker2 of the cluster can't see the files in" in done.stdout


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RAY_AUTH_TOKEN": "f" * 64}, "refuses our token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere"}, "there is no token for the cluster in /nowhere"),
    ],
)
def test_the_cluster_refuses_clients_without_the_token(
    lab: Lab, environment: dict[str, str], says: str
) -> None:
    refused = lab.sabtune("status", *CLUSTER, environment=environment)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert says in line


def test_another_version_of_ray_is_one_line(lab: Lab) -> None:
    """Check the error where the metadata of the laptop's Ray names another version."""
    fake = lab.laptop.home / "fake"
    (fake / "ray-2.59.0.dist-info").mkdir(parents=True)
    (fake / "ray-2.59.0.dist-info" / "METADATA").write_text("Name: ray\nVersion: 2.59.0\n")
    environment = {"PYTHONPATH": f"{fake}:{ROOT}"}
    refused = lab.sabtune("status", *CLUSTER, environment=environment)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "you have Ray 2.59.0" in line
    assert "install the same on both" in line


def test_trials_of_a_lost_machine_resume_on_others(lab: Lab) -> None:
    study(lab.laptop.home, "lost", ["plain"] * 4, updates=8000, kinds=RARELY)
    lost = lab.workers[-1]
    with lab.driver("search", "lost.py", *CLUSTER) as search:
        search.until("#2 100/8000 updates")
        search.until(lambda: running_on(lab, "lost", lost.name))
        there = running_on(lab, "lost", lost.name)
        lost.kill()
        assert search.end() == 0, search.shown + search.errors
    trials = records(lab.store, "lost")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in there:
        assert hosts_of([trials[trial.number]]) <= {"head", "worker1"}
        assert_as_unbroken(trials[trial.number])


def running_on(lab: Lab, name: str, host: str) -> list[TrialRecord]:
    """Return the trials running on a host that have a checkpoint."""
    running = [trial for trial in records(lab.store, name) if trial.state == TrialState.RUNNING]
    return [trial for trial in running if len(trial.scores) > 2 and hosts_of([trial]) == {host}]


def test_after_the_loss_of_the_head_a_new_one_resumes_from_the_files(lab: Lab) -> None:
    study(lab.laptop.home, "headless", ["plain"] * 4, updates=6000, kinds=RARELY)
    with lab.driver("search", "headless.py", *CLUSTER) as search:
        search.until("#2 100/6000 updates")  # at least one of the first two trials has ended
        search.until(lambda: ended_in_copy(lab, "headless"))
        lab.head.kill()
        assert search.end() == 2
        (line,) = search.errors.splitlines()
        assert "the head" in line
    ended = ended_in_copy(lab, "headless")  # trials that ended later may have to resume
    assert ended
    lab.head = lab.network.add("other-head")
    lab.workers = [worker for worker in lab.workers if worker.process.poll() is None]
    lab.up()
    done = lab.sabtune("search", "headless.py", *CLUSTER)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = records(lab.store, "headless")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in ended:
        assert trials[trial.number] == trial
        assert f"\n#{trial.number} " not in done.stdout  # not run again
    for trial in trials:
        assert_as_unbroken(trial)


def ended_in_copy(lab: Lab, name: str) -> list[TrialRecord]:
    """Return the complete trials in the newest copy of the head's database."""
    newest = max((lab.network.shared / "snapshots").glob("optuna-*.db"))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(newest, Path(folder) / "optuna.db")
        copied = Store.at(folder, lab.network.shared)
        return [trial for trial in records(copied, name) if trial.test]


def test_ray_down_leaves_nothing_running(lab: Lab) -> None:
    assert lab.head.processes()
    lab.ray("down", "--yes", str(lab.file))
    alive = [host for host in (lab.head, *lab.workers) if host.process.poll() is None]
    lab.until(lambda: not any(host.processes() for host in alive))
