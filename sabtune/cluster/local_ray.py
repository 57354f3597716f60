"""A Ray of our own on this machine: on loopback alone, in a folder that nobody else can read."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import filelock
import psutil
import ray
from ray._private import ray_constants
from ray.tune.execution import class_cache

from sabtune.cluster import GIVEN
from sabtune.cluster.token import VARIABLE, token_path
from sabtune.errors import ClusterError

LOOPBACK = "127.0.0.1"

SOCKET_PATH, RAYS_OWN = 107, 66
"""Bytes that the path of a socket may have, and those that Ray adds to its folder."""

OBJECTS = 2**28
"""Bytes of Ray's memory for objects: a search passes few, and small ones."""

LEAST_ADDRESSES = 2
"""GiB of addresses (`ulimit -v`) below which Ray's processes can't start."""

TRIES = 3
"""How often Ray is started: on a busy machine a start may time out. What fails otherwise is tried
twice."""

TURN = 240
"""Seconds for which a start waits until other searches of this user have started their Rays."""


def forward_no_credentials() -> None:
    """Have Tune put no credentials into its workers' environment, which Ray writes to a log.

    Workers of a Ray of our own inherit the environment; a cluster's nodes have their own.
    """
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
        {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    )


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for Ray that only this user can read; it is deleted afterwards.

    Raises ClusterError if there is no place for it.
    """
    base = folder_base()
    folder = Path(tempfile.mkdtemp(prefix="sab-", dir=base))
    try:
        yield folder / "r"  # Ray opens the folder that it is given to everybody
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def folder_base() -> str:
    """Return the first temporary folder that can be written and leaves room for Ray's sockets.

    Raises ClusterError if there is none.
    """
    named = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    problems = []
    for base in dict.fromkeys([*filter(None, named), "/tmp", "/var/tmp"]):  # noqa: S108
        longest = SOCKET_PATH - RAYS_OWN - len("/sab-12345678/r")
        if len(os.fsencode(os.path.abspath(base))) > longest:  # noqa: PTH100
            problems.append(f"{base} is longer than {longest} characters")
            continue
        try:
            with tempfile.TemporaryFile(dir=base) as file:
                file.write(b"\0" * 2**16)
        except OSError as problem:
            problems.append(f"{base} can't be written ({problem.strerror})")
        else:
            return os.path.abspath(base)  # noqa: PTH100
    raise ClusterError(
        f"Ray has no folder for its sockets and logs: {'; '.join(problems)}: "
        "name a short one that you may write with TMPDIR"
    )


def prepare_token(environment: Mapping[str, str] = os.environ) -> None:
    """Make Ray's token, unless there is one, and let no other user read it.

    Ray itself would make a file that everybody can read. Raises ClusterError if the token that the
    environment names can't be read.
    """
    mode = environment.get("RAY_AUTH_MODE", "token").lower()
    if mode not in ("token", "disabled"):
        raise ClusterError(f"RAY_AUTH_MODE is {mode!r}: give token or disabled, or unset it")
    if mode == "disabled" or environment.get(VARIABLE):
        return
    path = token_path(environment)
    try:
        if path.read_text().strip():
            close_to_others(path)
            return
        problem = "it is empty"
    except UnicodeDecodeError:
        problem = "it is no text"
    except FileNotFoundError as missing:
        problem = str(missing.strerror)
    except OSError as unreadable:
        problem = str(unreadable.strerror)
        if "RAY_AUTH_TOKEN_PATH" not in environment and not path.exists():
            problem = ""
    if "RAY_AUTH_TOKEN_PATH" in environment or path.exists():
        raise ClusterError(
            f"Ray's token can't be read from {path} ({problem}): put the token there, "
            "or delete the file or unset RAY_AUTH_TOKEN_PATH to have one made"
        )
    _make_token(path)


def _make_token(path: Path) -> None:
    """Write a new token; where there is no home to write it to, it is this process's alone."""
    token = secrets.token_hex(32)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
            part.write(token)
        try:
            os.link(part.name, path)  # several searches that start at once agree on one
        except FileExistsError:
            pass
        finally:
            os.unlink(part.name)  # noqa: PTH108
    except OSError:
        os.environ[VARIABLE] = token


def close_to_others(path: Path) -> None:
    """Take the rights on our token's file away from other users."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if status.st_uid == os.getuid() and status.st_mode & 0o077:
            path.chmod(0o600)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Have all that Ray starts listen on the loopback interface alone.

    Ray takes "127.0.0.1" for the machine's address on the network where it supports clusters, which
    a machine of its own doesn't need.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def in_turn(base: Path) -> Iterator[None]:
    """Have one search of this user start Ray at a time; several at once may all time out."""
    lock = filelock.FileLock(base / f"sabtune-{os.getuid()}-starts-ray.lock", mode=0o600)
    with contextlib.suppress(filelock.Timeout, OSError):  # nothing is wrong without it
        lock.acquire(timeout=TURN)
    try:
        yield
    finally:
        lock.release()


def start(folder: Path) -> None:
    """Start Ray and connect to it. Raises ClusterError if it doesn't start."""
    check_limits()
    for attempt in range(1, TRIES + 1):
        others = set(psutil.Process().children())
        try:
            with on_loopback(), in_turn(folder.parent.parent):
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    object_store_memory=OBJECTS,
                    _node_ip_address=LOOPBACK,
                    _temp_dir=str(folder),
                )
        except Exception as problem:
            ray.shutdown()
            end(set(psutil.Process().children()) - others)
            words = " ".join(str(problem).split())[:300] or type(problem).__name__
            if attempt == TRIES or (attempt > 1 and "timed out" not in words):
                raise ClusterError(
                    f"Ray doesn't start on this machine ({words}): {remedy()}"
                ) from None
        else:
            return


def check_limits() -> None:
    """Raise ClusterError if this process may have too few addresses for Ray to start."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and most < LEAST_ADDRESSES * 2**30:
        raise ClusterError(
            f"a process may have {most / 2**30:.1f} GiB of addresses here (ulimit -v), "
            f"and Ray needs {LEAST_ADDRESSES}: raise it with ulimit -v unlimited"
        )


def remedy() -> str:
    """Return what to try where Ray doesn't start."""
    theirs = sorted(GIVEN - {"RAY_TMPDIR", VARIABLE, "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"})
    if theirs:
        return f"unset {', '.join(theirs)}, or try again when the machine is less busy"
    return "try again when the machine is less busy, or run sabtune doctor"


def end(processes: set[psutil.Process]) -> None:
    """Kill processes and what they have started."""
    every = set(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            every |= set(process.children(recursive=True))
    for process in every:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(every), timeout=5)
