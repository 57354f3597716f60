"""The page of `sabtune doctor` on a cluster's head, fetched over SSH by `ray exec`."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from sabtune.errors import ClusterError
from sabtune.search.cluster_file import ClusterFile

BEGIN, END = "sabtune-doctor-begins", "sabtune-doctor-ends"
"""Around the page, in what `ray exec` prints: Ray and SSH have words of their own."""

COMMAND = f"cd; echo {BEGIN}; COLUMNS=160 sabtune doctor --store sabtune-store; echo {END} $?"
PATIENCE = 600.0
"""Seconds that the head has for all of it."""


def head_page(file: ClusterFile) -> tuple[str, bool]:
    """What the head's doctor prints, and whether all is well there.

    Raises ClusterError if there is no head, it can't be reached, or has no sabtune.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "exec", str(file.path), COMMAND]
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"the head of {file.name} doesn't answer within {PATIENCE:.0f} s: "
            "see that it is up, and lets you in by SSH"
        ) from None
    return read(file, done.stdout, done.stderr)


def read(file: ClusterFile, output: str, errors: str) -> tuple[str, bool]:
    """The page in what was printed. Raises ClusterError if there is none."""
    text = output.replace("\r", "")
    page = re.search(rf"^{BEGIN}\n(.*?)^{END} (\d+)", text, re.DOTALL | re.MULTILINE)
    if page is None:
        raise ClusterError(_why(file, f"{text}\n{errors}"))
    if page[2] not in ("0", "1"):
        raise ClusterError(
            f"sabtune doesn't run on the head of {file.name} (exit {page[2]}): "
            f"see that its setup installs it, and `ray up {file.path}` again"
        )
    return page[1].rstrip("\n"), page[2] == "0"


def _why(file: ClusterFile, text: str) -> str:
    if "not found" in text and "ead node" in text:
        return f"there is no head of {file.name}: start it with `ray up {file.path}`"
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    last = lines[-1][:200] if lines else "nothing was printed"
    return (
        f"the head of {file.name} can't be asked ({last}): "
        f"see that `ray attach {file.path}` lets you in"
    )
