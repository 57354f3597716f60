"""Commands with --cluster: the same command runs as a job on the head of the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from sabtune.cli.commands import CLUSTER_VARIABLE, STUDY_FILE_VARIABLE, Value, command_line
from sabtune.cli.screen import INTERRUPTED, check_free, hint
from sabtune.errors import ClusterError
from sabtune.redaction import hide_password
from sabtune.storage.store import DEFAULT
from sabtune.terminal.console import make_console
from sabtune.terminal.region import is_live
from sabtune.terminal.steps import Steps

if TYPE_CHECKING:
    from sabtune.cluster.jobs import Head, Job
    from sabtune.study.definition import Resources

TRAINING = ("search", "confirm", "ablate")
"""The commands that train models; they can be followed and stopped by the name of their study."""

RESUME_NOTE = "The next search resumes unfinished trials."


def options(values: Mapping[str, Value]) -> list[str]:
    """Return the words of a command line that set these options.

    Options with the value None or False are left out, and so is --store with its default.

    Raises ClusterError if an address contains a password: other users can read a job's command.
    """
    words: list[str] = []
    for name, value in values.items():
        if value is None or value is False or (name == "--store" and value == str(DEFAULT)):
            continue
        text = str(value)
        if "://" in text and hide_password(text) != text:
            raise ClusterError(
                f"{name} has a password in it, which others could read in the job's command: "
                "leave it out here, and put it into ~/.pgpass on the head"
            )
        words += [name] if value is True else [name, text]
    return words


def location_options(
    store: str, files: str | None, tracking: str | None = None, data_dir: Path | None = None
) -> list[str]:
    """Return the words of a command line that select the store and data; see `options`."""
    values: dict[str, Value] = {"--store": store, "--files": files}
    return options(values | {"--tracking": tracking, "--data-dir": data_dir})


def follow_command(study: str, cluster: Path) -> str:
    """Return the command line that shows the output of a search."""
    return command_line("status", study, where={"cluster": cluster}, follow=True)


def stop_command(study: str, cluster: Path) -> str:
    """Return the command line that stops a search."""
    return command_line("stop", study, where={"cluster": cluster})


@contextmanager
def head_of(cluster: Path) -> Iterator[Head]:
    """Connect to the head of the cluster that a YAML file defines."""
    with ExitStack() as stack:
        console = make_console()
        with Steps(console if is_live(console) else None) as steps:
            steps(f"Connecting to the head of {cluster}")
            from sabtune.cluster.cluster_file import ClusterFile
            from sabtune.cluster.jobs import connected

            head = stack.enter_context(connected(ClusterFile.load(cluster)))
        yield head


def check_capacity(cluster: Path, resources: Resources) -> None:
    """Raise ResourceError if no machine in the cluster's file is large enough for a trial."""
    from sabtune.cluster.capacity import check_cluster
    from sabtune.cluster.cluster_file import ClusterFile

    check_cluster(ClusterFile.load(cluster), resources)


def train(
    cluster: Path, command: str, *arguments: str, study: str, upload: Path | None = None
) -> NoReturn:
    """Start a training command on the cluster, print its output, and exit with its exit code.

    study: The name of the study that the command writes to.

    upload: The study file to copy to the head, with the local modules that it imports.

    Raises ClusterError if the study is already being searched on the cluster.
    """
    console = make_console()
    with head_of(cluster) as head:
        for job in head.jobs():
            if job.running and job.study == study and job.command in TRAINING:
                follow_it, stop_it = follow_command(study, cluster), stop_command(study, cluster)
                raise ClusterError(
                    f"study {study!r} is being searched on the cluster: follow it with "
                    f"{follow_it}, or stop it with {stop_it}"
                )
        environment = {CLUSTER_VARIABLE: str(cluster)}
        environment |= {STUDY_FILE_VARIABLE: str(upload)} if upload else {}
        name = head.submit(command, *arguments, study=study, upload=upload, environment=environment)
        console.print(Text(f"Started job {name} on the cluster"))
        hint(console, "Ctrl-C leaves it running:", follow_command(study, cluster))
        hint(console, "To stop it:", stop_command(study, cluster))
        follow(console, head, name, study, cluster)


def follow(console: Console, head: Head, name: str, study: str, cluster: Path) -> NoReturn:
    """Print the output of a job until it ends, and exit with its exit code.

    Ctrl-C exits and leaves the job running. Raises ClusterError if the job failed to run.
    """

    def show(lines: str) -> None:
        console.out(lines, end="", highlight=False)

    try:
        job = head.follow(name, show)
    except KeyboardInterrupt:
        console.print(Text(f"\n{study or name} keeps running on the cluster."))
        if study:
            hint(console, "Follow it again:", follow_command(study, cluster))
            hint(console, "Stop it:", stop_command(study, cluster))
        raise typer.Exit(INTERRUPTED) from None
    if job.state == "STOPPED":
        console.print(Text(f"Stopped. {RESUME_NOTE}"))
        raise typer.Exit(INTERRUPTED)
    if job.state == "FAILED" and job.code is None:
        raise ClusterError(f"job {name} ended unexpectedly: {job.words}")
    raise typer.Exit(job.code or 0)


