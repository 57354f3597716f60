"""Test the texts: Python's help, and small files in the formats of Penn Treebank and text8."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from torch import Tensor

from sabtune.data import place, texts
from sabtune.data.texts import TEXT_SETS
from sabtune.errors import ConfigError, DataError
from sabtune.seeding import Stream
from sabtune.tasks import Language
from tests.data_files import write_ptb, write_text8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _unpublished: None) -> Path:
    """Return an empty data folder for a test, where any content is accepted."""
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    return tmp_path


def read(name: str, symbols: Tensor) -> str:
    return "".join(TEXT_SETS[name].alphabet[i] for i in symbols.tolist())


def test_pydoc_is_pythons_help_with_each_paragraph_once() -> None:
    parts = [read("pydoc", part) for part in texts.load("pydoc").values()]
    whole = "".join(parts)
    assert 250_000 < len(whole) < 600_000
    shares = [len(part) / len(whole) for part in parts]
    assert shares == pytest.approx([0.8, 0.05, 0.05, 0.1], abs=1e-4)
    paragraphs = whole.splitlines()
    assert len(set(paragraphs)) == len(paragraphs)
    assert all(p == " ".join(p.split()) == p.lower() for p in paragraphs)
    # A plain ASCII paragraph is unchanged.
    sample = next(p for p in topics["assert"].split("\n\n") if p.isascii() and len(p) > 80)
    assert " ".join(sample.split()).lower() in paragraphs
    # No long paragraph of a measured part occurs in training.
    long = {p for p in parts[0].splitlines() if len(p) > 30}
    for part in parts[1:]:
        assert not long & {p for p in part.splitlines() if len(p) > 30}


def test_alphabets() -> None:
    sizes = {name: len(known.alphabet) for name, known in TEXT_SETS.items()}
    assert sizes == {"pydoc": 70, "ptb": 50, "text8": 27}
    for known in TEXT_SETS.values():
        assert len(set(known.alphabet)) == len(known.alphabet)
        assert known.alphabet.isascii()


def test_ptb_from_its_files(folder: Path) -> None:
    write_ptb(
        folder,
        train=" no it was n't \n <unk> rose N points \n",
        valid=" a b \n c d \n",
        test=" it fell \n",
    )
    parts = {stream: read("ptb", part) for stream, part in texts.load("ptb").items()}
    assert parts == {
        Stream.TRAINING: "no it was n't\n<unk> rose N points\n",
        Stream.SELECTION: "a b\n",
        Stream.TEST: "c d\n",
        Stream.CONFIRMATION: "it fell\n",
    }


def test_text8_from_its_archive(folder: Path) -> None:
    text = (" anarchism originated as a term of abuse" * 100)[:4000]
    write_text8(folder, text)
    parts = texts.load("text8")
    assert [len(part) for part in parts.values()] == [3600, 100, 100, 200]
    assert "".join(read("text8", part) for part in parts.values()) == text


def spoil_ptb(content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (write_ptb(folder) / "ptb.valid.txt").write_bytes(content)

    return spoil


def cut_text8(folder: Path) -> None:
    path = write_text8(folder, " of" * 1000)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("ptb", spoil_ptb(b""), r"ptb\.valid\.txt is damaged \(empty\)"),
        ("ptb", spoil_ptb(b" \n \n"), r"ptb\.valid\.txt is damaged \(empty\)"),
        ("ptb", spoil_ptb(b" no it \xff was \n"), "not UTF-8 at byte 7"),
        ("ptb", spoil_ptb(" café \n".encode()), "'é' that is not in the alphabet of ptb"),
        ("ptb", spoil_ptb(" 日本 \n".encode()), "'日' that is not in the alphabet of ptb"),
        ("ptb", spoil_ptb(b"<!DOCTYPE html>"), "'!' that is not in the alphabet of ptb"),
        ("text8", lambda folder: write_text8(folder, ""), r"text8\.zip is damaged \(empty\)"),
        ("text8", lambda folder: write_text8(folder, b"a\xfe"), "not UTF-8 at byte 1"),
        (
            "text8",
            lambda folder: write_text8(folder, "An"),
            "'A' that is not in the alphabet of text8",
        ),
        ("text8", lambda folder: write_text8(folder, "a", "text9"), "no item named 'text8'"),
        ("text8", cut_text8, "not a zip file"),
    ],
)
def test_a_damaged_text_is_one_line(
    folder: Path, name: str, spoil: Callable[[Path], Any], told: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=told) as raised:
        texts.load(name)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(
        f"run `sabtune data fetch {name} --data-dir {folder}` to get it again"
    )


@pytest.mark.parametrize("name", ["ptb", "text8"])
def test_a_missing_text_is_an_error_with_a_remedy_but_the_task_builds(
    folder: Path, name: Any
) -> None:
    task = Language.Config(text=name).build()
    assert task.outputs == len(TEXT_SETS[name].alphabet)
    with pytest.raises(DataError, match=f"run `sabtune data fetch {name} --data-dir {folder}`"):
        task.prepare((100,))


def test_a_length_beyond_the_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"length is 30000: .* the text's part for SELECTION"):
        Language.Config().build().prepare((100, 30_000))


def test_parts_do_not_overlap_in_memory() -> None:
    parts = texts.load("pydoc")
    spans = sorted((p.data_ptr(), p.data_ptr() + len(p)) for p in parts.values())
    assert all(a[1] <= b[0] for a, b in combinations(spans, 2))
    assert re.fullmatch(r"[\x0a\x20-\x7e]*", read("pydoc", parts[Stream.TEST]))
