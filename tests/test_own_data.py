"""Test data of the user: texts, images and sequences, good and malformed."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sabtune import schema
from sabtune.config import PARTS, RunConfig
from sabtune.data import own_images, place
from sabtune.data.digests import combined
from sabtune.errors import ConfigError, DataError, StoreError, StudyFileError
from sabtune.parts.bundle import of_study_file
from sabtune.seeding import Stream, generator
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.loading import load
from sabtune.study.resuming import check_same_question
from sabtune.study.trial_specs import configuration_key
from sabtune.tasks import Language, Pixels, Sequences, TaskConfig
from sabtune.tuning.run import open_or_create
from tests.data_files import Bytes, idx, write_png, write_sequences
from tests.records import spec

STREAMS = (Stream.TRAINING, Stream.SELECTION, Stream.TEST, Stream.CONFIRMATION)

TEXT = "The quick brown fox jumps over the lazy dog, naïve café.\n" * 20


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def whole(config: TaskConfig, stream: Stream) -> Any:
    """Return all sequences of a part as one batch."""
    source = config.build().batches(config.length, stream, generator(0, stream))
    assert source.count is not None
    return source.batch(source.count)


def read_back(config: TaskConfig) -> TaskConfig:
    plain = json.loads(json.dumps(schema.to_dict(config, PARTS)))
    return schema.from_dict(TaskConfig, plain, PARTS)  # type: ignore[type-abstract]


# --- texts


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


def text_of(config: Language.Config, stream: Stream) -> str:
    """Return the text of a part, from its windows of one character."""
    task = config.build()
    assert isinstance(task, Language)
    source = task.batches(1, stream, generator(0, stream))
    if stream == Stream.TRAINING:
        batch = source.batch(1)
        letters = [batch]
        while len(letters) < config.content.characters[0] - 2:  # type: ignore[union-attr]
            letters.append(source.batch(1))
        return "".join(config.alphabet[int(b.x[0, 0].argmax())] for b in letters)
    assert source.count is not None
    batch = source.batch(source.count)
    return "".join(sorted(config.alphabet[i] for i in batch.x[:, 0].argmax(dim=-1).tolist()))


@pytest.mark.parametrize("kind", [str, Path])
def test_a_text_of_the_user_is_divided_by_share(corpus: Path, kind: type) -> None:
    config = Language.Config(text=kind(corpus), length=10, splits=(0.8, 0.1, 0.1))
    assert config.text == str(corpus)
    assert config.alphabet == "".join(sorted(set(TEXT)))
    assert config.content is not None
    assert config.content.sha256 == digest(TEXT.encode())
    n = len(TEXT)
    cuts = [0, round(0.8 * n), round(0.85 * n), round(0.9 * n), n]
    pieces = [TEXT[a:b] for a, b in pairwise(cuts)]
    assert config.content.characters == tuple(map(len, pieces))
    for stream, piece in zip(STREAMS[1:], pieces[1:], strict=True):
        assert text_of(config, stream) == "".join(sorted(piece[:-1]))
    assert text_of(config, Stream.TRAINING) in pieces[0]
    task = config.build()
    assert task.inputs == task.outputs == len(set(TEXT))
    assert task.datasets() == {"corpus.txt": digest(TEXT.encode())}
    assert read_back(config) == config


def test_a_text_of_the_user_can_be_three_files(tmp_path: Path) -> None:
    texts = {"train": TEXT, "valid": "a fox jumps over", "test": "the dog"}
    paths = []
    for name, text in texts.items():
        paths.append(tmp_path / f"{name}.txt")
        paths[-1].write_text(text)
    config = Language.Config(text=tuple(paths), length=2)
    assert config.content is not None
    assert config.content.characters == (len(TEXT), 8, 8, 7)
    assert text_of(config, Stream.CONFIRMATION) == "".join(sorted("the do"))
    digests = {name: digest(text.encode()) for name, text in texts.items()}
    assert config.build().datasets() == {"train.txt+valid.txt+test.txt": combined(digests)}
    assert read_back(config) == config
    with pytest.raises(ConfigError, match=r"splits is .* give nothing, since text has files"):
        Language.Config(text=tuple(paths), splits=(0.8, 0.1, 0.1))
    paths[2].write_text(TEXT)
    with pytest.raises(DataError, match=r"test\.txt can't be used \(two of the parts are the same"):
        Language.Config(text=tuple(paths))


def test_an_alphabet_may_be_larger_than_that_of_training(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("ab" * 50 + "é" * 5)
    with pytest.raises(DataError, match=r"'é' occurs in its part for CONFIRMATION \(character"):
        Language.Config(text=path, length=1)
    config = Language.Config(text=path, length=1, alphabet="abcé")
    assert config.build().outputs == 4
    with pytest.raises(ConfigError, match="alphabet is 'aa': give at least two different"):
        Language.Config(text=path, alphabet="aa")


def test_a_text_with_more_than_256_characters(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    path.write_text(letters * 50)
    config = Language.Config(text=path, length=10)
    task = config.build()
    assert task.outputs == 400
    batch = task.batch(3, 10, torch.Generator().manual_seed(0))
    symbols = batch.x.argmax(dim=-1)
    assert torch.equal((symbols + 1) % 400, batch.targets)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"ab\xff" * 90, "not UTF-8 at byte 2"),
        (b"a" * 400, "its part for TRAINING has only the character 'a'"),
        (b"ab" * 10, "its part for SELECTION has 0 characters"),
        (b"ab" * 100 + b"?", "'\\?' occurs in its part for CONFIRMATION .* but not in training"),
    ],
)
def test_a_malformed_text_is_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as raised:
        Language.Config(text=path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Language.Config(text="ptbb"), "pydoc, ptb, text8, or the path of a text; there"),
        (lambda: Language.Config(text=""), "text is ''"),
        (lambda: Language.Config(text=("a", "b")), "give one path, or three"),
        (lambda: Language.Config(text="a\0b"), "there is no"),
        (lambda: Language.Config(text="x" * 5000), "there is no"),
        (lambda: Language.Config(text="~nosuchuser/x"), "there is no"),
        (lambda: Language.Config(splits=(0.8, 0.1, 0.1)), "give nothing, since pydoc has its own"),
        (lambda: Language.Config(alphabet="ab"), "give nothing, since pydoc has its own"),
        (lambda: Pixels.Config(images="minst"), "give digits, mnist, fashion-mnist, cifar10, or"),
        (lambda: Pixels.Config(split_seed=1), "give nothing, since digits has its own"),
        (lambda: Sequences.Config(data="none.npz"), "give the path of an .npz file; there is no"),
    ],
)
def test_an_unknown_name_is_one_line(
    make: Callable[[], object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(place.VARIABLE, str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=told) as raised:
        make()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize("splits", [(0.5, 0.5), (0.5, 0.5, 0.5), (1.1, -0.1, 0.0), (0.9, 0.1, 0.0)])
def test_shares_that_do_not_add_up_are_refused(corpus: Path, splits: Any) -> None:
    with pytest.raises(ConfigError, match=r"splits is .* which add up to 1"):
        Language.Config(text=corpus, splits=splits)


# --- where the data is


def test_a_relative_path_starts_at_the_study_file(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study.py"
    study.write_text(
        "import sabtune as sab\n"
        "task = sab.Language.Config(text='corpus.txt', length=5)\n"
        "STUDY = sab.Study(name='own', task=task, ladder=sab.Ladder(lengths=(5,), select=(5,)))\n"
        "def space(trial):\n"
        "    return sab.TrialConfig(model=sab.LSTM.Config(hidden=4))\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    task = load(study).study.task
    assert isinstance(task, Language.Config)
    assert task.text == str(corpus)
    with pytest.raises(ConfigError, match="there is no"):
        Language.Config(text="corpus.txt")
    monkeypatch.chdir(tmp_path)
    assert Language.Config(text="corpus.txt", length=5) == task
    corpus.unlink()
    with pytest.raises(StudyFileError, match=r"study\.py:2: text is 'corpus.txt': give pydoc"):
        load(study)


def test_a_record_is_read_without_its_data_and_finds_it_in_the_data_folder(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Language.Config(text=corpus, length=5)
    corpus.unlink()
    found = read_back(config)
    assert found == config
    assert found.build().outputs == len(config.alphabet)
    monkeypatch.setenv(place.VARIABLE, str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"there is no .*corpus\.txt: put it back, or put corpus"):
        found.build().prepare((5,))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus.txt").write_text(TEXT)
    found.build().prepare((5,))
    assert found.build().datasets() == {"corpus.txt": digest(TEXT.encode())}


def test_changed_data_is_not_trained_on(corpus: Path) -> None:
    config = Language.Config(text=corpus, length=5)
    corpus.write_text(TEXT.replace("lazy", "Lazy"))
    now = digest(corpus.read_bytes())
    assert config.build().datasets() == {"corpus.txt": now}
    told = (
        rf"corpus\.txt has changed: its SHA-256 was {digest(TEXT.encode())[:16]}… and is {now[:16]}"
    )
    with pytest.raises(DataError, match=told):
        config.build().prepare((5,))


STUDY = """
import sabtune as sab

