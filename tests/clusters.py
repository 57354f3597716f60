"""A cluster on hosts of this machine, by the file that its users have."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.hosts import ROOT, Network

TOKEN = {"RAY_AUTH_MODE": "token"}
SMALL = (
    "export SABTUNE_FILES={shared} PYTHONPATH={root} RAY_OVERRIDE_RESOURCES='{{\"CPU\": {cpus}}}'"
)
"""What a host has, however many CPUs the machine has that all of them share."""


class Lab:
    """A laptop, a head and workers. `file`: the cluster's, the values of its first block set."""

    def __init__(self, network: Network, *, workers: int = 2, cpus: int = 1):
        self.network, self.folder = network, network.folder
        self.laptop = network.add("laptop")
        self.head = network.add("head")
        self.workers = [network.add(f"worker{at}") for at in range(1, workers + 1)]
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        (self.laptop.home / "dist").mkdir()
        self.file = self.laptop.home / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(self.content(cpus)))
        self.ray("get-auth-token", "--generate")

    def content(self, cpus: int) -> dict[str, Any]:
        """The file's content. An anchor's value is where it is used, too, once the file is read."""
        text = (ROOT / "cluster.local.yaml").read_text()
        content: dict[str, Any] = yaml.safe_load(text)
        yours = content["provider"]["yours"]
        line = SMALL.format(shared=self.shared, root=ROOT, cpus=cpus)
        mine = {
            "files": f"echo {shlex.quote(line)} >>~/.sabtune.sh",
            "python": f"ln -sfn {sys.prefix} ~/sabtune-venv",
            "install": "test -x ~/sabtune-venv/bin/sabtune",
        }
        swap = {yours[name]: value for name, value in mine.items()}
        commands = [swap.get(command, command) for command in content["setup_commands"]]
        assert set(mine.values()) <= set(commands), "the file uses its own values"
        content["setup_commands"] = commands
        content["provider"] |= {
            "head_ip": self.head.address,
            "worker_ips": [worker.address for worker in self.workers],
            "yours": mine,
        }
        content["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.network.key)}
        return content

    def ray(self, *arguments: str) -> str:
        return self.laptop.run(
            str(Path(sys.prefix, "bin", "ray")), *arguments, environment=TOKEN
        ).stdout

    def up(self) -> None:
        # The autoscaler's version is the client's to choose, too.
        self.laptop.run(
            str(Path(sys.prefix, "bin", "ray")),
            "up",
            "--yes",
            str(self.file),
            environment=TOKEN | {"RAY_UP_enable_autoscaler_v2": "0"},
        )
