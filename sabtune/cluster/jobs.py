"""The jobs of a cluster's head: sabtune's own commands, which run there without us."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import platform
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sabtune.cluster.cluster_file import ClusterFile
from sabtune.cluster.ssh import LOOPBACK, forwarded
from sabtune.cluster.token import VARIABLE, token_path
from sabtune.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DASHBOARD = 8265
"""Where the head's Ray answers, on its loopback interface."""

STUDIES = "sabtune-studies"
"""The folder in the head's home that keeps the study files that were searched there."""

STOPS = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""A search is stopped as by Ctrl-C: what it has not finished can be gone on with."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
INTERRUPTED = 130
BEGUN = "Running entrypoint for job "
"""Ray's own first line in what a job prints."""

SAME_SABTUNE = (
    'there="$(sabtune --version 2>&1)"; [ "$there" = "sabtune {ours}" ] || '
    '{{ echo "sabtune: the cluster has $there, and you have sabtune {ours}: '
    'install the same on both"; exit 2; }}'
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command as it runs, or ran, on the head. study: whose; "" if no study's."""

    name: str
    study: str
    command: str
    state: str  # PENDING, RUNNING, or one of ENDED
    begun: datetime | None
    ended: datetime | None
    code: int | None
    words: str  # Ray's, of how it ended

    @property
    def running(self) -> bool:
        return self.state not in ENDED


class Head:
    """The head of a cluster that is up, and whose token we have."""

    def __init__(self, file: ClusterFile, client: JobSubmissionClient):
        self.file, self.client = file, client

    def submit(
        self,
        command: str,
        *arguments: str,
        study: str = "",
        upload: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Starts `sabtune COMMAND …` in the head's home, to outlive us; the job's name.

        upload: a study file that the command takes before its other arguments; its git revision
        goes with it. environment: more variables for it; anybody with the token can read them.
        """
        name = "-".join(filter(None, (command, study, uuid.uuid4().hex[:8])))
        words = [command]
        keep = ""
        with tempfile.TemporaryDirectory() as folder:
            if upload is not None:
                names = _packed(upload, Path(folder))
                sent = " ".join(f'"$OLDPWD"/{shlex.quote(name)}' for name in names)
                keep = f"mkdir -p {STUDIES} && cp {sent} {STUDIES} && "
                words.append(f"{STUDIES}/{upload.name}")
            run = shlex.join(["sabtune", *words, *arguments])
            entrypoint = f"{SAME_SABTUNE.format(ours=version('sabtune'))}; cd && {keep}exec {run}"
            with _told(self.file):
                return self.client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=name,
                    metadata={"command": command, "study": study},
                    runtime_env={"env_vars": STOPS | dict(environment or {})}
                    | ({"working_dir": folder} if upload else {}),
                )

    def jobs(self) -> list[Job]:
        """Ours, the oldest first."""
        with _told(self.file):
            known = self.client.list_jobs()
        ours = [_job(details) for details in known if "command" in (details.metadata or {})]
        return sorted(ours, key=lambda job: job.begun or datetime.now().astimezone())

    def job(self, name: str) -> Job:
        with _told(self.file):
            return _job(self.client.get_job_info(name))

    def follow(self, name: str, show: Callable[[str], None]) -> Job:
        """Shows what the job prints, from its first line on, until it ends."""
        asyncio.run(self._tail(name, show))
        for _ in range(100):  # it has printed its last; its state comes a moment later
            job = self.job(name)
            if not job.running:
                return job
            time.sleep(0.1)
        raise _broken(self.file)

    async def _tail(self, name: str, show: Callable[[str], None]) -> None:
        begun = False
        with _told(self.file):
            async for lines in self.client.tail_job_logs(name):
                if not begun:  # before that, Ray's words on how it set the job up
                    _, begun_here, lines = lines.partition(BEGUN)
                    begun = bool(begun_here)
                    lines = lines.partition("\n")[2]
                if begun:
                    show(lines)

    def stop(self, name: str) -> Job:
        """Stops a job as Ctrl-C would, and waits for its end."""
        with _told(self.file):
            self.client.stop_job(name)
        while (job := self.job(name)).running:
            time.sleep(0.5)
        return job


def _packed(file: Path, folder: Path) -> list[str]:
    """Copies a study file to the folder, and writes its revision beside it; their names there."""
    from sabtune.provenance import NOTE, revision  # and with them torch, which takes its time

    note = folder / (file.name + NOTE)
    note.write_text(json.dumps(revision(file)))
    return [Path(shutil.copy(file, folder)).name, note.name]


@contextmanager
def connected(file: ClusterFile) -> Iterator[Head]:
    """The head, once it has let us in. Raises ClusterError if it doesn't, or if versions differ."""
    missing = [name for name in ("aiohttp", "aiohttp_cors") if not importlib.util.find_spec(name)]
    if missing:
        raise ClusterError("--cluster needs more of Ray: pip install 'sabtune[cluster]'")
    headers = {"Authorization": f"Bearer {token()}"}
    with forwarded(file, DASHBOARD) as port:
        address = f"http://{LOOPBACK}:{port}"
        check_versions(_ask(f"{address}/api/v0/cluster_metadata", headers, file), file)
        # These would have the client go elsewhere.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        os.environ["RAY_AUTH_MODE"] = "token"
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").handlers = [logging.NullHandler()]
        with _told(file):
            client = JobSubmissionClient(address, headers=headers)
        yield Head(file, client)


def token() -> str:
    """Ours, from where Ray looks for it. Raises ClusterError if there is none."""
    path = token_path()
    try:
        found = os.environ.get(VARIABLE) or path.read_text()
    except OSError as problem:
        raise ClusterError(
            f"there is no token for the cluster in {path} ({problem.strerror}): "
            "copy the one that it was brought up with"
        ) from None
    return found.strip()


def check_versions(theirs: Mapping[str, Any], file: ClusterFile) -> None:
    """Raises ClusterError if the cluster's Ray is another than ours, or its Python too far off."""
    ours = {"Ray": version("ray"), "Python": platform.python_version()}
    there = {"Ray": theirs.get("rayVersion", "none"), "Python": theirs.get("pythonVersion", "none")}
    same = ours["Ray"] == there["Ray"] and _minor(ours["Python"]) == _minor(there["Python"])
    if not same:
        here, on = (" and ".join(f"{n} {v}" for n, v in of.items()) for of in (ours, there))
        raise ClusterError(
            f"you have {here}, and the cluster of {file.path} has {on}: install the same on both, "
            "to Ray's last number"
        )


def _minor(of: str) -> list[str]:
    return of.split(".")[:2]


def _ask(url: str, headers: Mapping[str, str], file: ClusterFile) -> Mapping[str, Any]:
    """What the head's Ray answers."""
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310
    with _told(file), urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        data: Mapping[str, Any] = json.load(answer)["data"]
        return data


@contextmanager
def _told(file: ClusterFile) -> Iterator[None]:
    """A problem with the head, in one line."""
    import aiohttp
    from ray.exceptions import AuthenticationError

    try:
        yield
    except urllib.error.HTTPError as problem:
        problem.close()
        if problem.code in (401, 403):
            raise _refused(file) from None
        raise ClusterError(
            f"the head of {file.path} answers {problem.code} {problem.reason}"
        ) from None
    except AuthenticationError:
        raise _refused(file) from None
    except (OSError, aiohttp.ClientError):
        raise _broken(file) from None
    except RuntimeError as problem:
        raise ClusterError(
            f"the head of {file.path} refuses: {' '.join(str(problem).split())}"
        ) from None


def _refused(file: ClusterFile) -> ClusterError:
    return ClusterError(
        f"the cluster of {file.path} refuses our token: copy to ~/.ray/auth_token "
        "the one that it was brought up with"
    )


def _broken(file: ClusterFile) -> ClusterError:
    up = shlex.join(["ray", "up", str(file.path)])
    return ClusterError(
        f"Ray on the head of {file.path} doesn't answer: see that it runs ({up}); "
        "what runs on the cluster goes on without us"
    )


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        name=details.submission_id,
        study=metadata.get("study", ""),
        command=metadata.get("command", ""),
        state=str(details.status.value),
        begun=_when(details.start_time),
        ended=_when(details.end_time),
        code=details.driver_exit_code,
        words=" ".join((details.message or "").split()),
    )


def _when(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone() if milliseconds else None
