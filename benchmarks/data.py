"""Measure the share of an update's time that its batch takes, for every task.

    python benchmarks/data.py [STUDY ...]

For each study, the script trains the first configuration of its space on one thread. It compares
the CPU time of making the batch with the CPU time of the whole update; both are medians over up to
200 updates or 15 s. Noise in the same formats replaces the data sets that aren't included, at a
tenth of their size (text8: a hundredth), which doesn't change the time to draw a batch. The time to
read a data set, once per worker, is not included.
"""

from __future__ import annotations

import gzip
import io
import statistics
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sabtune.config import RunConfig
from sabtune.data import place, published
from sabtune.data.texts import TEXT_SETS
from sabtune.study.loading import load
from sabtune.tasks import Batch
from sabtune.training.loop import Training

GENERATED = ["copying", "adding", "recall", "mqar", "selective_copying", "flip_flop", "passkey"]
GENERATED += ["parity", "permutations"]
STUDIES = [*GENERATED, "digits", "mnist", "cifar10", "text", "ptb", "text8"]
WARM, TIMED, SECONDS = 2, 200, 15.0


def write_noise(folder: Path) -> None:
    """Write files of noise in the formats of the data sets."""
    noise = np.random.default_rng(0)
    for name in ("mnist", "cifar10", "ptb", "text8"):
        (folder / name).mkdir()
    for part, count in (("train", 6000), ("t10k", 1000)):
        images = noise.integers(0, 256, (count, 28, 28), np.uint8)
        labels = noise.integers(0, 10, count, np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / "mnist" / f"{part}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(values), 1))
    with tarfile.open(
        folder / "cifar10" / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1
    ) as tar:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            records = noise.integers(0, 256, (1000, 3073), np.uint8)
            records[:, 0] %= 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = records.size
            tar.addfile(member, io.BytesIO(records.tobytes()))
    for part, count in (("train", 500_000), ("valid", 40_000), ("test", 40_000)):
        (folder / "ptb" / f"ptb.{part}.txt").write_text(text(noise, "ptb", count))
    with zipfile.ZipFile(folder / "text8" / "text8.zip", "w") as archive:
        archive.writestr("text8", text(noise, "text8", 1_000_000))


def idx(values: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def text(noise: np.random.Generator, name: str, count: int) -> str:
    return "".join(noise.choice(list(TEXT_SETS[name].alphabet), count))


def row(study: str) -> str:
    file = load(Path(__file__).parent.parent / "search_spaces" / f"{study}.py")
    config = file.try_space()
    training = Training(RunConfig.of(task=file.study.task, trial=config, seed=0))
    making: list[float] = []
    made = training.batches.batch

    def timed(size: int) -> Batch:
        begun = time.process_time()
        batch = made(size)
        making.append(time.process_time() - begun)
        return batch

    training.batches.batch = timed  # type: ignore[method-assign]
    whole: list[float] = []
    while len(whole) < WARM + TIMED and sum(whole) < SECONDS:
        begun = time.process_time()
        training._update()
        whole.append(time.process_time() - begun)
    data, update = (1e3 * statistics.median(times[WARM:]) for times in (making, whole))
    task = training.task
    shape = f"{config.train.batch_size} × {task.steps(task.length):,} × {task.inputs}"
    hidden = config.model.hidden
    return f"| {study} | {shape} | {hidden} | {data:.2f} | {update:.1f} | {data / update:.1%} |"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder))
        place.use(Path(folder))
        published.check = lambda name, folder: None  # noise isn't the published content
        print("| study | batch × steps × inputs | hidden | ms for data | ms an update | share |")
        print("|---|---|---|---|---|---|")
        for study in sys.argv[1:] or STUDIES:
            print(row(study), flush=True)


if __name__ == "__main__":
    main()
