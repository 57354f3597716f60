"""Test the documentation: its links resolve, its lines are short, its reference is complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sabtune

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
GUIDES = [ROOT / "README.md"] + [
    ROOT / "docs" / f"{name}.md"
    for name in (
        "studies",
        "data",
        "search",
        "cluster",
        "reading",
        "confirming",
        "models",
        "python",
        "storage",
        "own_parts",
        "extending",
        "architecture",
        "glossary",
        "phase",
    )
]
WIDTH = 100


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_lines_are_short(page: Path) -> None:
    """Check all lines but those of tables, pictures and long links."""
    for line in page.read_text().splitlines():
        assert len(line) <= WIDTH or line.startswith(("|", "![")), line


def test_the_readme_links_to_every_guide() -> None:
    text = (ROOT / "README.md").read_text()
    for page in GUIDES[1:]:
        assert f"(docs/{page.name})" in text, page.name
    assert len(text.splitlines()) <= 200


def test_the_reference_has_every_public_name_and_its_links_resolve(tmp_path: Path) -> None:
    make = re.search(r"^docs:.*\n\t\$\(BIN\)/pdoc (.*)", (ROOT / "Makefile").read_text(), re.M)
    assert make is not None
    words = [str(tmp_path) if word == "site" else word for word in shlex.split(make[1])]
    subprocess.run([sys.executable, "-m", "pdoc", *words], check=True, cwd=ROOT)
    text = (tmp_path / "sabtune.html").read_text()
    places = set(re.findall(r' id="([^"]+)"', text))
    assert set(sabtune.__all__) - {"__version__", "testing"} <= places
    testing = (tmp_path / "sabtune" / "testing.html").read_text()
    assert set(sabtune.testing.__all__) <= set(re.findall(r' id="([^"]+)"', testing))
    assert {f"OpenStudy.{name}" for name in ("trials", "ladder", "model", "figures")} <= places
    links = set(re.findall(r' href="([^"]+)"', text))
    for link in links:
        if link.startswith("${"):  # a pattern in the script that searches
            continue
        place = link.removeprefix("#").partition(".")[0]  # pdoc has no places of inherited fields
        local = tmp_path / link.partition("#")[0]
        assert place in places or link.startswith("https://") or local.exists(), link
