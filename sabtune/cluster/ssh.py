"""Ports of the loopback interface of a cluster's head, forwarded to this machine by SSH."""

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

ANSWER_SECONDS = 60.0
"""Seconds that the head has to answer."""

OPTIONS = {
    "BatchMode": "yes",  # there may be nobody to answer a prompt
    "ConnectTimeout": "20",
    "ExitOnForwardFailure": "yes",
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "3",
}

OWN_MACHINE_OPTIONS = {"StrictHostKeyChecking": "accept-new"}
"""Options for your own machines. Their host keys stay the same, because their addresses do."""

CLOUD_OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": os.devnull,
    "LogLevel": "ERROR",
}
"""Options for a cloud, which reuses addresses for other machines. `ray up` has the same."""


@dataclass(frozen=True, kw_only=True)
class Login:
    """The SSH login of a head."""

    address: str
    user: str
    key: Path | None
    options: Mapping[str, str]

    @classmethod
    def of(cls, file: ClusterFile) -> Login:
        """Return the login from a cluster file and, for a cloud, from its provider.

        Raises ClusterError if there is no head.
        """
        content = file.content if file.provider == "local" else _provider_content(file)
        auth = content.get("auth") or {}
        key, proxy = auth.get("ssh_private_key"), auth.get("ssh_proxy_command")
        return cls(
            address=_head(file),
            user=auth.get("ssh_user", "root"),
            key=Path(key).expanduser() if key else None,
            options=OPTIONS
            | (OWN_MACHINE_OPTIONS if file.provider == "local" else CLOUD_OPTIONS)
            | ({"ProxyCommand": proxy} if proxy else {}),
        )

    def command(self, *arguments: str) -> list[str]:
        """Return an `ssh` command to the head with these arguments."""
        options = [
            word for name, value in self.options.items() for word in ("-o", f"{name}={value}")
        ]
        key = ["-o", "IdentitiesOnly=yes", "-i", str(self.key)] if self.key else []
        return ["ssh", *options, *key, *arguments, f"{self.user}@{self.address}"]


@contextmanager
def forwarded(file: ClusterFile, port: int, *, local: int | None = None) -> Iterator[int]:
    """Forward a port of the head's loopback interface, and yield the local port.

    local: the port of this machine, by default a free one. Raises ClusterError if the head can't be
    reached.
    """
    login, local = Login.of(file), local or _free_port()
    command = login.command("-N", "-L", f"{LOOPBACK}:{local}:{LOOPBACK}:{port}")
    with tempfile.TemporaryFile("w+") as errors:
        try:
            # Ssh gets its own session, so that Ctrl-C doesn't reach it.
            ssh = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ClusterError("there is no ssh here: install the OpenSSH client") from None
        try:
            _wait_for_port(ssh, local, login, file)
            yield local
        except ClusterError as problem:
            if ssh.poll() is None:
                raise
            errors.seek(0)
            raise ClusterError(_unreachable(login, file, errors.read())) from problem
        finally:
            ssh.terminate()
            ssh.wait()


def _wait_for_port(
    ssh: subprocess.Popen[bytes], port: int, login: Login, file: ClusterFile
) -> None:
    """Wait until ssh listens at a port, which it does once it is logged in.

    Raises ClusterError if ssh ends or takes too long.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    while ssh.poll() is None and time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.05)
    raise ClusterError(_unreachable(login, file, "no answer"))


def _unreachable(login: Login, file: ClusterFile, errors: str) -> str:
    """Return the error message for a head that can't be reached. errors: what ssh printed."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return (
        f"the head {login.user}@{login.address} can't be reached by SSH "
        f"({lines[-1] if lines else 'the connection broke off'}): "
        f"check that it is up (ray up {file.path}), and `auth` in {file.path}"
    )


def answers(port: int) -> bool:
    """Return whether an HTTP server answers at a port of this machine."""
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
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        port: int = server.getsockname()[1]
        return port


def _head(file: ClusterFile) -> str:
    """Return the head's address. Raises ClusterError if there is no head."""
    if file.provider == "local" and "head_ip" in file.content["provider"]:
        # Ray's own record of the head exists only on the machine where `ray up` ran.
        return str(file.content["provider"]["head_ip"])
    from ray.autoscaler import sdk

    try:
        with _silenced():
            return sdk.get_head_node_ip(dict(file.content))
    except Exception as problem:
        words = " ".join(str(problem).split())
        raise ClusterError(
            f"{file.path} has no head ({words}): start it with ray up {file.path}"
        ) from None


def _provider_content(file: ClusterFile) -> Mapping[str, Any]:
    """Return the file's content with the provider's additions, such as the SSH key it created."""
    from ray.autoscaler import sdk

    try:
        with _silenced():
            content: Mapping[str, Any] = sdk.bootstrap_config(dict(file.content))
    except (Exception, SystemExit) as problem:
        words = " ".join(str(problem).split())
        raise ClusterError(f"{file.path} can't be used ({words}): correct that file") from None
    return content


@contextmanager
def _silenced() -> Iterator[None]:
    """Discard what Ray's launcher prints about its progress."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
