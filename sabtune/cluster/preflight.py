"""What must be right on the machine that a cluster is started and used from, before it is asked."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray

from sabtune.cluster.cluster_file import ClusterFile
from sabtune.cluster.findings import Finding, other_version, token_findings
from sabtune.cluster.node_facts import token

UNSET = "CHANGE-ME"
"""What a cluster file says where a person is to set a value."""

CLIENTS = {"aws": ("boto3", "boto3"), "gcp": ("googleapiclient", "google-api-python-client")}
"""What `ray up` needs for a provider: a module, and the package that has it."""

IMAGE = re.compile(r"rayproject/ray:(\d+\.\d+\.\d+)-py(\d)(\d+)")


def problems_before(file: ClusterFile) -> list[Finding]:
    """All that can be told from the file and this machine alone, the wrong ones first."""
    here = platform.node()
    found = [*_unset(file), *_mounts(file), *_images(file), *_programs(file)]
    found += token_findings(here, token(), cluster=True)
    return sorted(found, key=lambda finding: not finding.wrong)


def _unset(file: ClusterFile) -> Iterator[Finding]:
    """Values that nobody has set, each where it first stands."""
    seen: set[str] = set()
    for where, value in _values(file.content, ""):
        if UNSET in value and value not in seen and "commands" not in where:
            seen.add(value)
            yield Finding(
                where=str(file.path),
                says=f"{where} still is {value!r}",
                remedy=f"write your own over {UNSET}; the comment above it says what",
            )


def _values(content: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _values(value, f"{where}.{name}" if where else str(name))
    elif isinstance(content, list):
        for value in content:
            yield from _values(value, where)
    elif isinstance(content, str):
        yield where, content


def _mounts(file: ClusterFile) -> Iterator[Finding]:
    """What is to be copied to every node, and isn't there."""
    for remote, local in (file.content.get("file_mounts") or {}).items():
        path = Path(str(local)).expanduser()
        if remote.endswith("/auth_token"):
            continue
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            make = "run `make wheel`" if path.name == "dist" else "make it"
            yield Finding(
                where=str(file.path),
                says=f"there is nothing at {local}, which every node gets as {remote}",
                remedy=f"{make} where you call `ray up`",
            )


def _images(file: ClusterFile) -> Iterator[Finding]:
    """Another Ray or Python in the containers than here."""
    docker = file.content.get("docker") or {}
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    for image in sorted({str(docker[name]) for name in ("image", "head_image") if name in docker}):
        found = IMAGE.match(image)
        if found is None:
            continue
        theirs = f"{found[2]}.{found[3]}"
        if found[1] != ray.__version__:
            yield other_version(image, "ray", ray.__version__, found[1])
        if theirs != mine:
            yield other_version(image, "python", mine, theirs)


def _programs(file: ClusterFile) -> Iterator[Finding]:
    for program in ("ssh", "rsync"):
        if shutil.which(program) is None:
            yield Finding(
                where=platform.node(),
                says=f"there is no {program}, by which `ray up` reaches nodes",
                remedy="install it",
            )
    module, package = CLIENTS.get(file.provider, ("ray", "ray"))
    if find_spec(module) is None:
        yield Finding(
            where=platform.node(),
            says=f"there is no {package}, by which `ray up` asks for nodes",
            remedy=f"pip install {package}",
        )
    key = (file.content.get("auth") or {}).get("ssh_private_key")
    if key and not Path(key).expanduser().is_file():
        yield Finding(
            where=str(file.path),
            says=f"there is no key at {key} (auth.ssh_private_key)",
            remedy="make it with ssh-keygen, or name another",
        )
