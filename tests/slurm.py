"""A Slurm cluster on hosts of this machine: a login node and nodes that run jobs."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sabtune.storage.store import Store
from tests.hosts import PATH, ROOT, Host, Network

TOOLS = ("munged", "sbatch", "scancel", "scontrol", "slurmctld", "slurmd", "squeue", "srun")

SCRIPT = ROOT / "slurm.sbatch"

INTERFACE = "fast0"
"""The name of the nodes' second interface, as of a faster network."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
"""Devices that stand for GPUs: Slurm assigns them, and sets CUDA_VISIBLE_DEVICES."""

CONFIGURATION = """
ClusterName=lab
SlurmctldHost=login({login})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge.socket
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
GresTypes=gpu
SlurmdTimeout=15
SlurmdParameters=config_overrides
KillWait=10
"""
"""A configuration for hosts that share a kernel. Their CPUs and GPUs exist only on paper."""


class Slurm:
    """A Slurm cluster.

    `login` is the host from which jobs are submitted; it also has slurmctld. `nodes` are the hosts
    of the default partition; the partitions "single" and "gpu" have one node and two nodes of their
    own. Every node has one CPU, but the last two have two CPUs and three GPUs. `work` is the folder
    of all studies, which every host sees.
    """

    def __init__(self, network: Network):
        _skip_without_programs()
        self.network, self.folder = network, network.shared / "slurm"
        self.work = network.shared / "work"
        for made in (self.folder, self.work):
            made.mkdir()
        self.login = network.add("login")
        every = [network.add(f"node{at}") for at in range(1, 7)]
        for at, node in enumerate(every, start=1):
            network.connect(node, INTERFACE, f"10.1.0.{at}")
        self.nodes = every[:3]
        self.partitions = {"all": self.nodes, "single": every[3:4], "gpu": every[4:]}
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._configure(every)
        for host in (self.login, *every):
            files = {"key-file": key} | {
                f"{name}-file": Path(f"/run/munged.{name}") for name in ("pid", "seed", "log")
            }
            options = [f"--{name}={path}" for name, path in files.items()]
            host.run("munged", "--force", "--socket=/run/munge.socket", *options)
        self.run("slurmctld", "-f", str(self.configuration))
        for node in every:
            self.start(node)
        self.until(lambda: set(self.run("sinfo", "--noheader", "--format=%T").split()) == {"idle"})

    def _configure(self, nodes: Sequence[Host]) -> None:
        """Write the configuration of Slurm, and the names of all hosts for each of them."""
        lines = [CONFIGURATION.format(login=self.login.address, folder=self.folder)]
        for node in nodes:
            has = f"CPUs=2 Gres=gpu:{len(DEVICES)}" if node in self.partitions["gpu"] else "CPUs=1"
            lines.append(f"NodeName={node.name} NodeAddr={node.address} {has}")
        for name, members in self.partitions.items():
            names = ",".join(node.name for node in members)
            default = "YES" if name == "all" else "NO"
            lines.append(f"PartitionName={name} Nodes={names} Default={default} State=UP")
        self.configuration = self.folder / "slurm.conf"
        self.configuration.write_text("\n".join(lines) + "\n")
        gpu_nodes = ",".join(node.name for node in self.partitions["gpu"])
        gres = f"NodeName={gpu_nodes} Name=gpu File={','.join(DEVICES)}\n"
        (self.folder / "gres.conf").write_text(gres)
        hosts = (self.login, *nodes)
        for host in hosts:
            own = host.folder / host.name / "hosts"
            with own.open("a") as file:
                file.writelines(f"{other.address} {other.name}\n" for other in hosts)

    def start(self, node: Host) -> None:
        self.run("slurmd", "-N", node.name, "-f", str(self.configuration), host=node)

    def run(
        self, *command: str, host: Host | None = None, environment: dict[str, str] | None = None
    ) -> str:
        """Run a command on a host, by default the login node, in the folder of the studies.

        Returns what it prints.
        """
        variables = {"SLURM_CONF": str(self.configuration), "SABTUNE_VENV": sys.prefix}
        words = " ".join(f"'{word}'" for word in command)
        done = (host or self.login).run(
            "bash", "-c", f"cd {self.work} && {words}", environment=variables | (environment or {})
        )
        return done.stdout.strip()

    def sabtune(self, *arguments: object) -> str:
        """Run sabtune on the login node and return what it prints."""
        return self.run(sys.executable, "-m", "sabtune", *map(str, arguments))

    def submit(self, *words: object, options: tuple[str, ...] = ("--nodes=3",)) -> Job:
        """Submit slurm.sbatch with these words and options of sbatch."""
        environment = {"SABTUNE_INTERFACE": INTERFACE}
        command = ("sbatch", "--parsable", *options, str(SCRIPT), *map(str, words))
        return Job(self, self.run(*command, environment=environment))

    def processes(self, node: Host) -> list[str]:
        """Return the commands that run on a node, without those of Slurm itself."""
        return [words for words in node.processes() if not words.startswith(("munged", "slurmd "))]

    @property
    def store(self) -> Store:
        return Store.at(str(self.work / "sabtune-store"))

    @staticmethod
    def until(holds: Callable[[], object], seconds: float = 180) -> None:
        limit = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < limit, f"waited too long for {holds}"
            time.sleep(0.2)


class Job:
    """A job of slurm.sbatch."""

    def __init__(self, slurm: Slurm, number: str):
        self.slurm, self.number = slurm, number

    @property
    def output(self) -> str:
        """The output so far, of all starts of the job."""
        path = self.slurm.work / f"sabtune-{self.number}.out"
        return path.read_text() if path.exists() else ""

    @property
    def token(self) -> str:
        """The token of the job's Ray; only its owner may read the file."""
        path = self.slurm.work / f"sabtune-{self.number}" / "token"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        return path.read_text()

    def facts(self) -> dict[str, str]:
        """Return what Slurm knows about the job, by Slurm's names."""
        shown = self.slurm.run("scontrol", "show", "job", self.number)
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    def until(self, holds: str | Callable[[], object]) -> None:
        """Wait until the job has written these words, or until the condition holds."""
        if isinstance(holds, str):
            words = holds
            holds = lambda: words in self.output  # noqa: E731
        try:
            self.slurm.until(holds)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.facts()}\n{self.output}") from None

    def end(self) -> str:
        """Wait until the job has ended, and return its state and exit code."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.until(lambda: self.facts()["JobState"] in ended)
        facts = self.facts()
        return f"{facts['JobState']} {facts['ExitCode']}"

    def begin_again(self) -> None:
        """Wait until the job is queued again, and start it without Slurm's delay of two minutes."""
        self.until(lambda: self.facts()["JobState"] in ("PENDING", "RUNNING"))
        if self.facts()["JobState"] == "PENDING":
            self.slurm.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")


def _skip_without_programs() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        packages = "slurm-wlm and munge"
        pytest.skip(f"a Slurm cluster can't be had here: install {packages} ({', '.join(missing)})")
