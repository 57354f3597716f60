"""Commands run in processes forked from one that has imported everything.

Importing torch, Ray and MLflow takes seconds; a fork of a process that has them takes milliseconds.
Otherwise a command is as one that `python -m sabtune` starts, in a session of its own. What is read
when something is imported is the environment that the first command had: one whose environment
differs there is started anew, as is all that tests how a process starts.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

from tests.studies import heed_interrupts

ROOT = Path(__file__).parent.parent

AT_IMPORT = (
    *("RAY_", "TUNE_", "MLFLOW_", "TORCH_", "NUMBA_", "OMP_", "MKL_", "LC_", "LANG"),
    *("PYTHONPATH", "PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONUTF8", "VIRTUAL_ENV", "PATH"),
    *("SABTUNE_CHECKED_KERNELS", "TRITON_", "MPL", "CUDA_"),
)
"""How the names of variables begin that are read when something is imported."""


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are read when something is imported."""
    return {name: environment[name] for name in environment if name.startswith(AT_IMPORT)}


class Server:
    """The process that forks, as long as this one lives."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self.requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def end(self) -> None:
        """Have it end; commands that it forked go on."""
        self.requests.close()
        self.process.wait()


@cache
def server() -> Server:
    """Return the one of this process, started when it is first asked for."""
    started = Server()
    atexit.register(started.end)
    return started


class Process:
    """A command that runs, with what tests use of `subprocess.Popen`.

    out, err: where its output goes. unbuffered: as with `python -u`. seconds: the time after which
    it is ended by SIGALRM. memory: how many bytes more than now it may address.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path,
        out: IO[bytes],
        err: IO[bytes],
        environment: Mapping[str, str],
        unbuffered: bool = False,
        seconds: int | None = None,
        memory: int | None = None,
    ):
        request = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "environment": dict(environment),
            "unbuffered": unbuffered,
            "seconds": seconds,
            "memory": memory,
        }
        self.answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, Path(os.devnull).open("rb") as nothing:
            descriptors = [of.fileno() for of in (nothing, out, err, theirs)]
            socket.send_fds(server().requests, [json.dumps(request).encode()], descriptors)
        self.pid = int(self.answers.recv(100))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended. Raises TimeoutError if it hasn't by then."""
        if self.returncode is None:
            self.answers.settimeout(timeout)
            self.returncode = int(self.answers.recv(100))
            self.answers.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        try:
            return self.wait(timeout=0)
        except BlockingIOError:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def start(
    *arguments: object,
    cwd: Path,
    out: IO[bytes],
    err: IO[bytes],
    environment: Mapping[str, str],
    unbuffered: bool = False,
) -> Process | subprocess.Popen[bytes]:
    """Start `sabtune`: forked, or anew where its environment matters to what it imports."""
    if read_at_import(environment) == read_at_import(server().environment):
        return Process(
            *arguments, cwd=cwd, out=out, err=err, environment=environment, unbuffered=unbuffered
        )
    return start_anew(
        *arguments, cwd=cwd, out=out, err=err, environment=environment, unbuffered=unbuffered
    )


def start_anew(
    *arguments: object,
    cwd: Path,
    out: IO[bytes],
    err: IO[bytes],
    environment: Mapping[str, str],
    unbuffered: bool = False,
    prefix: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start `sabtune` as a process that imports everything itself. prefix: what starts it."""
    python = [sys.executable, *["-u"] * unbuffered]
    return subprocess.Popen(
        [*prefix, *python, "-m", "sabtune", *map(str, arguments)],
        cwd=cwd,
        stdout=out,
        stderr=err,
        env=environment,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def sabtune(
    *arguments: object,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    seconds: int | None = None,
    memory: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `sabtune` with these arguments, away from any terminal; return how it ended.

    environment: what is added to this process's own. seconds, memory: see `Process`; with either
    the command is forked whatever the environment.
    """
    own = dict(os.environ) | dict(environment or {})
    process: Process | subprocess.Popen[bytes]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if seconds is memory is None:
            process = start(*arguments, cwd=cwd, out=out, err=err, environment=own)
        else:
            process = Process(
                *arguments,
                cwd=cwd,
                out=out,
                err=err,
                environment=own,
                seconds=seconds,
                memory=memory,
            )
        code = process.wait()
        shown = []
        for stream in (out, err):
            stream.seek(0)
            shown.append(stream.read().decode(errors="replace"))
    return subprocess.CompletedProcess([str(argument) for argument in arguments], code, *shown)