task = sab.Language.Config(text="corpus.txt", length=5)
STUDY = sab.Study(name="own", task=task, ladder=sab.Ladder(lengths=(5, 9), select=(5,)))


def space(trial):
    return sab.TrialConfig(model=sab.LSTM.Config(hidden=trial.suggest_int("hidden", 4, 5)))
"""


def test_a_study_whose_file_changed_is_not_resumed_but_a_moved_one_is(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    file, store = load(tmp_path / "study.py"), Store(tmp_path / "store").made()
    study = open_or_create(file, store)
    study.change_plan(datasets=dict(file.study.task.build().datasets()))
    check_same_question(load(tmp_path / "study.py"), study.read())
    corpus.write_text(TEXT + "one more line\n")
    with pytest.raises(StoreError) as raised:
        check_same_question(load(tmp_path / "study.py"), study.read())
    (line,) = str(raised.value).splitlines()
    before, now = digest(TEXT.encode()), digest(corpus.read_bytes())
    assert f"data set corpus.txt with SHA-256 {before[:16]}…, but here it has {now[:16]}…" in line
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "corpus.txt").write_text(TEXT)
    (moved / "study.py").write_text(STUDY)
    other = load(moved / "study.py")
    check_same_question(other, study.read())
    runs = [dataclasses.replace(spec().run, task=each.study.task) for each in (file, other)]
    assert configuration_key(runs[0]) == configuration_key(runs[1])
    (moved / "study.py").write_text(STUDY.replace("length=5)", "length=5, splits=(0.8, 0.1, 0.1))"))
    with pytest.raises(StoreError, match=r"task\.splits: none → 0\.8,0\.1,0\.1"):
        check_same_question(load(moved / "study.py"), study.read())


OWN_MODEL = """
import sabtune as sab
from dataclasses import dataclass

