"""Hosts of a cluster on this machine, in an isolated network.

Each host has its own processes, /tmp, home folder and sshd. The hosts share the machine's files,
and so its Python and sabtune.

A host consists of Linux namespaces that are held by a single process. That process ends with the
test, however the test ends, and the kernel then removes everything in the namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
"""The folders that every host sees at the same paths, even below /tmp."""

TOOLS = ("ip", "nsenter", "rsync", "ssh", "ssh-keygen", "sshd", "unshare")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

BEGIN = """
set -e
name=$1 folder=$2; shift 2
mount -t tmpfs none /run
mkdir -p /run/sshd
at=0
for path in "$@"; do mkdir /run/$at; mount --rbind "$path" /run/$at; at=$((at + 1)); done
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777 none /dev/shm
mkdir -p "$folder"
mount -t tmpfs none "$folder"
at=0
for path in "$@"; do mkdir -p "$path"; mount --rbind /run/$at "$path"; at=$((at + 1)); done
for file in passwd hosts resolv.conf; do
  [ ! -e /etc/$file ] || mount --bind "$folder/$name/$file" /etc/$file
done
hostname "$name"
ip link set lo up
"$(command -v sshd)" -f "$folder/network/sshd_config"
"""

SSHD = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
UseDNS no
UsePAM no
MaxStartups 100
PidFile none
"""

LIVE = "\necho ready; read -r _ || true\n"
"""The end of a host's script, which waits until the test ends and the pipe to it closes."""


class Host:
    """A host of a network.

    `address` is its IP address. `home` is its home folder, which the test can also see.
    """

    def __init__(self, name: str, address: str, folder: Path):
        self.name, self.address, self.folder = name, address, folder
        self.interfaces: list[str] = []
        self.home = folder / name / "home"
        self.home.mkdir(parents=True)
        # The host must not read the shell configuration of this machine's root.
        passwd = f"root:x:0:0:root:{self.home}:/bin/bash\nsshd:x:65534:65534::/:/bin/false\n"
        (folder / name / "passwd").write_text(passwd)
        (folder / name / "hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        (folder / name / "resolv.conf").write_text("")
        spaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        own = (folder / "network", folder / "shared", folder / name)
        visible = dict.fromkeys(str(path) for path in (*SHARED, *own))
        self.process = _living([*spaces, "--mount-proc"], BEGIN, name, str(folder), *visible)
        self.pid = _child(self.process.pid)

    def command(self, *command: str, environment: dict[str, str] | None = None) -> list[str]:
        """Return a command that, run here, runs `command` on this host in its home folder."""
        variables = {"HOME": str(self.home), "USER": "root", "PATH": PATH, "LANG": "C.UTF-8"}
        variables |= {"PYTHONPATH": str(ROOT)} | (environment or {})
        return [
            *("nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts", "--ipc"),
            *(f"--wdns={self.home}", "env", "-i", "--default-signal=INT"),
            *(f"{name}={value}" for name, value in variables.items()),
            *command,
        ]

    def run(
        self, *command: str, environment: dict[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*command, environment=environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command} on {self.name}:\n{done.stdout}{done.stderr}"
        return done

    def processes(self) -> list[str]:
        """Return the commands that run on this host, without its first process and sshd."""
        lines = self.run("ps", "-eo", "pid=,args=").stdout.splitlines()
        listed = [line.split(maxsplit=1) for line in lines]
        return [
            words
            for pid, words in listed
            if pid != "1" and "sshd" not in words and "ps -eo" not in words
        ]

    def kill(self) -> None:
        """Kill the host and everything on it at once, as by a power cut."""
        for interface in self.interfaces:
            _ip(self.pid, "link", "set", interface, "down")
        self.process.kill()
        self.process.wait()


class Network:
    """An isolated network of hosts.

    `key` is the SSH key for all hosts. `shared` is a folder for the files that all hosts share.
    """

    def __init__(self, folder: Path):
        self.folder, self.shared = folder, folder / "shared"
        files = folder / "network"
        for made in (files, self.shared):
            made.mkdir()
        self.key = files / "key"
        self.hosts: dict[str, Host] = {}
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
        subprocess.run(command, check=True)
        (files / "sshd_config").write_text(SSHD.format(folder=files))
        bridge = "set -e; ip link add lan type bridge; ip link set lan up"
        self.switch = _living(["--net"], bridge)

    def add(self, name: str, address: str | None = None) -> Host:
        """Start a new host, by default at the next free address, and return it."""
        host = Host(name, address or f"10.0.0.{len(self.hosts) + 1}", self.folder)
        self.hosts[name] = host
        self.connect(host, "eth0", host.address)
        return host

    def connect(self, host: Host, interface: str, address: str) -> None:
        """Add an interface with an address to a host, and connect it to the network."""
        port, switch, into = f"{interface}-{host.pid}", self.switch.pid, host.pid
        peer = ["type", "veth", "peer", "name", interface, "netns", str(into)]
        _ip(switch, "link", "add", port, *peer)
        _ip(switch, "link", "set", port, "master", "lan", "up")
        _ip(into, "address", "add", f"{address}/24", "dev", interface)
        _ip(into, "link", "set", interface, "up")
        host.interfaces.append(interface)

    def close(self) -> None:
        for process in (*(host.process for host in self.hosts.values()), self.switch):
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """Yield a network whose hosts keep their files in `folder`; skip the test if unsupported."""
    _skip_without_tools()
    with ExitStack() as stack:
        made = Network(folder)
        stack.callback(made.close)
        yield made


def _skip_without_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        pytest.skip(f"hosts can't be had here: there is no {', '.join(missing)}")
    spaces = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc"]
    tried = subprocess.run(
        [*spaces, "ip", "link", "add", "lan", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"hosts can't be had here: {tried.stderr.strip()}")


def _living(spaces: Sequence[str], begin: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process in its own namespaces and return it when it runs."""
    process = subprocess.Popen(
        ["unshare", *spaces, "bash", "-c", begin + LIVE, "host", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": PATH},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", "a host didn't come up: see stderr"
    return process


def _child(pid: int) -> int:
    """Return the PID of the only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _ip(pid: int, *arguments: str) -> None:
    """Run `ip` in the network namespace of the process `pid`."""
    subprocess.run(["nsenter", f"--target={pid}", "--net", "ip", *arguments], check=True)
