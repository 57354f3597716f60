"""Test images as sequences: real digits, and small files in the formats of MNIST and CIFAR-10."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sabtune.data import formats, images, place
from sabtune.errors import ConfigError, DataError
from sabtune.seeding import Stream, generator
from sabtune.tasks import Pixels
from tests.data_files import idx, write_cifar10, write_mnist


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _unpublished: None) -> Path:
    """Return an empty data folder for a test, where any content is accepted."""
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    return tmp_path


def shown(config: Pixels.Config, count: int, stream: Stream = Stream.TRAINING) -> Any:
    return config.build().batches(config.length, stream, generator(0, stream)).batch(count)


def test_digits_are_those_of_scikit_learn_split_into_parts() -> None:
    found = load_digits()
    real = sorted(
        (image.astype(np.uint8).tobytes(), label)
        for image, label in zip(found.images, found.target, strict=True)
    )
    parts = images.load("digits")
    ours = [
        (image.numpy().tobytes(), int(label))
        for pixels, labels in parts.values()
        for image, label in zip(pixels, labels, strict=True)
    ]
    assert sorted(ours) == real
    assert [len(labels) for _, labels in parts.values()] == [1097, 200, 200, 300]
    for _, labels in parts.values():  # every part has every class
        assert labels.bincount(minlength=10).min() > 0.06 * len(labels)
    rows = [{image.numpy().tobytes() for image in pixels} for pixels, _ in parts.values()]
    assert not any(a & b for a, b in combinations(rows, 2))


def test_a_digit_is_one_pixel_per_step_with_its_class_at_the_last() -> None:
    batch = shown(Pixels.Config(), 50)
    pixels, labels = images.load("digits")[Stream.TRAINING]
    known = {
        image.numpy().tobytes(): int(label) for image, label in zip(pixels, labels, strict=True)
    }
    for x, targets in zip(batch.x, batch.targets, strict=True):
        image = (x * 16).round().to(torch.uint8).reshape(8, 8, 1)
        assert known[image.numpy().tobytes()] == int(targets[-1])
    assert batch.scored.tolist() == [False] * 63 + [True]
    assert 0 <= batch.x.min() < batch.x.max() <= 1


def test_rows_and_pixels_show_the_same_image() -> None:
    one, other = shown(Pixels.Config(), 9), shown(Pixels.Config(by="row", length=8), 9)
    assert other.x.shape == (9, 8, 8)
    assert torch.equal(one.x.reshape(9, 8, 8), other.x)
    assert torch.equal(one.targets[:, -1], other.targets[:, -1])


def test_a_permutation_is_the_same_for_all_images() -> None:
    plain, mixed = shown(Pixels.Config(), 30), shown(Pixels.Config(permutation=4), 30)
    order = Pixels.Config(permutation=4).order
    assert sorted(order) == list(range(64))
    assert order != Pixels.Config(permutation=5).order
    assert torch.equal(mixed.x, plain.x[:, order])
    # the same on every machine and in every version
    assert Pixels.Config(permutation=0).order[:6] == [50, 34, 14, 59, 42, 35]


def test_longer_sequences_are_padded_with_zeros() -> None:
    task = Pixels.Config().build()
    batch = task.batches(100, Stream.TEST, generator(0, Stream.TEST)).batch(5)
    plain = task.batches(64, Stream.TEST, generator(0, Stream.TEST)).batch(5)
    assert torch.equal(batch.x[:, :64], plain.x)
    assert batch.x[:, 64:].eq(0).all()
    assert torch.equal(batch.targets[:, 99], plain.targets[:, 63])
    assert batch.scored.tolist() == [False] * 99 + [True]


def test_an_epoch_has_every_image_once_in_a_new_order() -> None:
    task = Pixels.Config().build()
    source = task.batches(64, Stream.CONFIRMATION, generator(0, Stream.CONFIRMATION))
    assert source.count == 300
    first, second = (
        torch.cat([source.batch(100).x for _ in range(3)]).flatten(1) for _ in range(2)
    )
    assert not torch.equal(first, second)
    assert len({row.numpy().tobytes() for row in first}) == 300
    assert {row.numpy().tobytes() for row in first} == {row.numpy().tobytes() for row in second}
    with pytest.raises(ConfigError, match="batch_size is 301: give at most 300"):
        task.batches(64, Stream.CONFIRMATION, generator(0, Stream.CONFIRMATION)).batch(301)


def test_mnist_from_its_files(folder: Path) -> None:
    write_mnist(folder)
    parts = images.load("mnist")
    numbers = {stream: pixels[:, 0, 0, 0].tolist() for stream, (pixels, _) in parts.items()}
    assert numbers == {
        Stream.TRAINING: list(range(100)),
        Stream.SELECTION: list(range(100, 110)),
        Stream.TEST: list(range(110, 120)),
        Stream.CONFIRMATION: list(range(20)),
    }
    for stream, (pixels, labels) in parts.items():
        assert pixels.shape[1:] == (28, 28, 1)
        assert labels.tolist() == [number % 10 for number in numbers[stream]]
    batch = shown(Pixels.Config(images="mnist", length=784), 5)
    assert batch.x.shape == (5, 784, 1)
    value = (batch.x[:, 0, 0] * 255).round().long()
    assert torch.equal(value % 10, batch.targets[:, -1])


def test_cifar10_from_its_archive(folder: Path) -> None:
    write_cifar10(folder)
    parts = images.load("cifar10")
    assert [len(labels) for _, labels in parts.values()] == [90, 5, 5, 20]
    pixels, labels = parts[Stream.CONFIRMATION]
    assert pixels.shape == (20, 32, 32, 3)
    assert pixels[3, 7, 9].tolist() == [103, 9, 7]  # red: the number; green: column; blue: row
    assert labels.tolist() == [i % 10 for i in range(100, 120)]
    batch = shown(Pixels.Config(images="cifar10", length=1024), 5)
    assert batch.x.shape == (5, 1024, 3)
    assert torch.equal((batch.x[0, :, 1] * 255).round(), torch.arange(32).repeat(32).float())
    rows = shown(Pixels.Config(images="cifar10", length=32, by="row"), 5)
    assert rows.x.shape == (5, 32, 96)


def damage_mnist(name: str, content: bytes, packed: bool = True) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = write_mnist(folder) / name
        path.write_bytes(gzip.compress(content) if packed else content)

    return spoil


def cut_mnist(folder: Path) -> None:
    path = write_mnist(folder) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-60])


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
GOOD = idx(np.zeros((120, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (cut_mnist, r"train-images.* is damaged \(not a complete gzip file"),
        (damage_mnist(IMAGES, b"", packed=False), "empty|not a complete gzip file"),
        (
            damage_mnist(IMAGES, b"<html>no such page</html>", packed=False),
            "not a complete gzip file",
        ),
        (damage_mnist(IMAGES, b""), r"is damaged \(empty\)"),
        (damage_mnist(IMAGES, GOOD[:-5]), "94075 values where its header says 120 × 28 × 28"),
        (damage_mnist(IMAGES, GOOD + b"x"), "94081 values where its header says"),
        (damage_mnist(IMAGES, GOOD[:9]), "9 bytes, less than its header"),
        (damage_mnist(IMAGES, b"\0\0\x0d\3" + GOOD[4:]), "magic number 00000d03, not 00000803"),
        (damage_mnist(LABELS, GOOD), "magic number 00000803, not 00000801"),
        (
            damage_mnist(IMAGES, idx(np.zeros((120, 28, 27), np.uint8))),
            "images of 28 × 27, not 28 × 28",
        ),
        (damage_mnist(IMAGES, idx(np.zeros((0, 28, 28), np.uint8))), "120 labels for 0 images"),
        (damage_mnist(LABELS, idx(np.zeros(119, np.uint8))), "119 labels for 120 images"),
        (damage_mnist(LABELS, idx(np.full(120, 10, np.uint8))), "a label of 10, not 0 to 9"),
    ],
)
def test_a_damaged_mnist_file_is_one_line(
    folder: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=told) as raised:
        images.load("mnist")
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(
        f"run `sabtune data fetch mnist --data-dir {folder}` to get it again"
    )


def cut_cifar(folder: Path) -> None:
    path = write_cifar10(folder)
    path.write_bytes(path.read_bytes()[:-200])


def cifar_with(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_cifar10(folder, contents={name: content})

    return spoil


def no_cifar_member(folder: Path) -> None:
    path = write_cifar10(folder)
    with tarfile.open(path, "w:gz"):
        pass


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (cut_cifar, "is damaged"),
        (no_cifar_member, "data_batch_1.bin"),
        (cifar_with("data_batch_3.bin", b""), "data_batch_3.bin has 0 bytes"),
        (cifar_with("test_batch.bin", bytes(3072)), "test_batch.bin has 3072 bytes"),
        (cifar_with("data_batch_2.bin", b"\x0b" + bytes(3072)), "a label of 11 in .*data_batch_2"),
    ],
)
def test_a_damaged_cifar10_archive_is_one_line(
    folder: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=told) as raised:
        images.load("cifar10")
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(
        f"run `sabtune data fetch cifar10 --data-dir {folder}` to get it again"
    )


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_missing_file_is_an_error_with_a_remedy_but_the_study_loads(
    folder: Path, name: Any
) -> None:
    task = Pixels.Config(images=name, length=2000).build()
    assert task.chance == 0.1
    remedy = f"run `sabtune data fetch {name} --data-dir {folder}`, or give the folder"
    with pytest.raises(DataError, match=remedy):
        task.prepare((2000,))


def test_data_is_read_once_per_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(folder)
    read: list[Path] = []

    def spy(path: Path, dimensions: int) -> formats.Bytes:
        read.append(path)
        return formats.read_idx(path, dimensions)

    monkeypatch.setattr(images, "read_idx", spy)
    for seed in range(3):
        config = Pixels.Config(images="mnist", length=784)
        config.build().batches(784, Stream.TRAINING, generator(seed, Stream.TRAINING)).batch(2)
        config.build().prepare((784,))
    assert len(read) == 4


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"length": 63}, "length is 63: give at least 64, the steps of an image of digits by pix"),
        ({"images": "mnist"}, "length is 64: give at least 784"),
        ({"permutation": -1}, "permutation is -1"),
    ],
)
def test_an_image_value_out_of_range_is_named(values: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Pixels.Config(**values)
