"""A cluster of hosts on this machine, started with the cluster file that users edit."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from sabtune.storage.store import Store
from tests.faults import Driver, driver
from tests.hosts import ROOT, Host, Network

RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_UP_enable_autoscaler_v2": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""The variables of docs/cluster.md for `ray up`, and one that disables Ray's usage statistics."""

VARIABLES = (
    "export SABTUNE_FILES={shared} PYTHONPATH={root} RAY_OVERRIDE_RESOURCES='{{\"CPU\": {cpus}}}'"
)
"""The line that sets a host's variables, such as the number of CPUs that Ray assumes."""


class Lab:
    """A laptop, a head and workers on one network.

    `file` is the cluster file with its first block filled in.
    """

    def __init__(self, network: Network, *, workers: int = 2, cpus: int = 1):
        self.network, self.cpus = network, cpus
        self.laptop = network.add("laptop")
        self.head = network.add("head")
        self.workers = [network.add(f"worker{at}") for at in range(1, workers + 1)]
        (self.laptop.home / "dist").mkdir()
        self.file = self.laptop.home / "cluster.yaml"
        self.ray("get-auth-token", "--generate")

    def ray(self, *arguments: str, host: Host | None = None) -> str:
        program = str(Path(sys.prefix, "bin", "ray"))
        return (host or self.laptop).run(program, *arguments, environment=RAY).stdout

    def up(self) -> None:
        """Start the cluster as a user does, and wait until every machine has joined."""
        self.file.write_text(yaml.safe_dump(self.content()))
        self.ray("up", "--yes", str(self.file))
        hosts = 1 + len(self.workers)
        self.until(lambda: f"/{hosts * self.cpus}.0 CPU" in self.ray("status", host=self.head))

    def sabtune(
        self,
        *arguments: object,
        host: Host | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run sabtune on a host, by default on the laptop."""
        command = [sys.executable, "-u", "-m", "sabtune", *map(str, arguments)]
        return (host or self.laptop).run(*command, environment=environment, check=False)

    def driver(self, *arguments: object) -> AbstractContextManager[Driver]:
        """Start sabtune on the laptop and return the running command."""
        return driver(*arguments, cwd=self.laptop.home, prefix=self.laptop.command())

    @property
    def store(self) -> Store:
        """Return the store on the head."""
        return Store.at(str(self.head.home / "sabtune-store"), self.network.shared)

    def content(self) -> dict[str, Any]:
        """Return the content of the cluster file, filled in for this lab.

        The commands in `yours` are replaced there and in `setup_commands`, which repeats them.
        """
        content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.local.yaml").read_text())
        yours = content["provider"]["yours"]
        line = VARIABLES.format(shared=self.network.shared, root=ROOT, cpus=self.cpus)
        mine = {
            "files": f"echo {shlex.quote(line)} >>~/.sabtune.sh",
            "python": f"ln -sfn {sys.prefix} ~/sabtune-venv",
            "install": "test -x ~/sabtune-venv/bin/sabtune",
        }
        assert yours.keys() == mine.keys()
        swap = {yours[name]: value for name, value in mine.items()}
        commands = [swap.get(command, command) for command in content["setup_commands"]]
        assert set(mine.values()) <= set(commands)
        content["setup_commands"] = commands
        content["provider"] |= {
            "head_ip": self.head.address,
            "worker_ips": [worker.address for worker in self.workers],
            "yours": mine,
        }
        content["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.network.key)}
        return content

    @staticmethod
    def until(holds: Callable[[], object], seconds: float = 240) -> None:
        limit = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < limit, "waited too long"
            time.sleep(0.5)
