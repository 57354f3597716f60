"""Test importing data sets from a disk, and recognizing them by their content."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sabtune import cli
from sabtune.data import catalogue, images, place, texts
from sabtune.data.add import add
from sabtune.data.catalogue import DataSet, File
from sabtune.data.digests import combined, content_digest, file_digest
from sabtune.data.fetch import state
from sabtune.errors import ConfigError, DataError
from sabtune.seeding import Stream, generator
from sabtune.tasks import Pixels
from tests import real_data
from tests.data_files import write_mnist, write_ptb
from tests.doc_blocks import arguments, block, commands

FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k")
         for kind in ("images-idx3", "labels-idx1")]  # fmt: skip


def data_set(title: str, contents: dict[str, bytes]) -> DataSet:
    """Return a data set of gzip files with these contents."""
    files = []
    for name, content in contents.items():
        packed = gzip.compress(content, mtime=1)
        digests = (hashlib.sha256(data).hexdigest() for data in (packed, content))
        sha256, inner = digests
        files.append(File(name=name, urls=(), sha256=sha256, size=len(packed), content=inner))
    return DataSet(title=title, about="", task="pixels", files=tuple(files))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the raw files of two small sets, which stand for the published ones."""
    monkeypatch.setenv(place.VARIABLE, str(tmp_path / "data"))
    for name, title, train in (("mnist", "MNIST", 120), ("fashion-mnist", "Fashion-MNIST", 60)):
        packed = write_mnist(tmp_path / name, train=train, test=train // 6)
        raw = tmp_path / f"{name}-raw"
        raw.mkdir()
        contents = {file: gzip.decompress((packed / file).read_bytes()) for file in FILES}
        for file, content in contents.items():
            (raw / file.removesuffix(".gz")).write_bytes(content)
        monkeypatch.setitem(catalogue.DATA_SETS, name, data_set(title, contents))
    return tmp_path


def test_raw_recompressed_and_published_files_are_the_same_data(small: Path) -> None:
    folder = place.folder()
    raw = add("mnist", small / "mnist-raw", folder)
    assert [path.name for path in raw.paths] == sorted(FILES)
    assert raw.missing == []
    identity = images.identity("mnist")
    numbers = images.load("mnist")[Stream.TRAINING][0][:, 0, 0, 0]
    assert numbers.tolist() == list(range(100))
    assert not list(folder.rglob("*.added"))
    for file in catalogue.DATA_SETS["mnist"].files:
        path = folder / "mnist" / file.name
        content = gzip.decompress(path.read_bytes())
        assert state(path, file) == "there"
        for level, named in ((1, "renamed.gz"), (9, "any other name")):
            again = small / "again" / named
            again.parent.mkdir(exist_ok=True)
            again.write_bytes(gzip.compress(content, level, mtime=level))
            path.unlink()
            assert state(path, file) == "missing"
            assert add("mnist", again, folder).paths == [path]
            assert state(path, file) == "there"
            shutil.rmtree(again.parent)
    assert images.identity("mnist") == identity
    digests = {file.removesuffix(".gz"): content_digest(folder / "mnist" / file) for file in FILES}
    assert identity == combined(digests)
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    assert identity == hashlib.sha256(lines.encode()).hexdigest()


def test_a_part_of_a_data_set_is_added_and_the_rest_is_named(small: Path) -> None:
    added = add("mnist", small / "mnist-raw" / "train-images-idx3-ubyte", place.folder())
    assert len(added.paths) == 1
    assert added.missing == [name for name in FILES if "train-images" not in name]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("fashion-mnist-raw", "holds Fashion-MNIST, not MNIST: add it as fashion-mnist"),
        ("study.py", "has no published file of MNIST: give MNIST's train-images-idx3-ubyte, "),
        ("empty", "has no published file of MNIST"),
        ("nowhere", "there is no "),
        ("half.gz", "is not a complete gzip file"),
    ],
)
def test_what_is_not_the_data_set_is_refused_in_one_line(
    small: Path, source: str, told: str
) -> None:
    (small / "study.py").write_text("STUDY = None")
    (small / "empty").mkdir()
    (small / "half.gz").write_bytes(gzip.compress(bytes(1000))[:20])
    with pytest.raises(DataError, match=told) as raised:
        add("mnist", small / source, place.folder())
    assert "\n" not in str(raised.value)
    assert not (place.folder() / "mnist").exists()
    with pytest.raises(ConfigError, match="the data set is 'minst'"):
        add("minst", small, place.folder())


