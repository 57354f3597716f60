"""Texts as symbols of a fixed alphabet, in fixed parts, one for each purpose.

Training, selection, test and confirmation (`seeding.Stream`) have a part each, in the text's order:

pydoc    what Python's own help says on its topics (`pydoc_data.topics`), some 350,000 characters
         that depend on Python's version: by topic, paragraph by paragraph, each once, as lower-case
         printable ASCII with a blank for any run of white space and a newline at the end; 80, 5, 5
         and 10 %
ptb      Penn Treebank as Mikolov prepared it, by character: lines without the blanks around them;
         the published training file, the halves of the validation file, the test file
text8    Mahoney's: 90, 2.5, 2.5 and 5 %; the last is the customary test part

What is customary for tests is so for confirmation alone: no search reads it.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sabtune.data import place
from sabtune.data.formats import read_text, read_zipped_text
from sabtune.seeding import Stream

PARTS = (Stream.TRAINING, Stream.SELECTION, Stream.TEST, Stream.CONFIRMATION)

Text = Mapping[Stream, Tensor]
"""For each purpose a part, as the places (N,) of its characters in the alphabet, uint8."""

UNKNOWN = 255


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """A text by its alphabet, and how it is read from the data folder."""

    alphabet: str
    read: Callable[[Path], Text]


def load(name: str) -> Text:
    """A text, read once a process. Raises DataError if its files are missing or damaged."""
    return _load(name, place.folder())


@functools.lru_cache(maxsize=2)
def _load(name: str, folder: Path) -> Text:
    return TEXT_SETS[name].read(folder)


def read_pydoc(folder: Path) -> Text:
    from pydoc_data.topics import topics

    paragraphs = (p for topic in sorted(topics) for p in re.split(r"\n\s*\n", topics[topic]))
    once = dict.fromkeys(filter(None, map(plain, paragraphs)))
    text = "".join(f"{paragraph}\n" for paragraph in once)
    return dict(zip(PARTS, cut(encoded(text, "pydoc"), 0.8, 0.85, 0.9), strict=True))


def plain(text: str) -> str:
    """In lower-case printable ASCII, one blank for any run of white space, none around."""
    parted = unicodedata.normalize("NFKD", text)
    return " ".join("".join(filter(str.isascii, parted)).split()).lower()


def read_ptb(folder: Path) -> Text:
    train, valid, test = (_ptb(folder, part) for part in ("train", "valid", "test"))
    return dict(zip(PARTS, [train, *cut(valid, 0.5), test], strict=True))


def _ptb(folder: Path, part: str) -> Tensor:
    path = place.file("ptb", f"ptb.{part}.txt", folder)
    lines = read_text(path).splitlines()
    return encoded("".join(f"{line.strip()}\n" for line in lines), "ptb", path)


def read_text8(folder: Path) -> Text:
    path = place.file("text8", "text8.zip", folder)
    symbols = encoded(read_zipped_text(path, "text8"), "text8", path)
    return dict(zip(PARTS, cut(symbols, 0.9, 0.925, 0.95), strict=True))


def encoded(text: str, name: str, path: Path | None = None) -> Tensor:
    """Places in the alphabet, uint8 (N,). Raises DataError, naming `path`, for what isn't in it."""
    alphabet = TEXT_SETS[name].alphabet
    table = np.full(256, UNKNOWN, np.uint8)
    table[np.frombuffer(alphabet.encode("ascii"), np.uint8)] = np.arange(len(alphabet))
    symbols = table[np.frombuffer(text.encode("latin-1", "replace"), np.uint8)]
    strange = np.flatnonzero(symbols == UNKNOWN)
    if len(strange):
        assert path is not None, f"{text[strange[0]]!r} isn't in the alphabet of {name}"
        raise place.damaged(path, f"a character {text[strange[0]]!r}, which {name} has not")
    return torch.from_numpy(symbols)


def cut(symbols: Tensor, *ends: float) -> Iterator[Tensor]:
    """Pieces that end at these shares of the whole, and the rest."""
    places: Sequence[int] = [0, *(round(len(symbols) * end) for end in ends), len(symbols)]
    return (symbols[a:b] for a, b in pairwise(places))


TEXT_SETS = {
    "pydoc": TextSet(
        alphabet="\n" + "".join(map(chr, (*range(32, 65), *range(91, 127)))), read=read_pydoc
    ),
    "ptb": TextSet(
        alphabet="\n #$&'*-./<>N\\" + string.digits + string.ascii_lowercase, read=read_ptb
    ),
    "text8": TextSet(alphabet=" " + string.ascii_lowercase, read=read_text8),
}
