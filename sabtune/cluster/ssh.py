"""SSH to a cluster's head, and through it to what listens on the head's loopback interface."""

from __future__ import annotations

import http.client
import io
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sabtune.cluster.cluster_file import ClusterFile
from sabtune.errors import ClusterError

LOOPBACK = "127.0.0.1"

PATIENCE = 60.0
"""Seconds that the head has to answer."""

OPTIONS = {
    "BatchMode": "yes",  # there may be nobody to ask
    "ConnectTimeout": "20",
    "ExitOnForwardFailure": "yes",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
}

OWN = {"StrictHostKeyChecking": "accept-new"}
"""Machines one owns keep their addresses, and so their keys."""

LENT = {"StrictHostKeyChecking": "no", "UserKnownHostsFile": os.devnull, "LogLevel": "ERROR"}
"""A cloud gives an address to one machine after the other; `ray up` asks for no more."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """How the head is reached."""

    address: str
    user: str
    key: Path | None
    options: Mapping[str, str]

    @classmethod
    def of(cls, file: ClusterFile) -> Login:
        """By what the file says, and of a cloud's machines by what its provider does.

        Raises ClusterError if there is no head.
        """
        content = file.content if file.provider == "local" else _filled_in(file)
        auth = content.get("auth") or {}
        key, proxy = auth.get("ssh_private_key"), auth.get("ssh_proxy_command")
        return cls(
            address=_head(file),
            user=auth.get("ssh_user", "root"),
            key=Path(key).expanduser() if key else None,
            options=OPTIONS
            | (OWN if file.provider == "local" else LENT)
            | ({"ProxyCommand": proxy} if proxy else {}),
        )

    def command(self, *arguments: str) -> list[str]:
        """An `ssh` of these arguments, beside where to."""
        options = [
            word for name, value in self.options.items() for word in ("-o", f"{name}={value}")
        ]
        key = ["-o", "IdentitiesOnly=yes", "-i", str(self.key)] if self.key else []
        return ["ssh", *options, *key, *arguments, f"{self.user}@{self.address}"]


@contextmanager
def forwarded(file: ClusterFile, port: int, *, local: int | None = None) -> Iterator[int]:
    """A port of this machine that leads to this one of the head's loopback; by default a free one.

    Raises ClusterError if the head can't be reached.
    """
    login, local = Login.of(file), local or _free_port()
    command = login.command("-N", "-L", f"{LOOPBACK}:{local}:{LOOPBACK}:{port}")
    with tempfile.TemporaryFile("w+") as told:
        try:
            # In a session of its own: Ctrl-C is for us alone.
            ssh = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=told,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ClusterError("there is no ssh here: install OpenSSH's client") from None
        try:
            _await(ssh, local, login, file)
            yield local
        except ClusterError as problem:
            if ssh.poll() is None:
                raise
            told.seek(0)
            raise ClusterError(_unreached(login, file, told.read())) from problem
        finally:
            ssh.terminate()
            ssh.wait()


def _await(ssh: subprocess.Popen[bytes], port: int, login: Login, file: ClusterFile) -> None:
    """Until something listens at the port, which ssh does once it is let in."""
    limit = time.monotonic() + PATIENCE
    while ssh.poll() is None and time.monotonic() < limit:
        with socket.socket() as tried:
            if tried.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.05)
    raise ClusterError(_unreached(login, file, "no answer"))


def _unreached(login: Login, file: ClusterFile, told: str) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return (
        f"the head {login.user}@{login.address} can't be reached by SSH "
        f"({lines[-1] if lines else 'it broke off'}): see that it is up (ray up {file.path}), "
        f"and `auth` in {file.path}"
    )


def answers(port: int) -> bool:
    """Whether something speaks HTTP at a port of this machine."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/", timeout=10):
            return True
    except urllib.error.HTTPError as problem:
        problem.close()
        return True
    except OSError:
        return False
    except http.client.HTTPException:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port: int = free.getsockname()[1]
        return port


def _head(file: ClusterFile) -> str:
    """The head's address."""
    if file.provider == "local" and "head_ip" in file.content["provider"]:
        # As it was given: what Ray keeps of it is known where `ray up` ran, and only there.
        return str(file.content["provider"]["head_ip"])
    from ray.autoscaler import sdk

    try:
        with _hushed():
            return sdk.get_head_node_ip(dict(file.content))
    except Exception as problem:
        words = " ".join(str(problem).split())
        raise ClusterError(
            f"{file.path} has no head ({words}): bring it up with ray up {file.path}"
        ) from None


def _filled_in(file: ClusterFile) -> Mapping[str, Any]:
    """The file's content with what its provider adds, such as the key that it made."""
    from ray.autoscaler import sdk

    try:
        with _hushed():
            content: Mapping[str, Any] = sdk.bootstrap_config(dict(file.content))
    except (Exception, SystemExit) as problem:
        words = " ".join(str(problem).split())
        raise ClusterError(f"{file.path} can't be used ({words}): see that file") from None
    return content


@contextmanager
def _hushed() -> Iterator[None]:
    """Ray's launcher tells what it does; only how it ends is of use here."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