def test_fashion_mnist_in_the_place_of_mnist_is_refused_by_name(small: Path) -> None:
    folder = place.folder()
    add("fashion-mnist", small, folder)
    (folder / "fashion-mnist").rename(folder / "mnist")
    task = Pixels.Config(images="mnist", length=784).build()
    told = r"holds the content of Fashion-MNIST's train-images-idx3-ubyte, not that of MNIST: get"
    with pytest.raises(DataError, match=told) as raised:
        task.prepare((784,))
    assert "\n" not in str(raised.value)
    add("mnist", small, folder)
    task.prepare((784,))


def test_other_content_than_published_is_refused(small: Path) -> None:
    folder = place.folder()
    add("mnist", small, folder)
    path = folder / "mnist" / FILES[1]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1] + b"\1"))
    with pytest.raises(DataError, match=r"holds other data \(SHA-256 \w{16}…, published \w{16}…"):
        images.load("mnist")
    write_ptb(folder)
    with pytest.raises(DataError, match=r"ptb\.train\.txt holds other data"):
        texts.load("ptb")


def test_a_digest_is_computed_again_for_a_changed_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert content_digest(path) == file_digest(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(gzip.compress(b"other"))
    assert content_digest(path) == hashlib.sha256(b"other").hexdigest()
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    with pytest.raises(DataError, match="can't be read"):
        content_digest(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs sabtune in this process and returns what it printed."""
    monkeypatch.setenv("COLUMNS", "400")

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["sabtune", *map(str, words)])
        cli.run()
        shown = capsys.readouterr()
        return shown.out + shown.err

    return run


def test_the_add_command(small: Path, run: Callable[..., str]) -> None:
    target = small / "elsewhere"
    told = run("data", "add", "mnist", small / "mnist-raw", "--data-dir", target)
    assert told == f"mnist: added 4 files to {target / 'mnist'}, complete\n"
    told = run("data", "add", "mnist", small / "fashion-mnist-raw", "--data-dir", target)
    assert told.startswith(f"sabtune: {small / 'fashion-mnist-raw'} holds Fashion-MNIST, not MNIST")


def test_the_commands_of_the_docs(
    small: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(small))
    shutil.copytree(small / "mnist-raw", small / "Downloads" / "mnist")
    show, _, add_mnist = commands(block("data.md", "sabtune data list"))
    assert re.search(r"│ mnist .*│ no ", run(*arguments(show)))
    assert run(*arguments(add_mnist)).startswith("mnist: added 4 files to ")
    assert re.search(r"│ mnist .*│ yes ", run(*arguments(show)))


def test_the_real_mnist(
    real_mnist: Path, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check the published counts of each digit, and the first digits, by LeCun's description."""
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    monkeypatch.chdir(real_mnist.parents[1])
    assert run(*arguments(real_data.MNIST[-1])).endswith(", complete\n")
    parts = images.load("mnist")
    assert [len(labels) for _, labels in parts.values()] == [50_000, 5_000, 5_000, 10_000]
    training = torch.cat([parts[stream][1] for stream in list(parts)[:3]])
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert training.bincount().tolist() == counts
    assert training[:5].tolist() == [5, 0, 4, 1, 9]
    test, labels = parts[Stream.CONFIRMATION]
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert test.float().mean().item() == pytest.approx(33.79, abs=0.01)
    task = Pixels.Config(images="mnist", by="row", length=28).build()
    batch = task.batches(28, Stream.TEST, generator(0, Stream.TEST)).batch(100)
    assert batch.x.shape == (100, 28, 28)


def test_the_real_fashion_mnist(
    real_fashion_mnist: Path,
    run: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check that Debian's files, compressed anew, are the published data: ten equal classes."""
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    monkeypatch.chdir(real_fashion_mnist.parents[2])
    assert run(*arguments(real_data.FASHION_MNIST[-1])).endswith(", complete\n")
    parts = images.load("fashion-mnist")
    training = torch.cat([parts[stream][1] for stream in list(parts)[:3]])
    assert training.bincount().tolist() == [6000] * 10
    assert parts[Stream.CONFIRMATION][1].bincount().tolist() == [1000] * 10
    assert training[:5].tolist() == [9, 0, 0, 3, 0]
    (tmp_path / "fashion-mnist").rename(tmp_path / "mnist")
    with pytest.raises(DataError, match=r"holds the content of Fashion-MNIST's train-images"):
        images.load("mnist")
    with pytest.raises(DataError, match="holds Fashion-MNIST, not MNIST"):
        add("mnist", tmp_path / "mnist", tmp_path)
