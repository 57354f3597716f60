"""Write small files in the real formats of the data sets."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def idx(values: Bytes) -> bytes:
    """Return the content of an uncompressed IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def write_mnist(folder: Path, *, train: int = 120, test: int = 20) -> Path:
    """Write the four files of MNIST and return FOLDER/mnist.

    Every pixel of an image is the image's number in its file. Labels repeat 0 to 9.
    """
    directory = folder / "mnist"
    directory.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        numbers = np.arange(count, dtype=np.uint8)
        images = np.broadcast_to(numbers[:, None, None], (count, 28, 28))
        for name, values in (("images-idx3", images), ("labels-idx1", numbers % 10)):
            path = directory / f"{part}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(np.asarray(values, np.uint8))))
    return directory


def cifar_records(count: int, first: int) -> bytes:
    """Return records whose red is the record's number, green the column and blue the row."""
    records = np.zeros((count, 3073), np.uint8)
    for i, record in enumerate(records):
        record[0] = (first + i) % 10
        red, green, blue = record[1:].reshape(3, 32, 32)
        red[:], green[:], blue[:] = first + i, np.arange(32), np.arange(32)[:, None]
    return records.tobytes()


def write_cifar10(
    folder: Path, *, each: int = 20, contents: dict[str, bytes] | None = None
) -> Path:
    """Write the archive of CIFAR-10 and return its path.

    each: the records per file. contents: replacement content by file name.
    """
    path = folder / "cifar10" / "cifar-10-binary.tar.gz"
    path.parent.mkdir(parents=True)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(path, "w:gz") as archive:
        for i, name in enumerate(names):
            content = (contents or {}).get(name, cifar_records(each, i * each))
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_ptb(folder: Path, **texts: str) -> Path:
    """Write the three files of Penn Treebank and return FOLDER/ptb.

    Each line begins and ends with a blank.
    """
    directory = folder / "ptb"
    directory.mkdir(parents=True)
    line = " no it was n't black monday \n but the <unk> fell N points \n"
    for name in ("train", "valid", "test"):
        text = texts.get(name, f" {name} is what this is \n" + line * 40)
        (directory / f"ptb.{name}.txt").write_text(text)
    return directory


def write_text8(folder: Path, text: str | bytes, member: str = "text8") -> Path:
    """Write the archive of text8 and return its path."""
    path = folder / "text8" / "text8.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, text)
    return path


def write_sequences(path: Path, *, count: int = 2000, steps: int = 12) -> Path:
    """Write labeled sequences of noise, and return the path.

    The class of a sequence, of four that are equally frequent, is that of its first value.
    """
    noise = np.random.default_rng(0)
    labels = np.arange(count) % 4
    x = noise.random((count, steps, 2))
    x[:, 0, 0] = labels
    np.savez(path, x=x, y=labels)
    return path


def write_png(path: Path, pixels: Bytes) -> Path:
    """Write an image (H, W) or (H, W, 3) as a PNG file, with its folders, and return the path."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
