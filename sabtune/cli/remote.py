"""What the commands do where --cluster names a cluster: the same command, as a job of its head."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sabtune.cli.commands import FROM, STUDY_FILE, Value, typed
from sabtune.cli.screen import INTERRUPTED, check_free, console_of_terminal, hint
from sabtune.errors import ClusterError
from sabtune.redaction import hide_password
from sabtune.storage.store import DEFAULT

if TYPE_CHECKING:
    from sabtune.cluster.jobs import Head, Job
    from sabtune.study.definition import Resources

TRAINING = ("search", "confirm", "ablate")
"""The commands that take long, and are therefore followed and stopped by their study."""

GO_ON = "What it has not finished is taken up by the next search."


def options(values: Mapping[str, Value]) -> list[str]:
    """As typed: an option that is None or False is left out.

    Raises ClusterError if an address has a password in it, which a job would show to everybody.
    """
    words: list[str] = []
    for name, value in values.items():
        if value is None or value is False or (name == "--store" and value == str(DEFAULT)):
            continue
        text = str(value)
        if "://" in text and hide_password(text) != text:
            raise ClusterError(
                f"{name} has a password in it, and a job's command can be read by others: "
                "leave it out here, and put it into ~/.pgpass on the head"
            )
        words += [name] if value is True else [name, text]
    return words


def following(study: str, cluster: Path) -> str:
    """What to type to see what a search prints."""
    return typed("status", study, where={"cluster": cluster}, follow=True)


def stopping(study: str, cluster: Path) -> str:
    """What to type to stop a search."""
    return typed("stop", study, where={"cluster": cluster})


@contextmanager
def head_of(cluster: Path) -> Iterator[Head]:
    from sabtune.cluster.cluster_file import ClusterFile
    from sabtune.cluster.jobs import connected

    with connected(ClusterFile.load(cluster)) as head:
        yield head


def check_capacity(cluster: Path, resources: Resources) -> None:
    """Raises ResourceError if the cluster's file has no machine that could ever hold a trial."""
    from sabtune.cluster.capacity import check_cluster
    from sabtune.cluster.cluster_file import ClusterFile

    check_cluster(ClusterFile.load(cluster), resources)


def train(
    cluster: Path, command: str, *arguments: str, study: str, upload: Path | None = None
) -> None:
    """Starts a command that takes long, follows it, and exits as it does."""
    if upload is not None:
        from sabtune.study.study_module import check_alone

        check_alone(upload)
    console = console_of_terminal()
    with head_of(cluster) as head:
        for job in head.jobs():
            if job.running and job.study == study and job.command in TRAINING:
                raise ClusterError(
                    f"study {study!r} is being searched on the cluster: follow it with "
                    f"{following(study, cluster)}, or stop it with {stopping(study, cluster)}"
                )
        said = {FROM: str(cluster)} | ({STUDY_FILE: str(upload)} if upload else {})
        name = head.submit(command, *arguments, study=study, upload=upload, environment=said)
        console.print(Text(f"Started on the cluster, as job {name}"))
        hint(console, "Ctrl-C leaves it running:", following(study, cluster))
        hint(console, "To stop it:", stopping(study, cluster))
        follow(console, head, name, study, cluster)


def follow(console: Console, head: Head, name: str, study: str, cluster: Path) -> None:
    """Shows what a job prints; exits as it does once it has ended, or by Ctrl-C without it."""

    def show(lines: str) -> None:
        console.out(lines, end="", highlight=False)

    try:
        job = head.follow(name, show)
    except KeyboardInterrupt:
        console.print(Text(f"\n{study or name} goes on, on the cluster."))
        if study:
            hint(console, "Follow it again:", following(study, cluster))
            hint(console, "Stop it:", stopping(study, cluster))
        raise typer.Exit(INTERRUPTED) from None
    if job.state == "STOPPED":
        console.print(Text(f"Stopped. {GO_ON}"))
        raise typer.Exit(INTERRUPTED)
    if job.state == "FAILED" and job.code is None:
        raise ClusterError(f"job {name} came to an end by itself: {job.words}")
    raise typer.Exit(job.code or 0)


