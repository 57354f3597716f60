"""Commands of sabtune as jobs on a cluster's head, which run independently of this machine."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import platform
import shlex
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
from sabtune.parts.importing import bundle_of

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DASHBOARD_PORT = 8265
"""The port of Ray's dashboard on the head's loopback interface."""

STUDIES_FOLDER = "sabtune-studies"
"""The folder in the head's home for the study files that are sent there, each in its own folder."""

STOP_ENVIRONMENT = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""Environment of a job that lets `stop` end a search like Ctrl-C, so that it can be resumed."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
FIRST_LINE = "Running entrypoint for job "
"""The start of the last line of Ray's setup of a job. The job's own output follows that line."""

SAME_SABTUNE = (
    'there="$(sabtune --version 2>&1)"; [ "$there" = "sabtune {ours}" ] || '
    '{{ echo "sabtune: the cluster has $there, and you have sabtune {ours}: '
    'install the same on both"; exit 2; }}'
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command that waits, runs or has run on the head.

    study: the name of its study, "" if it has none. begun, ended: local times, or None. code: the
    exit code, or None.
    """

    name: str
    study: str
    command: str
    state: str  # PENDING, RUNNING, or one of ENDED
    begun: datetime | None
    ended: datetime | None
    code: int | None
    words: str  # Ray's message about the state

    @property
    def running(self) -> bool:
        """Whether the job waits or runs."""
        return self.state not in ENDED


class Head:
    """The head of a running cluster. Its methods raise ClusterError if they fail."""

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
        """Start `sabtune COMMAND …` in the head's home as a job, and return the job's name.

        The job keeps running without this machine. upload: a study file, which is sent with the
        local modules that it imports and with its git revision. It becomes the first argument of
        the command. environment: additional environment
        variables; anyone with the cluster's token can read them.
        """
        name = "-".join(filter(None, (command, study, uuid.uuid4().hex[:8])))
        words = [command]
        store_upload = ""
        with tempfile.TemporaryDirectory() as folder:
            if upload is not None:
                sent = _pack(upload, Path(folder) / STUDIES_FOLDER)
                store_upload = f'cp -r "$OLDPWD"/{STUDIES_FOLDER} . && '
                words.append(f"{STUDIES_FOLDER}/{sent}")
            run = shlex.join(["sabtune", *words, *arguments])
            check = SAME_SABTUNE.format(ours=version("sabtune"))
            entrypoint = f"{check}; cd && {store_upload}exec {run}"
            with _head_errors(self.file):
                return self.client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=name,
                    metadata={"command": command, "study": study},
                    runtime_env={"env_vars": STOP_ENVIRONMENT | dict(environment or {})}
                    | ({"working_dir": folder} if upload else {}),
                )

    def jobs(self) -> list[Job]:
        """Return sabtune's jobs, oldest first."""
        with _head_errors(self.file):
            all_jobs = self.client.list_jobs()
        ours = [_job(details) for details in all_jobs if "command" in (details.metadata or {})]
        return sorted(ours, key=lambda job: job.begun or datetime.now().astimezone())

    def job(self, name: str) -> Job:
        """Return the job of this name."""
        with _head_errors(self.file):
            return _job(self.client.get_job_info(name))

    def follow(self, name: str, show: Callable[[str], None]) -> Job:
        """Call `show` with everything that a job prints until it ends, and return the ended job."""
        asyncio.run(self._tail(name, show))
        for _ in range(100):  # Ray updates the state of a job a moment after its output ends
            job = self.job(name)
            if not job.running:
                return job
            time.sleep(0.1)
        raise _no_answer(self.file)

    async def _tail(self, name: str, show: Callable[[str], None]) -> None:
        started = False
        with _head_errors(self.file):
            async for lines in self.client.tail_job_logs(name):
                if not started:  # skip Ray's messages about its setup of the job
                    _, first_line, lines = lines.partition(FIRST_LINE)
                    started = bool(first_line)
                    lines = lines.partition("\n")[2]
                if started:
                    show(lines)

    def stop(self, name: str) -> Job:
        """Stop a job like Ctrl-C, wait until it ends, and return it."""
        with _head_errors(self.file):
            self.client.stop_job(name)
        while (job := self.job(name)).running:
            time.sleep(0.5)
        return job


def _pack(file: Path, folder: Path) -> str:
    """Copy a study file, the local modules that it imports and its git revision to a folder.

    Returns the path of the study file below `folder`.
    """
    from sabtune.provenance import NOTE, revision  # imports torch, which is slow

    bundle = bundle_of(file, whole=True)
    own = folder / bundle.digest
    bundle.copy(own)
    (own / (bundle.study_file + NOTE)).write_text(json.dumps(revision(file)))
    return f"{bundle.digest}/{bundle.study_file}"


@contextmanager
def connected(file: ClusterFile) -> Iterator[Head]:
    """Connect to the head of a cluster.

    Raises ClusterError if the head can't be reached or refuses the token, or if it has another
    version of Ray or Python than this machine.
    """
    missing = [name for name in ("aiohttp", "aiohttp_cors") if not importlib.util.find_spec(name)]
    if missing:
        raise ClusterError("--cluster needs more of Ray: pip install 'sabtune[cluster]'")
    headers = {"Authorization": f"Bearer {token()}"}
    with forwarded(file, DASHBOARD_PORT) as port:
        address = f"http://{LOOPBACK}:{port}"
        check_versions(_ask(f"{address}/api/v0/cluster_metadata", headers, file), file)
        # These variables would redirect the client to another cluster.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        os.environ["RAY_AUTH_MODE"] = "token"
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").handlers = [logging.NullHandler()]
        with _head_errors(file):
            client = JobSubmissionClient(address, headers=headers)
        yield Head(file, client)


def token() -> str:
    """Return the token from where Ray looks for it. Raises ClusterError if there is none."""
    path = token_path()
    try:
        content = os.environ.get(VARIABLE) or path.read_text()
    except OSError as problem:
        raise ClusterError(
            f"there is no token for the cluster in {path} ({problem.strerror}): "
            "copy the token with which the cluster was started"
        ) from None
    return content.strip()


def check_versions(theirs: Mapping[str, Any], file: ClusterFile) -> None:
    """Raise ClusterError unless Ray and the minor version of Python are the same here and there.

    theirs: the metadata of the cluster, as its Ray reports it.
    """
    here = {"Ray": version("ray"), "Python": platform.python_version()}
    there = {"Ray": theirs.get("rayVersion", "none"), "Python": theirs.get("pythonVersion", "none")}
    same = here["Ray"] == there["Ray"] and _minor(here["Python"]) == _minor(there["Python"])
    if not same:
        ours, others = (
            " and ".join(f"{name} {number}" for name, number in versions.items())
            for versions in (here, there)
        )
        raise ClusterError(
            f"you have {ours}, and the cluster of {file.path} has {others}: install the same on "
            "both, with exactly the same version of Ray"
        )


def _minor(full_version: str) -> list[str]:
    return full_version.split(".")[:2]


def _ask(url: str, headers: Mapping[str, str], file: ClusterFile) -> Mapping[str, Any]:
    """Request a URL of the head's Ray, and return `data` from the JSON response."""
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310
    with _head_errors(file), urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        data: Mapping[str, Any] = json.load(answer)["data"]
        return data


@contextmanager
def _head_errors(file: ClusterFile) -> Iterator[None]:
    """Turn every problem with the head into a ClusterError of one line."""
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
        raise _no_answer(file) from None
    except RuntimeError as problem:
        raise ClusterError(
            f"the head of {file.path} refuses: {' '.join(str(problem).split())}"
        ) from None


def _refused(file: ClusterFile) -> ClusterError:
    return ClusterError(
        f"the cluster of {file.path} refuses our token: copy the token with which it was started "
        "to ~/.ray/auth_token"
    )


def _no_answer(file: ClusterFile) -> ClusterError:
    up = shlex.join(["ray", "up", str(file.path)])
    return ClusterError(
        f"Ray on the head of {file.path} doesn't answer: check that it runs ({up}); "
        "jobs on the cluster continue without this machine"
    )


def _job(details: Any) -> Job:
    """Convert Ray's details of a job to a `Job`."""
    metadata = details.metadata or {}
    return Job(
        name=details.submission_id,
        study=metadata.get("study", ""),
        command=metadata.get("command", ""),
        state=str(details.status.value),
        begun=_local_time(details.start_time),
        ended=_local_time(details.end_time),
        code=details.driver_exit_code,
        words=" ".join((details.message or "").split()),
    )


def _local_time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000).astimezone() if milliseconds else None