task = sab.Sequences.Config(data="waves.npz")
text = sab.Language.Config(text="corpus.txt")
images = sab.Pixels.Config(images="images.npz")
ladder = sab.Ladder(lengths=(task.length, 24), select=(task.length,))
STUDY = sab.Study(name="own", task=task, ladder=ladder)


class Narrow(sab.LSTM):
    @dataclass(frozen=True, kw_only=True)
    class Config(sab.LSTM.Config):
        pass


def space(trial):
    return sab.TrialConfig(model=Narrow.Config(hidden=4))
"""


def test_code_that_names_data_is_imported_without_the_data(corpus: Path, tmp_path: Path) -> None:
    """Check what a worker or the loader of a model does with a stored study file."""
    write_sequences(tmp_path / "waves.npz", count=200)
    write_npz(tmp_path)
    study = tmp_path / "own_model.py"
    study.write_text(OWN_MODEL.replace('images="images.npz"', 'images="images.npz", length=12'))
    file = load(study)
    run = RunConfig.of(task=file.study.task, trial=file.try_space(), seed=0)
    code = of_study_file(study, whole=False)
    code.write(Folder(str(tmp_path / "code")))
    (tmp_path / "run.json").write_text(json.dumps(run.to_dict()))
    for path in (study, corpus, tmp_path / "waves.npz", tmp_path / "images.npz"):
        path.unlink()
    script = (
        "import json, sys; from pathlib import Path\n"
        "from sabtune.config import RunConfig; from sabtune.parts import local\n"
        "from sabtune.storage.folder import Folder\n"
        "local.add_source(Folder(sys.argv[1] + '/code'))\n"
        "run = RunConfig.from_dict(json.loads(Path(sys.argv[1], 'run.json').read_text()))\n"
        "print(type(run.trial.model).__qualname__, run.task.length, run.task.build().outputs)\n"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=empty, capture_output=True, text=True
    )
    assert done.stdout == "Narrow.Config 12 4\n", done.stderr


# --- images


def pictures(count: int, channels: int = 0) -> tuple[Bytes, Any]:
    """Return different images, whose first pixel is the number of the image, and two classes."""
    shape = (count, 4, 3, channels) if channels else (count, 4, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels.reshape(count, -1)[:, 0] = np.arange(count)
    return pixels, np.arange(count) % 2


def write_idx(folder: Path, *, test: bool = True, pack: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 60), ("t10k", 10)) if test else (("train", 60),):
        pixels, labels = pictures(count)
        files = ("images-idx3", pixels), ("labels-idx1", labels.astype(np.uint8))
        for kind, values in files:
            content = idx(values)
            name = f"{part}-{kind}-ubyte"
            (folder / (name + ".gz" * pack)).write_bytes(
                gzip.compress(content) if pack else content
            )
    return folder


def write_folders(folder: Path, count: int = 60) -> Path:
    pixels, labels = pictures(count)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        write_png(folder / "ab"[label] / f"{i:03}.png", image)
    return folder


def write_divided(folder: Path) -> Path:
    write_folders(folder / "train", 60)
    write_folders(folder / "test", 10)
    return folder


def write_npz(folder: Path, *, test: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (x, y), (x_test, y_test) = pictures(60), pictures(10)
    path = folder / "images.npz"
    if test:
        np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    else:
        np.savez_compressed(path, x=x, y=y)
    return path


@pytest.mark.parametrize(
    ("write", "sizes"),
    [
        (write_idx, (50, 5, 5, 10)),
        (lambda folder: write_idx(folder, pack=True), (50, 5, 5, 10)),
        (lambda folder: write_idx(folder, test=False), (48, 3, 3, 6)),
        (lambda folder: write_idx(folder) / "train-images-idx3-ubyte", (48, 3, 3, 6)),
        (write_npz, (50, 5, 5, 10)),
        (lambda folder: write_npz(folder, test=False), (48, 3, 3, 6)),
        (write_folders, (48, 3, 3, 6)),
        (write_divided, (50, 5, 5, 10)),
    ],
    ids=["idx", "idx.gz", "idx pair", "idx file", "npz", "npz x y", "png", "png divided"],
)
def test_images_of_the_user(
    tmp_path: Path, write: Callable[[Path], Path], sizes: tuple[int, ...]
) -> None:
    """Check every image with its label, whatever the format, and that parts share no image."""
    config = Pixels.Config(images=write(tmp_path / "mine"), length=12)
    assert config.content is not None
    assert config.content.images == sizes
    assert (config.size, config.shown, config.inputs) == ((4, 3, 1), 12, 1)
    task = config.build()
    assert (task.outputs, task.solved) == (2, 0.95)
    assert task.chance == pytest.approx(0.5, abs=0.02)
    seen = []
    for stream, count in zip(STREAMS, sizes, strict=True):
        batch = whole(config, stream)
        assert len(batch.x) == count
        numbers = (batch.x[:, 0, 0] * 255).round().long()
        pixels, labels = pictures(10 if count == 10 else 60)
        assert batch.targets[:, -1].tolist() == labels[numbers].tolist()
        assert torch.equal(
            (batch.x * 255).round().byte(), torch.tensor(pixels[numbers]).reshape(-1, 12, 1)
        )
        assert abs(batch.targets[:, -1].float().mean().item() - 0.5) <= 0.21  # both classes
        seen.append({row.numpy().tobytes() for row in batch.x})
    if sizes[3] != 10:
        assert not any(a & b for a, b in combinations(seen, 2))
    assert not any(a & b for a, b in combinations(seen[:3], 2))
    assert read_back(config) == config
    assert set(task.datasets().values()) == {config.content.sha256}


def test_the_digest_of_images_does_not_depend_on_compression(tmp_path: Path) -> None:
    packed = Pixels.Config(images=write_idx(tmp_path / "a", pack=True), length=12).content
    raw = Pixels.Config(images=write_idx(tmp_path / "b"), length=12).content
    assert packed == raw
    first = write_npz(tmp_path, test=False)
    x, y = pictures(60)
    np.savez(tmp_path / "other.npz", x=x, y=y)
    assert first.stat().st_size != (tmp_path / "other.npz").stat().st_size
    one, other = (
        Pixels.Config(images=path, length=12).content for path in (first, tmp_path / "other.npz")
    )
    assert one == other
    files = sorted(write_folders(tmp_path / "png", 20).rglob("*.png"))
    lines = "".join(f"{digest(f.read_bytes())}  {f.parent.name}/{f.name}\n" for f in files)
    config = Pixels.Config(images=tmp_path / "png", length=12)
    assert config.build().datasets() == {"png": digest(lines.encode())}


def test_the_division_depends_on_its_seed_alone(tmp_path: Path) -> None:
    path = write_npz(tmp_path, test=False)
    one, same, other = (
        whole(Pixels.Config(images=path, length=12, split_seed=seed), Stream.CONFIRMATION).x
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    numbers = sorted((one[:, 0, 0] * 255).round().int().tolist())
    assert numbers == [2, 3, 10, 19, 22, 57]  # the same on every machine and in every version


def test_colored_images_of_the_user(tmp_path: Path) -> None:
    pixels, labels = pictures(40, channels=3)
    for i, label in enumerate(labels):
        write_png(tmp_path / "mine" / "ab"[label] / f"{i}.png", pixels[i])
    config = Pixels.Config(images=tmp_path / "mine", by="row", length=4)
    assert (config.size, config.inputs) == ((4, 3, 3), 9)
    batch = whole(config, Stream.TRAINING)
    i = int((batch.x[0, 0, 0] * 255).round())
    assert torch.equal((batch.x[0] * 255).round().byte(), torch.tensor(pixels[i]).reshape(4, 9))


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "bad.npz", **arrays)
        return folder / "bad.npz"

    return write


def spoiled(write: Callable[..., Path], name: str, content: bytes | None) -> Callable[[Path], Path]:
    """Return a function that writes data and then replaces or removes one of its files."""

    def spoil(folder: Path) -> Path:
        made = write(folder / "mine")
        (made / name).unlink(missing_ok=True)
        if content is not None:
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_bytes(content)
        return made

    return spoil


def png(mode: str, size: tuple[int, int]) -> bytes:
    import io

    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


X, Y = pictures(60)
RAGGED = np.empty(2, object)
RAGGED[:] = [[1], [1, 2]]
LABELS = "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (npz(x=X, y=Y[:-1]), "59 labels for 60 examples"),
        (npz(x=X, y=Y * 0), "all its examples are of class 0"),
        (npz(x=X, y=Y + 0.5), "labels of type float64, not whole numbers or texts"),
        (npz(x=X, y=Y[:, None]), r"labels of shape \(60, 1\), not \(N,\)"),
        (npz(x=X / 255, y=Y), "images of type float64, not uint8 from 0 to 255"),
        (npz(x=X.reshape(60, 12), y=Y), r"images of shape \(60, 12\), not \(N, H, W\)"),
        (npz(x=np.zeros((60, 3, 4, 5), np.uint8), y=Y), r"shape \(60, 3, 4, 5\), not"),
        (npz(x=X[:, :0], y=Y), r"images of shape \(60, 0, 3\)"),
        (npz(x=X[:0], y=Y[:0]), "it has no examples"),
        (npz(x=X[:6], y=Y[:6]), "6 examples are too few: none is left for SELECTION"),
        (npz(images=X, labels=Y), "it has images, labels, not x and y, or x_train"),
        (npz(x=RAGGED, y=Y[:2]), "an array holds Python objects, such as sequences of unequal"),
        (npz(x_train=X, y_train=Y, x_test=X[:, 1:], y_test=Y), "images of 3 × 3 and of 4 × 3"),
        (npz(x_train=X, y_train=Y, x_test=X, y_test=Y + 1), "class 2 is in the test set but not"),
        (npz(x_train=X, y_train=Y, x_test=X, y_test=Y.astype(str)), "labels of type int64 and <U"),
        (spoiled(lambda f: f, "a.npz", b"PK"), "not a folder of PNG files"),
        (spoiled(write_idx, LABELS, None), "there is no train-labels-idx1-ubyte with its labels"),
        (spoiled(write_idx, LABELS, b"\0\0\x08\1"), "4 bytes, less than its header"),
        (spoiled(write_idx, LABELS, idx(np.zeros(9, np.uint8))), "9 labels for 60 examples"),
        (spoiled(write_idx, LABELS.replace("labels-idx1", "images-idx3") + ".gz", b""), "has both"),
        (spoiled(write_idx, "val-images-idx3-ubyte", b""), "are not one training set and one test"),
        (spoiled(write_folders, "a/000.png", b"\x89PNG"), r"000\.png .*not a complete PNG file"),
        (spoiled(write_folders, "a/x.jpg", b"\xff\xd8"), r"x\.jpg .*not a complete PNG file"),
        (spoiled(write_folders, "a/x.png", png("L", (4, 4))), "an image of 4 × 4, and others of 4"),
        (spoiled(write_folders, "a/x.png", png("RGB", (3, 4))), "an image of 4 × 3 × 3, and other"),
        (spoiled(write_folders, "a/x.png", png("RGBA", (3, 4))), "a PNG file of mode RGBA"),
        (spoiled(write_folders, "a/x.png", png("I;16", (3, 4))), "a PNG file of mode I;16"),
        (spoiled(write_folders, "notes.txt", b"x"), r"notes\.txt .*not a folder of PNG files"),
        (spoiled(write_divided, "valid/x.png", b""), "it has test, train, valid, not train and"),
        (spoiled(lambda f: f, "a/.hidden", b""), "no folder in it has a PNG file"),
    ],
)
def test_malformed_images_are_one_line(
    tmp_path: Path, write: Callable[[Path], Path], told: str
) -> None:
    (tmp_path / "mine").mkdir()
    path = write(tmp_path)
    with pytest.raises(DataError, match=told) as raised:
        Pixels.Config(images=path, length=12)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"x" * 100])
def test_a_damaged_npz_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    good = write_npz(tmp_path).read_bytes()
    path = tmp_path / "bad.npz"
    for spoiled_content in (content, good[:-40], good[:200] + bytes(60) + good[260:]):
        path.write_bytes(spoiled_content)
        for make in (
            lambda: Pixels.Config(images=path, length=12),
            lambda: Sequences.Config(data=path),
        ):
            with pytest.raises(DataError, match=r"bad\.npz can't be used") as raised:
                make()
            assert "\n" not in str(raised.value)


def test_other_files_are_refused_as_images(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"not an \.npz file, a folder, or an IDX file named like"):
        Pixels.Config(images=path)


def test_a_folder_is_refused_as_a_text(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"can't be read \(Is a directory\)"):
        Language.Config(text=corpus.parent)


def test_images_are_read_once_per_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = own_images._pairs

    def spy(path: Path) -> own_images.Pairs:
        read.append(path)
        return real(path)

    monkeypatch.setattr(own_images, "_pairs", spy)
    config = Pixels.Config(images=write_npz(tmp_path / "once"), length=12)
    for _ in range(3):
        config.build().prepare((12,))
        config.build().datasets()
    assert len(read) == 1


# --- sequences


def test_sequences_of_the_user(tmp_path: Path) -> None:
    path = write_sequences(tmp_path / "waves.npz", count=200)
    config = Sequences.Config(data=path)
    assert config.length == 12
    assert config.content is not None
    assert config.content.classes == ("0", "1", "2", "3")
    assert config.content.sequences == (160, 10, 10, 20)
    with np.load(path) as file:
        rows = {
            x.astype(np.float32).tobytes(): int(y)
            for x, y in zip(file["x"], file["y"], strict=True)
        }
    seen = []
    for stream in STREAMS:
        batch = whole(config, stream)
        seen += [x.numpy().tobytes() for x in batch.x]
        assert [rows[x.numpy().tobytes()] for x in batch.x] == batch.targets[:, -1].tolist()
        assert batch.scored.tolist() == [False] * 11 + [True]
        assert set(batch.targets[:, -1].tolist()) == {0, 1, 2, 3}
    assert sorted(seen) == sorted(rows)
    longer = config.build().batch(3, 20, torch.Generator().manual_seed(0))
    assert longer.x[:, 12:].eq(0).all()
    assert read_back(config) == config
    with pytest.raises(ConfigError, match=r"length is 11: give at least 12, the steps of a sequen"):
        Sequences.Config(data=path, length=11)


def test_sequences_with_a_test_set_and_names_of_classes(tmp_path: Path) -> None:
    x = np.arange(70 * 5, dtype=np.float64).reshape(70, 5)
    y = np.where(np.arange(70) % 3 == 0, "walk", "run")
    path = tmp_path / "moves.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    config = Sequences.Config(data=path)
    assert config.content is not None
    assert config.content.classes == ("run", "walk")
    assert config.content.sequences == (50, 5, 5, 10)
    assert config.content.majority == pytest.approx(2 / 3, abs=0.02)
    assert config.build().chance == config.content.majority
    with pytest.raises(ConfigError, match=r"give nothing, since moves\.npz has a test set"):
        Sequences.Config(data=path, splits=(0.8, 0.1, 0.1))
    batch = whole(config, Stream.CONFIRMATION)
    assert sorted(batch.x[:, 0, 0].tolist()) == x[60:, 0].tolist()
    numbers = (batch.x[:, 0, 0] / 5).long()
    assert [("run", "walk")[i] for i in batch.targets[:, -1]] == y[numbers].tolist()


V = np.random.default_rng(0).random((60, 5, 2))
HOLE, BIG = V.copy(), V.copy()
HOLE[7, 3, 1], BIG[2, 0, 0] = np.nan, 1e39


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (npz(x=HOLE, y=Y), r"x\[7, 3, 1\] is nan, not a finite number"),
        (npz(x=BIG, y=Y), r"x\[2, 0, 0\] is 1e\+39, not a finite number of 32 bits"),
        (npz(x=V.astype(str), y=Y), "sequences of type <U.*, not numbers"),
        (npz(x=V[..., None], y=Y), r"shape \(60, 5, 2, 1\), not \(N, T, I\) or \(N, T\)"),
        (npz(x=V[:, 0, 0], y=Y), r"shape \(60,\), not \(N, T, I\)"),
        (npz(x=V[:, :0], y=Y), r"shape \(60, 0, 2\), not"),
        (npz(x=V, y=Y * 0 + 4), "all its examples are of class 4"),
        (npz(x=V, y=Y[1:]), "59 labels for 60 examples"),
        (npz(x=np.array(3.0), y=Y), "60 labels for 0 examples"),
        (npz(x=RAGGED, y=Y[:2]), "sequences of unequal lengths"),
        (npz(x=V), "it has x, not x and y"),
        (npz(x=V, y=Y, x_test=V, y_test=Y), "it has x, x_test, y, y_test, not x and y, or x_train"),
        (npz(x_train=V, y_train=Y, x_test=V[:, :4], y_test=Y), r"test sequences of shape \(4, 2\)"),
        (npz(x_train=V, y_train=Y, x_test=HOLE, y_test=Y), "is nan, not a finite"),
    ],
)
def test_malformed_sequences_are_one_line(
    tmp_path: Path, write: Callable[[Path], Path], told: str
) -> None:
    with pytest.raises(DataError, match=told) as raised:
        Sequences.Config(data=write(tmp_path))
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "bad.npz") in str(raised.value)


def test_a_class_without_training_examples_is_refused(tmp_path: Path) -> None:
    path = npz(x=V, y=np.arange(60) // 59)(tmp_path)
    with pytest.raises(DataError, match="1 class has too few examples: none is left for TRAINING"):
        Sequences.Config(data=path, splits=(0.4, 0.3, 0.3))


@pytest.mark.parametrize("name", ["sizes", "no arrays", "encrypted"])
def test_damaged_sequences_are_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.npz"
    npz(x=V, y=Y)(tmp_path)
    if name == "encrypted":
        content = bytearray(path.read_bytes())
        for header in (b"PK\x03\x04", b"PK\x01\x02"):
            flags = content.index(header) + (6 if header[2] == 3 else 8)
            content[flags] |= 1
        path.write_bytes(content)
    else:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10, 35184372088832), }"
        array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        with zipfile.ZipFile(path, "w") as archive:
            for key in ("x.npy", "y.npy") if name == "sizes" else ("x", "y"):
                archive.writestr(key, array if name == "sizes" else b"text")
    with pytest.raises(DataError, match=r"bad\.npz") as raised:
        Sequences.Config(data=path)
    assert "\n" not in str(raised.value)


def test_a_copy_with_other_settings_is_read_again(corpus: Path, tmp_path: Path) -> None:
    shares = (0.5, 0.2, 0.3)
    configs: list[Any] = [
        Sequences.Config(data=write_sequences(tmp_path / "waves.npz", count=200)),
        Pixels.Config(images=write_npz(tmp_path, test=False), length=12),
        Language.Config(text=corpus, length=5),
    ]
    for config in configs:
        copy = dataclasses.replace(config, splits=shares)
        paths = {name: getattr(config, name) for name in config.data_paths}
        assert copy == type(config)(**paths, length=config.length, splits=shares)
        assert copy.content != config.content
        assert dataclasses.replace(copy, splits=None) == config
    sequences = dataclasses.replace(configs[0], split_seed=3)
    assert sequences == Sequences.Config(data=configs[0].data, split_seed=3)


def test_a_text_file_is_refused_as_sequences(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"not an \.npz file"):
        Sequences.Config(data=corpus)