def ask(cluster: Path, command: str, *arguments: str) -> None:
    """Shows what a command prints on the head; exits as it does."""
    console = console_of_terminal()
    with head_of(cluster) as head:
        follow(console, head, head.submit(command, *arguments), "", cluster)


def free_name(cluster: Path, name: str, *where: str) -> str:
    """The name that a new study beside `name` gets in the store there.

    Raises ClusterError if the head can't say.
    """
    said: list[str] = []
    with head_of(cluster) as head:
        job = head.follow(head.submit("free-name", name, *where), said.append)
    lines = "".join(said).split()
    if job.code or job.state != "SUCCEEDED" or not lines:
        raise ClusterError(f"the head can't name a new study: {' '.join(lines) or job.words}")
    return lines[-1]


def show_jobs(cluster: Path) -> None:
    """The searches of the cluster since its head came up, the latest last."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("study", "command", "state", "started", "took"):
        table.add_column(name, no_wrap=True)
    with head_of(cluster) as head:
        jobs = [job for job in head.jobs() if job.command in TRAINING]
    for job in jobs:
        table.add_row(job.study, job.command, _state(job), _started(job), _took(job))
    console = console_of_terminal()
    if not jobs:
        console.print("No search has run on the cluster since its head came up.")
    else:
        console.print(table)
        hint(console, "The last of them:", following(jobs[-1].study, cluster))


def _state(job: Job) -> str:
    code = f", exit {job.code}" if job.code else ""
    return job.state.lower() + code


def _started(job: Job) -> str:
    return job.begun.isoformat(sep=" ", timespec="seconds")[:19] if job.begun else ""


def _took(job: Job) -> str:
    from sabtune.terminal.live_table import duration

    if job.begun is None or job.ended is None:
        return ""
    return duration((job.ended - job.begun).total_seconds())


def follow_study(cluster: Path, study: str | None) -> None:
    """Follows the search of a study, or the only one there is, from its first line on."""
    console = console_of_terminal()
    with head_of(cluster) as head:
        job = _running(head, study, cluster)
        follow(console, head, job.name, job.study, cluster)


def stop(cluster: Path, study: str) -> None:
    """Stops a study's search, as Ctrl-C would, and waits until it has ended."""
    console = console_of_terminal()
    with head_of(cluster) as head:
        job = head.stop(_running(head, study, cluster).name)
    console.print(Text(f"{study}: {job.state.lower()}. {GO_ON}"))


def _running(head: Head, study: str | None, cluster: Path) -> Job:
    """The job that searches a study now. Raises ClusterError if there is none, or more than one."""
    every = [job for job in head.jobs() if job.running and job.command in TRAINING]
    jobs = [job for job in every if study in (None, job.study)]
    if len(jobs) == 1:
        return jobs[0]
    names = ", ".join(job.study for job in every) or "none"
    raise ClusterError(
        f"{study or 'which'} isn't being searched on the cluster, where these are: {names}"
        if study
        else f"say which study to follow: {names}"
    )


PAGES = {"ui": 5000, "ui --optuna": 8080}
"""Where the pages are on the head, on its loopback interface."""

PATIENCE = 180.0
"""Seconds that a page has to come up."""


def page(cluster: Path, *, optuna: bool, port: int, arguments: list[str]) -> None:
    """Brings the head's page to a port of this machine, until Ctrl-C; starts it if need be."""
    from sabtune.cluster.cluster_file import ClusterFile
    from sabtune.cluster.ssh import answers, forwarded

    check_free(port)
    there = PAGES["ui --optuna" if optuna else "ui"]
    with forwarded(ClusterFile.load(cluster), there, local=port):
        if not answers(port):
            words = ["--optuna"] if optuna else []
            with head_of(cluster) as head:
                name = head.submit("ui", *words, "--port", str(there), *arguments)
                limit = time.monotonic() + PATIENCE
                while not answers(port):
                    if not head.job(name).running or time.monotonic() > limit:
                        follow(console_of_terminal(), head, name, "", cluster)
                    time.sleep(0.5)
        kind = "optuna-dashboard" if optuna else "MLflow"
        typer.echo(f"{kind} of the cluster: http://127.0.0.1:{port}")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return
