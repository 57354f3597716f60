"""Run a command of sabtune on all nodes of a Slurm job: `slurm.sbatch` starts this module.

The module runs as three kinds of processes, which share a folder of the job:

batch   on the first node, in place of the job's script: starts the others and ends the job
node    on every node: starts Ray there
driver  on the first node, below Ray: runs the command and records its exit code
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from sabtune.cluster.slurm import allocation, head_address
from sabtune.cluster.sockets import RAY_PATH_BYTES, SOCKET_PATH_BYTES
from sabtune.errors import ClusterError, ConfigError, SabtuneError

COMMANDS = ("search", "confirm", "ablate", "doctor")
"""The commands that a job may run; other words are those of a search."""

THIS = (sys.executable, "-P", "-m", "sabtune.cluster.slurm_job")
"""The command of this module, which doesn't import from the folder where it runs."""

SRUN = (
    *("srun", "--quiet", "--export=ALL", "--no-kill", "--kill-on-bad-exit=0", "--wait=0"),
    *("--ntasks-per-node=1", "--cpu-bind=none", "--mpi=none"),
)
"""The command for one task on each node; the others go on if a node or a task is lost."""

TOKEN, CODE, DRIVER, ENDING, KILLS = "token", "code", "driver", "ending", "kills"
"""The files in the folder of a job.

Ray's token; the exit code of the command; the PID of its process; how the job is to end, as RESTART
or STOP; how many times in a row the command was killed.
"""

RESTART, STOP = "restart", "stop"

KILLED = 137
"""The exit code of a command that ended without one, because Ray didn't start or was killed."""

MOST_KILLS = 3
"""How many times in a row a job whose command was killed is queued again."""

OBJECT_STORE_BYTES = 2**28
"""The size of Ray's object store on each node; a search passes only a few small objects."""

START_SECONDS = 180
"""Seconds that the nodes of a job have to start Ray."""

LOCK_SECONDS = 180
"""Seconds that a restarted job waits for locks: a file server may hold those of a lost node."""

GUARD_SECONDS, ANSWER_SECONDS, MOST_MISSED = 10.0, 5.0, 4
"""How often the other nodes look for the head, how long they wait for its answer, and how many
times in a row they may miss it: within a minute in all."""

RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    # a lost node is noticed within 20 seconds, and so is the end of the head by the others
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": str(START_SECONDS),
    "PYTHONUNBUFFERED": "1",
}
"""The environment of every node of a job."""

UNSET = ("RAY_AUTH_TOKEN", "RAY_ADDRESS", "SLURM_CPUS_PER_TASK")
"""Variables that a job removes: another Ray's, and one that would limit the CPUs of its tasks."""


def say(words: str) -> None:
    """Write a line to the job's output."""
    print(f"slurm.sbatch: {words}", file=sys.stderr, flush=True)  # noqa: T201


def arguments(words: Sequence[str], *, restarted: bool) -> list[str]:
    """Return the arguments of sabtune for the words after `slurm.sbatch`.

    A restarted job doesn't retry failed trials once more. Raises ConfigError for --new, with which
    every restart would begin a study.
    """
    if "--new" in words:
        raise ConfigError("a restart would begin one more study: use --study NAME, not --new")
    command = [] if words and words[0] in COMMANDS else ["search"]
    return [*command, *(word for word in words if not (restarted and word == "--retry-failed"))]


