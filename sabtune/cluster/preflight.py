"""Checks of a cluster file and this machine, before a cluster is started or used from here."""

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
"""The placeholder in a cluster file for a value that a person must set."""

CLIENTS = {"aws": ("boto3", "boto3"), "gcp": ("googleapiclient", "google-api-python-client")}
"""For each provider, the module that `ray up` needs, and the package that contains it."""

IMAGE = re.compile(r"rayproject/ray:(\d+\.\d+\.\d+)-py(\d)(\d+)")


def problems_before(file: ClusterFile) -> list[Finding]:
    """Return the findings about a cluster file and this machine, problems before notices."""
    here = platform.node()
    findings = [*_unset(file), *_mounts(file), *_images(file), *_programs(file)]
    findings += token_findings(here, token(), cluster=True)
    return sorted(findings, key=lambda finding: not finding.wrong)


def _unset(file: ClusterFile) -> Iterator[Finding]:
    """Find values outside of commands that still contain the placeholder; name each value once."""
    seen: set[str] = set()
    for where, value in _values(file.content, ""):
        if UNSET in value and value not in seen and "commands" not in where:
            seen.add(value)
            yield Finding(
                where=str(file.path),
                says=f"{where} is still {value!r}",
                remedy=f"replace {UNSET} with your own value, as the comment above it explains",
            )


def _values(content: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield each text in the content after its position, such as "auth.ssh_user"."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _values(value, f"{where}.{name}" if where else str(name))
    elif isinstance(content, list):
        for value in content:
            yield from _values(value, where)
    elif isinstance(content, str):
        yield where, content


def _mounts(file: ClusterFile) -> Iterator[Finding]:
    """Find missing files and empty folders among those that are copied to every node."""
    for remote, local in (file.content.get("file_mounts") or {}).items():
        path = Path(str(local)).expanduser()
        if remote.endswith("/auth_token"):
            continue
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            make = "run `make wheel`" if path.name == "dist" else "create it"
            yield Finding(
                where=str(file.path),
                says=f"there is nothing at {local}, which every node gets as {remote}",
                remedy=f"{make} where you run `ray up`",
            )


def _images(file: ClusterFile) -> Iterator[Finding]:
    """Find container images with another version of Ray or Python than here."""
    docker = file.content.get("docker") or {}
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for image in sorted({str(docker[name]) for name in ("image", "head_image") if name in docker}):
        versions = IMAGE.match(image)
        if versions is None:
            continue
        there = f"{versions[2]}.{versions[3]}"
        if versions[1] != ray.__version__:
            yield other_version(image, "ray", ray.__version__, versions[1])
        if there != here:
            yield other_version(image, "python", here, there)


def _programs(file: ClusterFile) -> Iterator[Finding]:
    """Find programs, packages and keys that `ray up` needs and this machine lacks."""
    for program in ("ssh", "rsync"):
        if shutil.which(program) is None:
            yield Finding(
                where=platform.node(),
                says=f"there is no {program}, which `ray up` needs to reach nodes",
                remedy="install it",
            )
    module, package = CLIENTS.get(file.provider, ("ray", "ray"))
    if find_spec(module) is None:
        yield Finding(
            where=platform.node(),
            says=f"there is no {package}, which `ray up` needs to request nodes",
            remedy=f"pip install {package}",
        )
    key = (file.content.get("auth") or {}).get("ssh_private_key")
    if key and not Path(key).expanduser().is_file():
        yield Finding(
            where=str(file.path),
            says=f"there is no key at {key} (auth.ssh_private_key)",
            remedy="create it with ssh-keygen, or give another",
        )
