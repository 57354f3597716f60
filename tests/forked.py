"""Run commands in processes forked from one that has imported everything.

Importing torch, Ray and MLflow takes seconds; forking a process that has imported them takes
milliseconds. A forked command behaves like `python -m sabtune` in its own session. Some environment
variables are read at import, so all forks share the first command's values of these. A command with
other values, or a test of how a process starts, gets a new process.
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
"""The prefixes of the environment variables that are read at import."""


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that are read at import."""
    return {name: environment[name] for name in environment if name.startswith(AT_IMPORT)}


class Server:
    """A process that forks for each command and lives as long as this process."""

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
        """End the server; the commands that it forked continue."""
        self.requests.close()
        self.process.wait()


@cache
def server() -> Server:
    """Return the server of this process and start it on the first call."""
    started = Server()
    atexit.register(started.end)
    return started


class Process:
    """A running command, with the part of the `subprocess.Popen` interface that tests use.

    out, err: the files for its output. unbuffered: as with `python -u`. seconds: the time after
    which SIGALRM ends it. memory: the bytes of address space it may add.
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
        """Wait for the end and return the exit code; raise TimeoutError after `timeout` seconds."""
        if self.returncode is None:
            self.answers.settimeout(timeout)
            self.returncode = int(self.answers.recv(100))
            self.answers.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        try:
            return self.wait(timeout=0)
        except BlockingIOError:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal to the command unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)


def start(
    *arguments: object,
    cwd: Path,
    out: IO[bytes],
    err: IO[bytes],
    environment: Mapping[str, str],
    unbuffered: bool = False,
) -> Process | subprocess.Popen[bytes]:
    """Start `sabtune`, forked unless `environment` changes what its imports read."""
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
    """Start `sabtune` as a new process that imports everything.

    prefix: a command that runs it, with its arguments.
    """
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
    """Run `sabtune` with these arguments, without a terminal, and return the completed process.

    environment: variables added to those of this process. seconds, memory: see `Process`; with
    either of them the command is always forked.
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
