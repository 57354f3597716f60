"""Test the installation: versions of Python, what the Makefile does, and commands of the docs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.doc_blocks import PAGES, ROOT, block, commands

MAKEFILE = (ROOT / "Makefile").read_text()
VERSIONS = re.findall(r"3\.\d+", re.findall(r"^VERSIONS := (.*)", MAKEFILE, re.MULTILINE)[0])
"""The versions of Python that the Makefile accepts, the newest first."""


def test_all_files_agree_on_the_versions_of_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    supported = SpecifierSet(project["project"]["requires-python"])
    assert [f"3.{minor}" for minor in range(30, 0, -1) if f"3.{minor}" in supported] == VERSIONS
    listed = re.findall(r"Python :: (3\.\d+)", " ".join(project["project"]["classifiers"]))
    assert listed == VERSIONS[::-1]
    oldest, newest = VERSIONS[-1], VERSIONS[0]
    assert project["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    for name in ("README.md", "CONTRIBUTING.md"):
        ranges = re.findall(r"Python (3\.\d+) to (3\.\d+)", PAGES[name].read_text())
        assert ranges == [(oldest, newest)], name
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', workflow) == [oldest, newest]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert here in VERSIONS


def test_every_requirement_is_pinned() -> None:
    """Check that `--constraint` decides every version that an install takes."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonical(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    waiting, seen = [("sabtune", extra) for extra in ("", "dev", "cluster", "postgres")], set()
    while waiting:
        name, extra = waiting.pop()
        for line in requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            dependency = canonical(requirement.name)
            if dependency in UNPINNED or dependency.startswith(("cuda-", "nvidia-")):
                continue
            assert dependency in pinned, f"{name} needs {dependency}"
            assert pinned[dependency] in requirement.specifier, line
            for extra_of in ("", *requirement.extras):
                if (dependency, extra_of) not in seen:
                    seen.add((dependency, extra_of))
                    waiting.append((dependency, extra_of))
    assert len({name for name, _ in seen}) > 150


UNPINNED = {"sabtune", "setuptools"}
"""Packages without a pin; torch itself pins those of CUDA."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the files that the Makefile needs.

    Its folder `bin` has the programs that the recipes run, but no Python.
    """
    folder = tmp_path / "checkout"
    (folder / "bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for program in ("basename", "grep", "mkdir", "sh", "touch"):
        (folder / "bin" / program).symlink_to(str(shutil.which(program)))
    return folder


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `make` in a folder, with only the programs of its `bin`."""
    return subprocess.run(
        [str(shutil.which("make")), "--no-print-directory", *arguments],
        cwd=folder,
        env={"PATH": str(folder / "bin"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


PYTHON = """
case "$*" in
    *version_info*) echo {version} ;;
    *ensurepip*) exit {code} ;;
    "-m venv --clear .venv") mkdir -p .venv/bin && echo {name} >.venv/bin/pip ;;