def run_on_head(cluster: Path, command: str, *arguments: str) -> NoReturn:
    """Run a command on the head of a cluster, print its output, and exit with its exit code."""
    console = make_console()
    with head_of(cluster) as head:
        follow(console, head, head.submit(command, *arguments), "", cluster)


def free_name(cluster: Path, name: str, *where: str) -> str:
    """Return the first of NAME, NAME-2 and so on that no study in the cluster's store has.

    where: The options that select the store.

    Raises ClusterError if the head can't determine the name.
    """
    output: list[str] = []
    with head_of(cluster) as head:
        job = head.follow(head.submit("free-name", name, *where), output.append)
    lines = "".join(output).split()
    if job.code or job.state != "SUCCEEDED" or not lines:
        raise ClusterError(f"the head couldn't name a new study: {' '.join(lines) or job.words}")
    return lines[-1]


def show_jobs(cluster: Path) -> None:
    """Print the searches since the head of the cluster started, the latest last."""
    from rich.table import Table

    from sabtune.terminal.styles import styled

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("study", "command", "state", "started", "took"):
        table.add_column(name, no_wrap=True)
    with head_of(cluster) as head:
        jobs = [job for job in head.jobs() if job.command in TRAINING]
    for job in jobs:
        table.add_row(job.study, job.command, styled(_state(job)), _started(job), _took(job))
    console = make_console()
    if not jobs:
        console.print("No search has run on the cluster since its head started.")
    else:
        console.print(table)
        hint(console, "Follow the latest:", follow_command(jobs[-1].study, cluster))


def _state(job: Job) -> str:
    """Return the state of a job, as in "running" or "failed, exit 2"."""
    code = f", exit {job.code}" if job.code else ""
    return job.state.lower() + code


def _started(job: Job) -> str:
    return job.begun.isoformat(sep=" ", timespec="seconds")[:19] if job.begun else ""


def _took(job: Job) -> str:
    from sabtune.terminal.pace import duration

    if job.begun is None or job.ended is None:
        return ""
    return duration((job.ended - job.begun).total_seconds())


def follow_study(cluster: Path, study: str | None) -> NoReturn:
    """Print the output of the running search of a study. None: the only search that is running."""
    console = make_console()
    with head_of(cluster) as head:
        job = _running(head, study, cluster)
        follow(console, head, job.name, job.study, cluster)


def stop(cluster: Path, study: str) -> None:
    """Stop the search of a study as Ctrl-C does, and wait until it has ended."""
    console = make_console()
    with head_of(cluster) as head:
        job = head.stop(_running(head, study, cluster).name)
    console.print(Text(f"{study}: {job.state.lower()}. {RESUME_NOTE}"))


def _running(head: Head, study: str | None, cluster: Path) -> Job:
    """Return the job that searches a study. Raises ClusterError unless there is exactly one."""
    running = [job for job in head.jobs() if job.running and job.command in TRAINING]
    jobs = [job for job in running if study in (None, job.study)]
    if len(jobs) == 1:
        return jobs[0]
    names = ", ".join(job.study for job in running) or "none"
    raise ClusterError(
        f"study {study!r} isn't being searched on the cluster; running searches: {names}"
        if study
        else f"name the study to follow; running searches: {names}"
    )


PAGE_PORTS = {"ui": 5000, "ui --optuna": 8080}
"""The port of each `ui` command on the loopback interface of the head."""

PAGE_START_SECONDS = 180.0
"""The maximum time in seconds until a `ui` command on the head answers."""


def page(
    cluster: Path, study: str | None, *, optuna: bool, port: int, arguments: list[str]
) -> None:
    """Forward MLflow on the head to a port of this machine until Ctrl-C.

    If MLflow isn't running on the head, a job starts it.

    study: The study to print the address of. None: any.

    optuna: Whether to forward optuna-dashboard instead.

    arguments: The options that select the store of the cluster.
    """
    from sabtune.cluster.cluster_file import ClusterFile
    from sabtune.cluster.ssh import answers, forwarded

    check_free(port)
    there = PAGE_PORTS["ui --optuna" if optuna else "ui"]
    with forwarded(ClusterFile.load(cluster), there, local=port):
        if not answers(port):
            words = ["--optuna"] if optuna else []
            with head_of(cluster) as head:
                name = head.submit("ui", *words, "--port", str(there), *arguments)
                limit = time.monotonic() + PAGE_START_SECONDS
                while not answers(port):
                    if not head.job(name).running or time.monotonic() > limit:
                        follow(make_console(), head, name, "", cluster)
                    time.sleep(0.5)
        kind = "optuna-dashboard" if optuna else "MLflow"
        path = f"/studies/{study}" if study and not optuna else ""
        typer.echo(f"{kind} of the cluster: http://127.0.0.1:{port}{path}")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return
