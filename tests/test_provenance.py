"""Test which revision of its study file a trial records."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sabtune.cluster import jobs
from sabtune.provenance import revision


def git(folder: Path, *words: str) -> str:
    named = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
    done = subprocess.run(named, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "here" / "study.py"
    file.parent.mkdir()
    file.write_text("a = 1\n")
    git(file.parent, "init", "-q")
    git(file.parent, "add", "study.py")
    git(file.parent, "commit", "-qm", "A study")
    return file


def test_a_file_has_the_revision_of_its_repository(file: Path) -> None:
    commit = git(file.parent, "rev-parse", "HEAD")
    assert revision(file) == {"commit": commit, "dirty": False}
    file.write_text("a = 2\n")
    assert revision(file) == {"commit": commit, "dirty": True}


def test_a_file_outside_of_a_repository_has_none(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text("a = 1\n")
    assert revision(tmp_path / "study.py") == {}


def test_a_file_sent_to_a_cluster_keeps_its_revision(file: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for change in ("a = 1\n", "a = 2\n"):
        file.write_text(change)
        sent = there / jobs._pack(file, there)
        names = sorted(path.name for path in sent.parent.iterdir())
        assert names == ["study.py", "study.py.revision.json"]
        assert sent.read_text() == change
        assert revision(sent) == revision(file)
