"""Commands run in processes forked from one that has imported everything.

Importing torch, Ray and MLflow takes seconds; a fork of a process that has them takes milliseconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 100
"""The time that a command has before it is killed."""

MEMORY = 8 * 1024**3
"""The most bytes that a command may address beyond what its parent does."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.everything"])


@dataclass(frozen=True)
class Shown:
    """The exit code of a command and what it printed."""

    code: int | None
    out: str
    err: str


def sabtune(
    arguments: Sequence[object], cwd: Path, environment: Mapping[str, str] | None = None
) -> Shown:
    """Run `sabtune` with these arguments in `cwd`, with these variables added to the environment.

    It is killed after SECONDS; its exit code is then -SIGALRM.
    """
    streams = [cwd.parent / f"{cwd.name}.{name}" for name in ("out", "err")]
    words = [str(argument) for argument in arguments]
    process = CONTEXT.Process(target=_run, args=(words, cwd, streams, dict(environment or {})))
    process.start()
    process.join()
    out, err = (stream.read_text(errors="replace") for stream in streams)
    return Shown(process.exitcode, out, err)


def _run(arguments: list[str], cwd: Path, streams: list[Path], environment: dict[str, str]) -> None:
    for descriptor, stream in enumerate(streams, start=1):
        with stream.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with contextlib.suppress(OSError):
        os.setsid()
    os.chdir(cwd)
    os.environ |= environment
    sys.argv = ["sabtune", *arguments]
    from sabtune.cli import main

    main()