esac
"""
"""A program that answers what the Makefile asks a Python."""


def add_python(folder: Path, name: str, version: str, *, venv: bool = True) -> None:
    """Add a Python of a version to `bin`, with or without the module venv."""
    text = PYTHON.format(version=version, code=int(not venv), name=name)
    write_program(folder / "bin" / name, text)


def add_shim(folder: Path, name: str) -> None:
    """Add a Python that fails, as pyenv's do for a version that isn't active."""
    write_program(folder / "bin" / name, f"echo 'pyenv: {name}: command not found' >&2; exit 127")


CHOICES = [
    ({"python3": "3.13"}, "python3"),
    ({"python3": None, "python3.11": None, "python3.12": "3.12"}, "python3.12"),
    ({"python3": "3.10", "python3.11": "3.11"}, "python3.11"),
    ({"python3": "3.15", "python3.14": "3.14", "python3.13": "3.13"}, "python3.14"),
    ({"python3": "3.12 without venv", "python3.11": "3.11"}, "python3.11"),
]


@pytest.mark.parametrize(("pythons", "chosen"), CHOICES)
def test_make_takes_the_first_python_that_runs(
    pythons: dict[str, str | None], chosen: str, checkout: Path
) -> None:
    for name, version in pythons.items():
        if version is None:
            add_shim(checkout, name)
        else:
            add_python(checkout, name, version.split()[0], venv="without" not in version)
    done = make(checkout, ".venv/bin/pip")
    assert (done.returncode, done.stderr) == (0, "")
    assert (checkout / ".venv" / "bin" / "pip").read_text() == f"{chosen}\n"
    assert done.stdout == f"Making .venv with {chosen}, Python {pythons[chosen]}\n"


def test_the_python_that_is_named_is_taken(checkout: Path) -> None:
    add_python(checkout, "python3", "3.13")
    add_python(checkout, "other", "3.11")
    for given in (["PYTHON=other"], []):
        shutil.rmtree(checkout / ".venv", ignore_errors=True)
        done = make(checkout, ".venv/bin/pip", *given, **({} if given else {"PYTHON": "other"}))
        assert (done.returncode, done.stderr) == (0, "")
        assert (checkout / ".venv" / "bin" / "pip").read_text() == "other\n"


def test_a_machine_without_a_fitting_python_is_one_line(checkout: Path) -> None:
    def refusal(*arguments: str) -> str:
        done = make(checkout, ".venv/bin/pip", *arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        line, by_make = done.stderr.splitlines()
        assert by_make.startswith("make: *** ")
        return line

    remedy = "install one, or name it: make PYTHON=/path/to/python"
    span = f"no Python {VERSIONS[-1]} to {VERSIONS[0]} runs here"
    assert refusal() == f"{span}: {remedy}"
    add_python(checkout, "python3", "3.10")
    add_shim(checkout, "python3.11")
    assert refusal() == f"{span}, python3 is 3.10: {remedy}"
    assert refusal("PYTHON=/nowhere/python3") == f"{span}: {remedy}"
    add_python(checkout, "python3.12", "3.12", venv=False)
    assert refusal() == (
        "python3.12 has no module venv: install it, as with apt install python3.12-venv"
    )


@pytest.fixture
def ran(checkout: Path) -> Callable[..., list[str]]:
    """Return a function that runs `make` and returns the commands of .venv that it ran."""
    tools = checkout / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("pip", "sabtune", "pytest", "ruff", "mypy"):
        write_program(tools / name, 'echo "$(basename "$0") $*" >>commands.txt')
    (checkout / "tests").mkdir()
    shutil.copy(__file__, checkout / "tests")  # has the mark that `make` looks for

    def ran(*targets: str) -> list[str]:
        log = checkout / "commands.txt"
        log.unlink(missing_ok=True)
        done = make(checkout, *targets)
        assert (done.returncode, done.stderr) == (0, "")
        return log.read_text().splitlines() if log.exists() else []

    return ran


PIP = "pip install --quiet --constraint constraints.txt --editable"
SEARCH = "sabtune search search_spaces/copying_quick.py"
REPORT = "sabtune report copying_quick --out report"


def test_a_search_installs_only_what_it_needs(ran: Callable[..., list[str]]) -> None:
    assert ran("search") == [f"{PIP} .", SEARCH, REPORT]
    assert ran("search") == [SEARCH, REPORT]
    assert ran("lint")[0] == f"{PIP} .[dev]"
    assert not any(command.startswith("pip") for command in ran("test"))
    assert ran("search") == [SEARCH, REPORT]


def test_what_tests_need_is_enough_for_a_search(
    ran: Callable[..., list[str]], checkout: Path
) -> None:
    assert ran("test")[0] == f"{PIP} .[dev]"
    assert ran("search") == [SEARCH, REPORT]
    os.utime(checkout / ".venv" / ".ready-search", (0, 0))  # as if pyproject.toml has changed
    assert ran("search") == [f"{PIP} .", SEARCH, REPORT]


def test_the_readme_begins_with_targets_of_the_makefile(ran: Callable[..., list[str]]) -> None:
    search, test = commands(block("README.md", "make search"))
    assert ran(*search.split()[1:])[1:] == [SEARCH, REPORT]
    assert ran(*test.split()[1:])[-1].startswith("pytest ")


@pytest.mark.parametrize("extra", ["cluster", "notify", "postgres"])
def test_the_extras_of_the_docs_are_installed_with_sabtune(extra: str) -> None:
    """Run `pip install` as the docs do, where all that it asks for is there."""
    blocks = {
        "cluster": [
            block("cluster.md", "pip install 'sabtune[cluster]'      #"),
            block("cluster.md", "pip install 'sabtune[cluster]'                             #"),
            block("storage.md", "pip install 'sabtune[cluster]'"),
        ],
        "notify": [block("search.md", "pip install 'sabtune[notify]'")],
        "postgres": [block("storage.md", "pip install 'sabtune[postgres]'")],
    }
    (pip,) = {commands(text)[0] for text in blocks[extra]}
    done = subprocess.run(
        f"{sys.executable} -m {pip}",
        shell=True,
        env=os.environ | {"PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Successfully installed" not in done.stdout
    assert "Requirement already satisfied: sabtune" in done.stdout


@pytest.mark.slow
def test_the_steps_before_a_cluster_run(tmp_path: Path) -> None:
    """Make a token and a wheel as the docs do, in a copy of the checkout."""
    steps = commands(block("cluster.md", "pip install 'sabtune[cluster]'      #"))
    folder, home = tmp_path / "checkout", tmp_path / "home"
    home.mkdir()
    shutil.copytree(ROOT / "sabtune", folder / "sabtune")
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in (".ready-search", ".ready"):
        (folder / ".venv" / name).touch()
    (tools / "pip").symlink_to(shutil.which("pip", path=Path(sys.executable).parent) or "pip")
    end = steps.index("ray up cluster.local.yaml")
    script = "\n".join(["set -e", *steps[1:end], 'echo "$RAY_AUTH_MODE"'])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | {"HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\ntoken\n")
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text().strip()
    (wheel,) = (folder / "dist").glob("sabtune-*-py3-none-any.whl")
    assert (folder / "dist" / "constraints.txt").exists()
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert packed >= {str(p.relative_to(ROOT)) for p in (ROOT / "sabtune").rglob("*.py")}
    assert packed >= {"sabtune/py.typed", "sabtune/reporting/page.html.jinja"}