def job_environment(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job sets for its nodes.

    folder: the job's. environment: that of the batch process. Raises ClusterError if the path of
    Ray's folder is too long for its sockets; a private Ray of a single node chooses another.
    """
    ray_folder = f"{environment.get('RAY_TMPDIR') or '/tmp'}/sab-{environment['SLURM_JOB_ID']}"  # noqa: S108
    longest = SOCKET_PATH_BYTES - RAY_PATH_BYTES - len("/ray")
    if not is_alone(environment) and len(os.fsencode(ray_folder)) > longest:
        raise ClusterError(
            f"{ray_folder} has more than {longest} characters: set RAY_TMPDIR to a shorter path"
        )
    variables = RAY | {
        "RAY_AUTH_TOKEN_PATH": str(folder / TOKEN),
        "RAY_TMPDIR": ray_folder,
        "SABTUNE_JOB": str(folder),
        "SABTUNE_OUTPUT": f"/proc/{os.getpid()}/fd/1",
        "PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}",
    }
    if is_restarted(environment):
        variables["SABTUNE_LOCK_SECONDS"] = (
            environment.get("SABTUNE_LOCK_SECONDS") or f"{LOCK_SECONDS}"
        )
    return variables


def is_alone(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the job has a single node, whose Ray is private and on the loopback."""
    return environment.get("SLURM_NNODES", "1") == "1"


def is_restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether Slurm has started the job before."""
    return environment.get("SLURM_RESTART_COUNT", "0") != "0"


def is_final(code: int, ending: str, kills: int) -> bool:
    """Return whether a job ends for good, instead of being queued again.

    code: the exit code of its command. ending: RESTART, STOP, or "" if the command ended by itself;
    what it says with its exit code is final then. kills: how many times in a row it was killed.
    """
    if code == 0 or ending == STOP:
        return True
    return ending != RESTART and (code <= 128 or kills > MOST_KILLS)


def batch(words: Sequence[str]) -> int:
    """Run a command on all nodes of the job, and queue the job again if it isn't done.

    words: what the user gave after `slurm.sbatch`. Returns the exit code of the job. Raises
    SabtuneError if the job can't be started as it is.
    """
    job = os.environ["SLURM_JOB_ID"]
    folder = Path(os.environ.get("PWD") or Path.cwd()) / f"sabtune-{job}"
    command = arguments(words, restarted=is_restarted())
    variables = job_environment(folder, os.environ)
    prepare(folder)
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(variables)
    if not is_alone():
        shown = ("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"])
        hosts = subprocess.run(shown, capture_output=True, text=True, check=True).stdout.split()
        interface = os.environ.get("SABTUNE_INTERFACE", "")
        os.environ["SABTUNE_HEAD"] = head_address(interface, hosts[-1], job)

    signal.signal(signal.SIGTERM, lambda *_: end_command(folder, RESTART))
    signal.signal(signal.SIGINT, lambda *_: end_command(folder, STOP))
    nodes = os.environ.get("SLURM_NNODES", "1")
    tasks = (f"--nodes={nodes}", f"--ntasks={nodes}")
    step = subprocess.Popen([*SRUN, *tasks, *THIS, "node", *command], stdin=subprocess.DEVNULL)
    while not read(folder / CODE) and step.poll() is None:
        time.sleep(1)
    # Slurm ends what is left of the step; the processes of the head are in the background.
    end_processes(f"{variables['RAY_TMPDIR']}/")
    (folder / TOKEN).unlink(missing_ok=True)
    return finish(job, folder, int(read(folder / CODE) or KILLED))


def prepare(folder: Path) -> None:
    """Make the folder of a job, with a new token for Ray that only this user can read.

    Raises ClusterError if that fails.
    """
    try:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        for name in (TOKEN, CODE, DRIVER, ENDING):
            (folder / name).unlink(missing_ok=True)
        (folder / TOKEN).touch(mode=0o600)
        (folder / TOKEN).write_text(secrets.token_hex(32))
    except OSError as problem:
        raise ClusterError(
            f"{folder} can't be written ({problem.strerror}): submit in a folder where you may "
            "write, and that all nodes share"
        ) from None


def read(path: Path) -> str:
    """Return the text of a file, "" if there is none."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def end_command(folder: Path, ending: str) -> None:
    """Record how the job is to end, and have its command save its trials and end."""
    with suppress(OSError, ValueError):  # the command hasn't started, or has ended
        (folder / ENDING).write_text(ending)
        os.kill(int(read(folder / DRIVER)), signal.SIGTERM)


def end_processes(path: str) -> None:
    """Send SIGTERM to the processes of this machine whose commands contain a path."""
    for process in psutil.process_iter(["cmdline"]):
        if any(path in word for word in process.info["cmdline"] or ()):
            with suppress(psutil.Error):
                process.terminate()


def finish(job: str, folder: Path, code: int) -> int:
    """Queue the job again unless it is done, and return its exit code."""
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    shown = ("squeue", "--noheader", f"--jobs={job}", "--format=%T")
    state = subprocess.run(shown, capture_output=True, text=True, check=False).stdout.strip()
    if state != "RUNNING":  # Slurm is ending it
        return code
    ending = read(folder / ENDING)
    kills = 0 if ending == RESTART else int(read(folder / KILLS) or 0) + 1
    (folder / KILLS).write_text(f"{kills}")
    if is_final(code, ending, kills):
        return code
    say(f"ended with {code}; the job is queued again. The nodes' logs are in {folder}")
    requeue = ("scontrol", "requeue", job)
    if subprocess.run(requeue, check=False).returncode:
        say("submit it again to resume")
    return code


def node(command: Sequence[str]) -> int:
    """Start Ray on a node of the job and, on the first one, the driver; return an exit code.

    Ray has what Slurm assigned there. A job with a single node needs none but the command's own.
    """
    folder, name = Path(os.environ["SABTUNE_JOB"]), os.environ["SLURMD_NODENAME"]
    if not os.access(folder / TOKEN, os.R_OK):
        say(f"{name} doesn't see {folder}: submit in a folder that all nodes share")
        return 1
    first = os.environ["SLURM_NODEID"] == "0"
    temporary = Path(os.environ["RAY_TMPDIR"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with (folder / f"{name}.log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700, parents=True)
        return start_ray(command, folder, first=first)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if first and not read(folder / CODE):
            (folder / CODE).write_text(f"{KILLED}")


def start_ray(command: Sequence[str], folder: Path, *, first: bool) -> int:
    """Start Ray on this node, wait until it ends, and return an exit code."""
    allocated = allocation()
    assert allocated is not None
    if not allocated.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if is_alone():
        return driver(command)
    head = os.environ["SABTUNE_HEAD"]
    start = [
        *("ray", "symmetric-run"),
        f"--address={head}",
        f"--min-nodes={allocated.nodes}",
        f"--num-cpus={allocated.cpus}",
        f"--num-gpus={allocated.gpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--include-log-monitor=False",
        *(["--include-dashboard=False"] if first else []),
        *("--", *THIS, "driver", *command),
    ]
    ray = subprocess.Popen(start)
    if first:
        return ray.wait()
    requeue = ("scontrol", "requeue", allocated.job)
    watch = threading.Thread(
        target=guard,
        args=(lambda: is_open(head), lambda: bool(read(folder / CODE))),
        kwargs={"lost": lambda: subprocess.run(requeue, check=False)},
        daemon=True,
    )
    watch.start()
    ended = ray.wait()
    watch.join()
    return ended


def guard(
    answers: Callable[[], bool],
    ended: Callable[[], bool],
    *,
    lost: Callable[[], object],
    seconds: float = GUARD_SECONDS,
) -> None:
    """Call `lost` once the first node of the job is lost, unless the command has ended.

    Slurm lets a job run on that has lost its first node, and with it the batch process.

    answers: whether Ray's head answers. ended: whether the command has ended. seconds: how long to
    wait between two looks. At the start, the head has START_SECONDS to answer.
    """
    missed, most = 0, int(START_SECONDS / GUARD_SECONDS)
    while missed < most:
        if ended():
            return
        if answers():
            missed, most = 0, MOST_MISSED
        else:
            missed += 1
        time.sleep(seconds)
    if not ended():
        lost()


def is_open(address: str) -> bool:
    """Return whether a server accepts connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def driver(command: Sequence[str]) -> int:
    """Run a command of sabtune, whose output is that of the job, and record its exit code."""
    folder, words = Path(os.environ["SABTUNE_JOB"]), ["sabtune", *command]
    with Path(os.environ["SABTUNE_OUTPUT"]).open("ab") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
    (folder / DRIVER).write_text(f"{process.pid}")
    if (folder / ENDING).exists():
        process.terminate()
    code = process.wait()
    code = code if code >= 0 else 128 - code
    (folder / CODE).write_text(f"{code}")
    return code


def main(words: Sequence[str]) -> int:
    """Run one of the three kinds of processes, and return its exit code.

    words: "batch", "node" or "driver", and the words of the command.
    """
    kind, *command = words
    try:
        return {"batch": batch, "node": node, "driver": driver}[kind](command)
    except SabtuneError as problem:
        say(str(problem))
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
