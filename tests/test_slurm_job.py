"""Test what slurm.sbatch runs, with scripts that stand for Slurm's programs; see test_slurm.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sabtune.cluster.slurm_job import (
    RESTART,
    STOP,
    arguments,
    end_processes,
    guard,
    is_final,
    is_open,
    job_environment,
    prepare,
)
from sabtune.errors import ClusterError, ConfigError

ROOT = Path(__file__).parent.parent


def test_the_words_of_a_job_are_those_of_a_search_or_another_command() -> None:
    assert arguments(["x.py", "--new-x"], restarted=False) == ["search", "x.py", "--new-x"]
    for words in (["search", "x.py"], ["confirm", "x"], ["ablate", "x"], ["doctor"]):
        assert arguments(words, restarted=False) == words
    retried = ["search", "x.py", "--retry-failed"]
    assert arguments(retried, restarted=False) == retried
    assert arguments(retried, restarted=True) == ["search", "x.py"]
    with pytest.raises(ConfigError, match="use --study NAME, not --new"):
        arguments(["x.py", "--new"], restarted=False)


@pytest.mark.parametrize(
    ("code", "ending", "kills", "final"),
    [
        (0, "", 1, True),
        (0, RESTART, 0, True),  # it was complete just before its time was over
        (143, RESTART, 0, False),
        (1, RESTART, 0, False),
        (143, STOP, 1, True),
        (1, "", 1, True),
        (2, "", 1, True),
        (137, "", 1, False),
        (139, "", 3, False),
        (137, "", 4, True),
    ],
)
def test_which_ends_of_a_command_are_final(code: int, ending: str, kills: int, final: bool) -> None:
    assert is_final(code, ending, kills) is final


def test_the_environment_of_a_job() -> None:
    given = {"SLURM_JOB_ID": "12", "SLURM_NNODES": "2", "PATH": "/bin"}
    made = job_environment(Path("/shared/sabtune-12"), given)
    assert made["RAY_TMPDIR"] == "/tmp/sab-12"
    assert made["RAY_AUTH_TOKEN_PATH"] == "/shared/sabtune-12/token"
    assert made["PATH"].split(":") == [str(Path(sys.executable).parent), "/bin"]
    assert "SABTUNE_LOCK_SECONDS" not in made
    restarted = given | {"SLURM_RESTART_COUNT": "1"}
    assert job_environment(Path("/x"), restarted)["SABTUNE_LOCK_SECONDS"] == "180"
    own = restarted | {"SABTUNE_LOCK_SECONDS": "9"}
    assert job_environment(Path("/x"), own)["SABTUNE_LOCK_SECONDS"] == "9"


def test_a_path_too_long_for_sockets_is_one_line() -> None:
    given = {"SLURM_JOB_ID": "12", "SLURM_NNODES": "2"}
    longest = "/" + "x" * (37 - len("//sab-12"))
    made = job_environment(Path("/x"), given | {"RAY_TMPDIR": longest})
    assert len(made["RAY_TMPDIR"]) == 37
    too_long = {"RAY_TMPDIR": f"{longest}x"}
    with pytest.raises(ClusterError, match="has more than 37 characters: set RAY_TMPDIR"):
        job_environment(Path("/x"), given | too_long)
    job_environment(Path("/x"), given | too_long | {"SLURM_NNODES": "1"})


def test_a_folder_is_for_its_owner_and_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "sabtune-1"
    prepare(folder)
    token = (folder / "token").read_text()
    assert len(token) == 64
    for name in ("code", "driver", "ending", "kills"):
        (folder / name).write_text("1")
    prepare(folder)
    assert {path.name for path in folder.iterdir()} == {"token", "kills"}
    assert (folder / "token").read_text() != token
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ClusterError, match=r"can't be written .*: submit in a folder"):
        prepare(tmp_path / "missing" / "sabtune-1")


@pytest.mark.parametrize(
    ("answers", "ends_at", "lost"),
    [
        ([True, False, False, False, False], None, True),
        ([True, False, False, False, True, False, False, False, False], None, True),
        ([True, False, False, False, True], 5, False),
        ([False] * 18, None, True),  # it never came up
        ([False] * 6, 6, False),
        ([True, False, False, False, False], 5, False),  # it ended while nobody looked
    ],
)
def test_the_other_nodes_notice_a_lost_head(
    answers: list[bool], ends_at: int | None, lost: bool
) -> None:
    left, called = iter(answers), []
    asked = 0

    def is_up() -> bool:
        nonlocal asked
        asked += 1
        return next(left)

    guard(is_up, lambda: asked == ends_at, lost=lambda: called.append(1), seconds=0)
    assert bool(called) is lost
    assert asked == len(answers)


def test_a_port_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert is_open(address)
    assert not is_open(address)


def test_the_processes_of_a_folder_are_ended(tmp_path: Path) -> None:
    paths = [tmp_path / "sab-1" / "socket", tmp_path / "sab-12" / "socket"]
    of_job, other = (subprocess.Popen(["tail", "--follow", "/dev/null", path]) for path in paths)
    end_processes(f"{tmp_path}/sab-1/")
    assert of_job.wait(timeout=10) == -signal.SIGTERM
    assert other.poll() is None
    other.kill()
    other.wait()


PROGRAMS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done\nSLURMD_NODENAME=n1 SLURM_NODEID=0 exec "$@"',
    "squeue": "echo RUNNING",
    "scontrol": 'echo "$@" >>"$FAKE/scontrol"',
    "sabtune": 'echo "sabtune $*"\n. "$FAKE/does"',
}


class Fake:
    """A job of slurm.sbatch on one node, with programs that stand for Slurm's and sabtune."""

    def __init__(self, folder: Path):
        self.folder, self.work = folder, folder / "work"
        (folder / "venv" / "bin").mkdir(parents=True)
        (folder / "tmp").mkdir()
        self.work.mkdir()
        for name, text in PROGRAMS.items():
            path = folder / "venv" / "bin" / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        python = Path(sys.executable).resolve()
        (folder / "venv" / "bin" / "python3").symlink_to(python)

    def start(self, does: str, *words: str, **variables: str) -> subprocess.Popen[str]:
        (self.folder / "does").write_text(does)
        environment = {
            "PATH": f"{self.folder / 'venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "FAKE": str(self.folder),
            "SABTUNE_VENV": str(self.folder / "venv"),
            "SLURM_JOB_ID": "5",
            "SLURM_NNODES": "1",
            "SLURM_CPUS_ON_NODE": "1",
            "RAY_TMPDIR": str(self.folder / "tmp"),
        }
        return subprocess.Popen(
            ["bash", str(ROOT / "slurm.sbatch"), *words],
            cwd=self.work,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, does: str, *words: str, **variables: str) -> tuple[int, str]:
        """Return the exit code of the job and its output."""
        process = self.start(does, *words, **variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def interrupt(self, number: signal.Signals) -> tuple[int, str]:
        """Send a job a signal while its command runs; return its exit code and its output."""
        does = "trap 'kill $!; exit 143' TERM\nsleep 60 >/dev/null 2>&1 & wait"
        process = self.start(f"{does}\n", "x.py")
        assert process.stdout is not None
        assert process.stdout.readline() == "sabtune search x.py\n"
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    @property
    def shared(self) -> Path:
        return self.work / "sabtune-5"

    @property
    def requeues(self) -> int:
        path = self.folder / "scontrol"
        return path.read_text().count("requeue 5\n") if path.exists() else 0


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    yield Fake(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []  # Ray's folder is gone


def test_a_command_that_succeeds_leaves_no_folder(fake: Fake) -> None:
    code, output = fake.run("echo well; exit 0", "x.py", "--hours", "2")
    assert (code, output) == (0, "sabtune search x.py --hours 2\nwell\n")
    assert not fake.shared.exists()
    assert fake.requeues == 0


def test_a_mistake_ends_the_job(fake: Fake) -> None:
    code, output = fake.run("echo sabtune: no such file >&2; exit 2", "x.py")
    assert code == 2
    assert "sabtune: no such file" in output
    assert fake.run("exit 0", "x.py", "--new")[0] == 2
    assert fake.requeues == 0
    code, output = fake.run("exit 0", "x.py", SABTUNE_VENV=str(fake.folder))
    assert code == 2
    (line,) = output.splitlines()
    assert line.endswith("/bin/python3 has no sabtune: set SABTUNE_VENV to its environment")


def test_a_killed_command_is_queued_again_three_times(fake: Fake) -> None:
    assert fake.run("kill -KILL $$", "x.py")[0] == 137
    assert fake.requeues == 1
    assert (fake.shared / "kills").read_text() == "1"
    (fake.shared / "kills").write_text("3")
    code, output = fake.run("kill -KILL $$", "x.py")
    assert code == 137
    assert "queued again" not in output
    assert fake.requeues == 1
    assert not (fake.shared / "token").exists()


def test_a_job_at_its_time_limit_is_queued_again_and_one_to_stop_is_not(fake: Fake) -> None:
    code, output = fake.interrupt(signal.SIGTERM)
    assert code == 143
    assert fake.requeues == 1
    assert "ended with 143; the job is queued again" in output
    assert (fake.shared / "kills").read_text() == "0"
    code, _ = fake.interrupt(signal.SIGINT)
    assert code == 143
    assert fake.requeues == 1
