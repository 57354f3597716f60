"""Run searches one after another on one Ray, which takes half of their CPU time.

For tests of what searches do, rather than of how they start and end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import ray

from sabtune import cli
from sabtune.cluster import ray_session
from sabtune.tuning import run


@contextmanager
def one_ray(log: Path = Path("/dev/null")) -> Iterator[None]:
    """Start one Ray for all searches of this process in the block."""
    with ray_session.some_ray(log), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "some_ray", lambda *_: nullcontext(""))
        yield
    assert not ray.is_initialized()


class Commands:
    """Runs commands of `sabtune` in this process, each in the folder `cwd`."""

    def __init__(self, patch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]):
        self.patch, self.output = patch, output

    def __call__(self, *arguments: object, cwd: Path) -> CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        self.patch.chdir(cwd)
        self.patch.setattr(sys, "argv", ["sabtune", *words])
        self.output.readouterr()
        code = cli.run()
        shown, errors = self.output.readouterr()
        return CompletedProcess(words, code, shown, errors)
