"""A Slurm cluster on hosts of this machine: a login node, which also has slurmctld, and nodes."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.hosts import PATH, ROOT, Host, Network

TOOLS = ("munged", "sbatch", "scancel", "scontrol", "slurmctld", "slurmd", "squeue", "srun")

CONFIGURATION = """
ClusterName=lab
SlurmctldHost=login({login})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge.socket,cred_expire=2
CredType=cred/munge
StateSaveLocation=/run/slurmctld
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={logs}/slurmctld.log
SlurmdLogFile={logs}/slurmd.%n.log
SlurmdDebug=debug
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,batch_sched_delay=0,sched_min_interval=0,requeue_delay=1
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=20
KillWait=10
InactiveLimit=0
MinJobAge=600
"""


class Slurm:
    """A Slurm cluster.

    `login` is the host that has slurmctld, and from which jobs are submitted. `nodes` are the
    hosts that run jobs.
    """

    def __init__(self, network: Network, *, nodes: int = 3, cpus: int = 1, gpus: int = 0):
        self.network, self.folder = network, network.shared / "slurm"
        self.folder.mkdir()
        self.login = network.add("login")
        self.nodes = [network.add(f"node{at}") for at in range(1, nodes + 1)]
        self.key = self.folder / "munge.key"
        self.key.write_bytes(secrets.token_bytes(1024))
        self.key.chmod(0o400)
        lines = [CONFIGURATION.format(login=self.login.address, logs=self.folder)]
        for host in self.nodes:
            lines.append(f"NodeName={host.name} NodeAddr={host.address} CPUs={cpus} Gres=gpu:2 State=UNKNOWN")
        names = ",".join(host.name for host in self.nodes)
        lines.append(f"PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP")
        self.configuration = self.folder / "slurm.conf"
        (self.folder / "gres.conf").write_text(f"NodeName={names} Name=gpu File=/dev/null,/dev/zero\n")
        self.configuration.write_text("\n".join(lines) + "\n")
        for host in (self.login, *self.nodes):
            with (host.folder / host.name / "hosts").open("a") as file:
                for other in (self.login, *self.nodes):
                    if other is not host:
                        file.write(f"{other.address} {other.name}\n")
        self.start()

    def start(self):
        for host in (self.login, *self.nodes):
            host.run("munged", "--force", f"--key-file={self.key}", "--socket=/run/munge.socket",
                     "--pid-file=/run/munged.pid", "--seed-file=/run/munged.seed",
                     "--log-file=/run/munged.log")
        self.run("slurmctld", "-f", str(self.configuration))
        for host in self.nodes:
            self.run("slurmd", "-N", host.name, "-f", str(self.configuration), host=host)

    def run(self, *command, host=None, environment=None, check=True):
        environment = {"SLURM_CONF": str(self.configuration)} | (environment or {})
        return (host or self.login).run(*command, environment=environment, check=check)
