"""Read texts of the user: one file that is cut into parts, or a file for each part."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sabtune.data import place
from sabtune.data.digests import Stamp, combined, content_digest, stamp, unreadable
from sabtune.data.labeled import part_ends
from sabtune.data.place import damaged
from sabtune.data.texts import PARTS, Text, cut
from sabtune.errors import DataError
from sabtune.schema import Config
from sabtune.seeding import Stream

SPLITS = (0.9, 0.05, 0.05)
"""The shares of training, validation and test in a text that is one file."""

ROLES = ("train", "valid", "test")

UNKNOWN = -1

FEWEST_CHARACTERS = 2
"""The smallest number of characters of a part: one to read and one to predict."""


@dataclass(frozen=True, kw_only=True)
class TextContent(Config):
    """The content of a text of the user, as it was first read.

    sha256: the digest of the files. characters: the number of characters for training, selection,
    test and confirmation. read_as: the settings that it was read with.
    """

    sha256: str
    characters: tuple[int, ...]
    read_as: str = ""


@dataclass(frozen=True)
class OwnText:
    """A text that was read: its alphabet, its parts as symbols, and what it holds."""

    alphabet: str
    parts: Text
    content: TextContent


def name_of(files: Sequence[str]) -> str:
    """Return the name of a text of the user, such as "corpus.txt"."""
    return "+".join(Path(file).name for file in files)


def identity(files: Sequence[str]) -> str:
    """Return the SHA-256 of a text. Raises DataError if a file is missing or can't be read."""
    return _identity([place.own(file) for file in files])


def _identity(paths: Sequence[Path]) -> str:
    return combined(dict(zip(ROLES, map(content_digest, paths), strict=False)))


def read(files: Sequence[str], splits: Sequence[float] | None, alphabet: str = "") -> OwnText:
    """Read a text in UTF-8, cached per process until a file changes.

    files: one file, or those for training, validation and test. splits: the shares of one
    file; None for `SPLITS`. alphabet: the characters; "" for those of the training part, sorted.

    Half of the validation part is for selection and half for test; the test part is for
    confirmation. Raises DataError if a file is missing, empty or not in UTF-8, if a part is too
    short, or if it has a character that is not in the alphabet.
    """
    stamps = tuple(stamp(place.own(file)) for file in files)
    return _read(stamps, None if splits is None else tuple(splits), alphabet)


@functools.lru_cache(maxsize=2)
def _read(stamps: tuple[Stamp, ...], splits: tuple[float, ...] | None, alphabet: str) -> OwnText:
    paths = [Path(state[0]) for state in stamps]
    codes = [_codes(path) for path in paths]
    if len(set(map(content_digest, paths))) < len(paths):
        raise damaged(paths[-1], "two of the parts are the same text")
    if len(codes) == 1:
        pieces = list(cut(torch.from_numpy(codes[0]), *part_ends(splits or SPLITS)))
        sources = paths * 4
    else:
        train, valid, test = map(torch.from_numpy, codes)
        pieces = [train, *cut(valid, 0.5), test]
        sources = [paths[0], paths[1], paths[1], paths[2]]
    for piece, path, stream in zip(pieces, sources, PARTS, strict=True):
        if len(piece) < FEWEST_CHARACTERS:
            raise damaged(path, f"its part for {stream.name} has {len(piece)} characters")
    letters = alphabet or "".join(map(chr, torch.unique(pieces[0]).tolist()))
    if len(letters) == 1:
        raise damaged(paths[0], f"its part for {PARTS[0].name} has only the character {letters!r}")
    parts = {
        stream: _encode(piece.numpy(), letters, path, stream)
        for piece, path, stream in zip(pieces, sources, PARTS, strict=True)
    }
    sizes = tuple(map(len, pieces))
    return OwnText(letters, parts, TextContent(sha256=_identity(paths), characters=sizes))


def _codes(path: Path) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return the code points of a text file. Raises DataError if it is empty or not in UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as problem:
        raise damaged(path, f"not UTF-8 at byte {problem.start:,}") from None
    except OSError as problem:
        raise unreadable(path, problem) from None
    if not text.strip():
        raise damaged(path, "empty")
    return np.frombuffer(text.encode("utf-32-le"), "<i4").astype(np.int32)


def _encode(
    codes: np.ndarray[tuple[int], np.dtype[np.int32]], alphabet: str, path: Path, stream: Stream
) -> torch.Tensor:
    """Return characters as indices in the alphabet: uint8 if they fit, otherwise int32."""
    table = np.full(0x110000, UNKNOWN, np.int32)
    table[[ord(letter) for letter in alphabet]] = np.arange(len(alphabet))
    symbols = table[codes]
    unknown = np.flatnonzero(symbols == UNKNOWN)
    if len(unknown):
        raise DataError(
            f"{path} can't be used: {chr(codes[unknown[0]])!r} occurs in its part for "
            f"{stream.name} (character {unknown[0] + 1:,}) but not in training: remove it, or list "
            "all characters as alphabet"
        )
    return torch.from_numpy(symbols.astype(np.uint8) if len(alphabet) <= 256 else symbols)
