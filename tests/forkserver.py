"""Fork a process that has imported everything: `python -m tests.forkserver DESCRIPTOR`.

DESCRIPTOR is the file descriptor of a socket on which `tests.forked` sends requests. Each request
becomes a process that runs `sabtune` like `python -m sabtune`, including the interpreter's exit,
but without the seconds that importing torch, Ray and MLflow takes.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

BEFORE = dict(os.environ)


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request, and return the request in the new process.

    The server sends the PID of the new process to the client, and its exit code once it has ended.
    """
    running: dict[int, socket.socket] = {}  # where to send the exit code, by PID
    signals, woken = socket.socketpair()  # readable when a process has ended
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno())
    while True:
        ready, _, _ = select.select([requests, signals], [], [])
        if signals in ready:
            signals.recv(4096)
            _send_exit_codes(running)
        if requests not in ready:
            continue
        content, descriptors, _, _ = socket.recv_fds(requests, 2**20, 4)
        if not content:  # the test process has closed the socket
            os._exit(0)
        answers = socket.socket(fileno=descriptors.pop())
        command = os.fork()
        if command == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (requests, signals, woken, answers, *running.values()):
                inherited.close()
            request: dict[str, Any] = json.loads(content)
            return request | {"streams": descriptors}
        for descriptor in descriptors:
            os.close(descriptor)
        answers.send(str(command).encode())
        running[command] = answers


def _send_exit_codes(running: dict[int, socket.socket]) -> None:
    """Send the exit codes of the processes that have ended, and forget those processes."""
    for command in list(running):
        ended, status = os.waitpid(command, os.WNOHANG)
        if ended:
            with running.pop(command) as answers, contextlib.suppress(OSError):  # nobody waits
                answers.send(str(os.waitstatus_to_exitcode(status)).encode())


def become(request: dict[str, Any], imported: dict[str, str]) -> None:
    """Give this process the state of a new one that was started for the request.

    imported: the environment variables that the imports have set.
    """
    os.setsid()
    for target, stream in enumerate(request["streams"]):
        os.dup2(stream, target)
        os.close(stream)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(write_through=request["unbuffered"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(imported | request["environment"])
    tempfile.tempdir = None  # the request may have another TMPDIR
    sys.path[0] = request["cwd"]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    if request["seconds"] is not None:
        signal.alarm(request["seconds"])
    if request["memory"] is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + request["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Serve requests; each forked process continues as the command."""
    import sabtune.__main__ as command
    import tests.everything  # noqa: F401

    imported = {name: value for name, value in os.environ.items() if name not in BEFORE}
    gc.collect()
    gc.freeze()  # so that forks share these memory pages
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    become(request, imported)
    sys.argv = [command.__file__, *request["arguments"]]
    end(command.main)


def end(run: Callable[[], None]) -> NoReturn:
    """Call `run`, then exit as Python does, but without freeing the modules.

    Freeing them would copy all the memory that this process shares with others.
    """
    code: object = 0
    try:
        run()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
