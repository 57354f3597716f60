"""A private Ray on this machine: on the loopback interface only, in a private folder."""

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

from sabtune.cluster import USER_VARIABLES
from sabtune.cluster.slurm import allocation
from sabtune.cluster.sockets import RAY_PATH_BYTES, SOCKET_PATH_BYTES
from sabtune.cluster.token import VARIABLE, token_path
from sabtune.errors import ClusterError

LOOPBACK = "127.0.0.1"

OBJECT_STORE_BYTES = 2**28
"""The size of Ray's object store; a search passes only a few small objects."""

LEAST_ADDRESS_GIB = 2
"""The minimum address space (`ulimit -v`) in GiB with which Ray's processes start."""

START_ATTEMPTS = 3
"""Attempts to start Ray while they time out, as on a busy machine. Other errors allow only two."""

TURN_SECONDS = 240
"""Seconds that a search waits while other searches of this user start Ray."""


def forward_no_credentials() -> None:
    """Keep Tune from copying credentials to its workers' environment, which Ray writes to a log.

    Workers of a private Ray inherit the environment, and a cluster's nodes have their own.
    """
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
        {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    )


@contextmanager
def private_folder() -> Iterator[Path]:
    """Create a folder for Ray that only this user can read, and delete it afterwards.

    Raises ClusterError if no temporary folder is suitable.
    """
    base = folder_base()
    folder = Path(tempfile.mkdtemp(prefix="sab-", dir=base))
    try:
        yield folder / "r"  # Ray lets everyone read the folder that it is given
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def folder_base() -> str:
    """Return the first writable temporary folder whose path is short enough for Ray's sockets.

    Raises ClusterError if there is none.
    """
    from_user = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    problems = []
    for base in dict.fromkeys([*filter(None, from_user), "/tmp", "/var/tmp"]):  # noqa: S108
        longest = SOCKET_PATH_BYTES - RAY_PATH_BYTES - len("/sab-12345678/r")
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
        "set TMPDIR to a short path that you may write"
    )


def prepare_token(environment: Mapping[str, str] = os.environ) -> None:
    """Create Ray's token, unless there is one, and let no other user read it.

    Ray itself would create a file that everyone can read. Raises ClusterError if RAY_AUTH_MODE is
    invalid or if an existing token can't be read.
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
        problem = "it is not text"
    except FileNotFoundError as missing:
        problem = str(missing.strerror)
    except OSError as unreadable:
        problem = str(unreadable.strerror)
        if "RAY_AUTH_TOKEN_PATH" not in environment and not path.exists():
            problem = ""
    if "RAY_AUTH_TOKEN_PATH" in environment or path.exists():
        raise ClusterError(
            f"Ray's token can't be read from {path} ({problem}): put the token there, or delete "
            "the file or unset RAY_AUTH_TOKEN_PATH so that a search creates a token"
        )
    _make_token(path)


def _make_token(path: Path) -> None:
    """Write a new token to a file, or to this process's environment if that fails."""
    token = secrets.token_hex(32)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as part:
            part.write(token)
        try:
            os.link(part.name, path)  # so that searches that start together share one token
        except FileExistsError:
            pass
        finally:
            os.unlink(part.name)  # noqa: PTH108
    except OSError:
        os.environ[VARIABLE] = token


def close_to_others(path: Path) -> None:
    """Remove other users' permissions from the token's file, if this user owns it."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if status.st_uid == os.getuid() and status.st_mode & 0o077:
            path.chmod(0o600)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Make everything that Ray starts listen on the loopback interface only.

    With support for clusters, Ray replaces "127.0.0.1" with the machine's address on the network.
    A private Ray doesn't need that support.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def in_turn(base: Path) -> Iterator[None]:
    """Let only one search of this user start Ray at a time, because several may all time out."""
    lock = filelock.FileLock(base / f"sabtune-{os.getuid()}-starts-ray.lock", mode=0o600)
    with contextlib.suppress(filelock.Timeout, OSError):  # the lock is optional
        lock.acquire(timeout=TURN_SECONDS)
    try:
        yield
    finally:
        lock.release()


def start(folder: Path) -> None:
    """Start Ray and connect to it. Raises ClusterError if it doesn't start."""
    check_limits()
    cpus, gpus = allocated_resources()
    for attempt in range(1, START_ATTEMPTS + 1):
        others = set(psutil.Process().children())
        try:
            with on_loopback(), in_turn(folder.parent.parent):
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    num_cpus=cpus,
                    num_gpus=gpus,
                    _node_ip_address=LOOPBACK,
                    _temp_dir=str(folder),
                )
        except Exception as problem:
            ray.shutdown()
            kill(set(psutil.Process().children()) - others)
            words = " ".join(str(problem).split())[:300] or type(problem).__name__
            if attempt == START_ATTEMPTS or (attempt > 1 and "timed out" not in words):
                raise ClusterError(
                    f"Ray doesn't start on this machine ({words}): {remedy()}"
                ) from None
        else:
            return


def allocated_resources() -> tuple[int | None, int | None]:
    """Return the CPUs and GPUs that Ray may use in a Slurm job; None for what it finds by itself.

    By itself, Ray takes all CPUs of the machine, and the GPUs that CUDA_VISIBLE_DEVICES names.
    Slurm sets that variable only if the job has GPUs; without it, Ray would take all of them.
    """
    allocated = allocation()
    if allocated is None:
        return None, None
    return allocated.cpus, None if allocated.gpus else 0


def check_limits() -> None:
    """Raise ClusterError if this process has too little address space for Ray."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_GIB * 2**30:
        raise ClusterError(
            f"a process may have {limit / 2**30:.1f} GiB of addresses here (ulimit -v), "
            f"and Ray needs {LEAST_ADDRESS_GIB}: raise it with ulimit -v unlimited"
        )


def remedy() -> str:
    """Return what to try if Ray doesn't start."""
    harmless = {"RAY_TMPDIR", VARIABLE, "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}
    suspects = sorted(USER_VARIABLES - harmless)
    if suspects:
        return f"unset {', '.join(suspects)}, or try again when the machine is less busy"
    return "try again when the machine is less busy, or run sabtune doctor"


def kill(processes: set[psutil.Process]) -> None:
    """Kill processes and their descendants."""
    descendants = set(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            descendants |= set(process.children(recursive=True))
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(descendants), timeout=5)
