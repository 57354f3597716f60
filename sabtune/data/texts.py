"""Texts as symbols of a fixed alphabet, each divided into a fixed part for each purpose.

Training, selection, test and confirmation (`seeding.Stream`) have one part each, in text order:

pydoc    the help topics of Python (`pydoc_data.topics`), about 350,000 characters that depend on
         the version of Python. Every distinct paragraph occurs once, sorted by topic, as lowercase
         printable ASCII with single spaces and a final newline. The parts are 80, 5, 5 and 10 %
ptb      Penn Treebank as Mikolov prepared it, by character, with stripped lines. The parts are the
         published training file, the two halves of the validation file, and the test file
text8    text8 by Mahoney. The parts are 90, 2.5, 2.5 and 5 %; the last is the usual test part

Only confirmations read the usual test parts. A search never does. The content of the files is
checked against the published digests: other content is refused (`sabtune.data.published`).
"""

from __future__ import annotations

import functools
import hashlib
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

from sabtune.data import place, published
from sabtune.data.catalogue import DATA_SETS
from sabtune.data.formats import read_text, read_zipped_text
from sabtune.seeding import Stream

PARTS = (Stream.TRAINING, Stream.SELECTION, Stream.TEST, Stream.CONFIRMATION)

Text = Mapping[Stream, Tensor]
"""For each purpose, its part of a text: the characters' indices in the alphabet, uint8 (N,)."""

UNKNOWN = 255
"""The symbol of a character that is not in the alphabet."""


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """The alphabet of a text, and the function that reads it from the data folder."""

    alphabet: str
    read: Callable[[Path], Text]


def load(name: str) -> Text:
    """Return a text, cached per process. Raises DataError if its files are missing or damaged."""
    return _load(name, place.folder())


@functools.lru_cache(maxsize=2)
def _load(name: str, folder: Path) -> Text:
    parts = TEXT_SETS[name].read(folder)
    if name in DATA_SETS:
        published.check(name, folder)
    return parts


def identity(name: str) -> str:
    """Return the SHA-256 of a text. Raises DataError if its files are missing."""
    if name in DATA_SETS:
        return published.identity(name, place.folder())
    return _digest(name)


@functools.lru_cache
def _digest(name: str) -> str:
    """Return the digest of the characters of a text that comes with Python."""
    alphabet = np.frombuffer(TEXT_SETS[name].alphabet.encode(), np.uint8)
    symbols = np.concatenate([part.numpy() for part in load(name).values()])
    return hashlib.sha256(alphabet[symbols].tobytes()).hexdigest()


def read_pydoc(folder: Path) -> Text:
    """Read the help topics of the running Python."""
    from pydoc_data.topics import topics

    paragraphs = (p for topic in sorted(topics) for p in re.split(r"\n\s*\n", topics[topic]))
    unique = dict.fromkeys(filter(None, map(plain, paragraphs)))
    text = "".join(f"{paragraph}\n" for paragraph in unique)
    return dict(zip(PARTS, cut(encode(text, "pydoc"), 0.8, 0.85, 0.9), strict=True))


def plain(text: str) -> str:
    """Return the text as lowercase ASCII with single spaces, stripped."""
    decomposed = unicodedata.normalize("NFKD", text)
    return " ".join("".join(filter(str.isascii, decomposed)).split()).lower()


def read_ptb(folder: Path) -> Text:
    """Read Penn Treebank. Raises DataError if a file is missing or damaged."""
    train, valid, test = (_ptb(folder, part) for part in ("train", "valid", "test"))
    return dict(zip(PARTS, [train, *cut(valid, 0.5), test], strict=True))


def _ptb(folder: Path, part: str) -> Tensor:
    path = place.file("ptb", f"ptb.{part}.txt", folder)
    lines = read_text(path).splitlines()
    return encode("".join(f"{line.strip()}\n" for line in lines), "ptb", path)


def read_text8(folder: Path) -> Text:
    """Read text8. Raises DataError if the archive is missing or damaged."""
    path = place.file("text8", "text8.zip", folder)
    symbols = encode(read_zipped_text(path, "text8"), "text8", path)
    return dict(zip(PARTS, cut(symbols, 0.9, 0.925, 0.95), strict=True))


def encode(text: str, name: str, path: Path | None = None) -> Tensor:
    """Return the indices of a text's characters in the alphabet of `name`, uint8 (N,).

    Raises DataError, which names `path`, for a character that is not in the alphabet.
    """
    alphabet = TEXT_SETS[name].alphabet
    table = np.full(256, UNKNOWN, np.uint8)
    table[np.frombuffer(alphabet.encode("ascii"), np.uint8)] = np.arange(len(alphabet))
    symbols = table[np.frombuffer(text.encode("latin-1", "replace"), np.uint8)]
    invalid = np.flatnonzero(symbols == UNKNOWN)
    if len(invalid):
        assert path is not None, f"{text[invalid[0]]!r} is not in the alphabet of {name}"
        raise place.damaged(
            path, f"a character {text[invalid[0]]!r} that is not in the alphabet of {name}"
        )
    return torch.from_numpy(symbols)


def cut(symbols: Tensor, *ends: float) -> Iterator[Tensor]:
    """Return the pieces of `symbols` that end at these shares of its length, and the rest."""
    positions: Sequence[int] = [0, *(round(len(symbols) * end) for end in ends), len(symbols)]
    return (symbols[a:b] for a, b in pairwise(positions))


TEXT_SETS = {
    "pydoc": TextSet(
        alphabet="\n" + "".join(map(chr, (*range(32, 65), *range(91, 127)))), read=read_pydoc
    ),
    "ptb": TextSet(
        alphabet="\n #$&'*-./<>N\\" + string.digits + string.ascii_lowercase, read=read_ptb
    ),
    "text8": TextSet(alphabet=" " + string.ascii_lowercase, read=read_text8),
}
