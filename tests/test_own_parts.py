"""Test tasks and models of a user's own: their names, their code, and changes of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import sabtune as sab
from sabtune.config import RunConfig
from sabtune.errors import ConfigError, StoreError, StudyFileError
from sabtune.parts import bundle, local, table
from sabtune.parts.bundle import Bundle, changes
from sabtune.schema import codes
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.loading import from_objects, load
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import StudyFile
from sabtune.study.trial_specs import TrialSpecs
from sabtune.tuning.run import checked, open_or_create
from tests.records import spec
from tests.studies import own


@dataclass(frozen=True, kw_only=True)
class Halfway(sab.Schedule):
    """A schedule in a local module, such as this one."""

    def k_top(self, progress: float, final: int, dense: int) -> int:
        return dense if progress < 0.5 else final


def run_of(file: StudyFile) -> RunConfig:
    return RunConfig.of(task=file.study.task, trial=file.try_space(), seed=0)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the local code of this process, as in a process of its own."""
    for name, empty in (("_classes", {}), ("_bundles", {}), ("_sources", [])):
        monkeypatch.setattr(local, name, empty)


def test_own_parts_are_found_by_import_path(tmp_path: Path) -> None:
    run = run_of(load(own(tmp_path)))
    data = run.to_dict()
    assert data["task"]["kind"] == "own:FirstBit.Config"
    assert data["trial"]["model"]["kind"] == "own_gru:GRU.Config"
    assert RunConfig.from_dict(data) == run
    assert set(codes(data)) == {"own:FirstBit.Config", "own_gru:GRU.Config"}


def test_another_process_loads_them_from_the_stored_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(load(own(tmp_path / "here")))
    code, data = Folder.at(tmp_path / "code"), run.to_dict()
    for digest in codes(data).values():
        local.find_bundle(digest).write(code)
    forget(monkeypatch)
    for path in (tmp_path / "here").iterdir():
        if path.is_file():
            path.unlink()
    with pytest.raises(ConfigError, match=r"its code \w{16} isn't in any store that was opened"):
        RunConfig.from_dict(data)
    local.add_source(code)
    other = RunConfig.from_dict(data)
    assert type(other.task) is not type(run.task)
    assert other.to_dict() == data
    models = [each.build_model(each.task.build()) for each in (run, other)]
    x = torch.randn(2, 4, 1)
    assert torch.equal(models[0](x)[0], models[1](x)[0])
    assert not list((tmp_path / "code").rglob("*.pyc"))


def test_changed_or_missing_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = run_of(load(own(tmp_path))).to_dict()
    code, digest = Folder.at(tmp_path / "code"), codes(data)["own_gru:GRU.Config"]
    for each in codes(data).values():
        local.find_bundle(each).write(code)
    file = tmp_path / "code" / digest / "own_gru.py"
    text = file.read_text()
    for content, problem in ((text + "\nX = 1\n", "was changed after it was stored"), ("", "was")):
        file.write_text(content)
        forget(monkeypatch)
        local.add_source(code)
        with pytest.raises(StoreError, match=problem):
            RunConfig.from_dict(data)
    file.unlink()
    with pytest.raises(StoreError, match=r"can't be read \(own_gru.py is missing\)"):
        RunConfig.from_dict(data)


def test_code_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own(tmp_path)
    data = run_of(load(path)).to_dict()
    broken = Bundle({"own_gru.py": b"import a_package_that_is_missing\n"})
    data["trial"]["model"]["code"] = broken.digest
    forget(monkeypatch)
    broken.write(Folder.at(tmp_path / "code"))
    local.add_source(Folder.at(tmp_path / "code"))
    says = (
        r"trial.model.kind is 'own_gru:GRU.Config', which can't be loaded: ModuleNotFoundError: "
        r"No module named 'a_package_that_is_missing'"
    )
    data["task"] = spec().run.to_dict()["task"]
    with pytest.raises(ConfigError, match=says):
        RunConfig.from_dict(data)


IMPORTS = {
    "study.py": "import os, torch, json as j\nimport a\nfrom package import inner\n",
    "a.py": "def f():\n    import lazy\n",
    "lazy.py": "from package.deep.leaf import X\n",
    "package/__init__.py": "from . import inner\n",
    "package/inner.py": "from .sibling import *\nimport missing_module\n",
    "package/sibling.py": "",
    "package/unused.py": "",
    "package/deep/__init__.py": "",
    "package/deep/leaf.py": "from ..inner import Y\nimport broken\n",
    "broken.py": "def (:\n",
    "unused.py": "",
}


def test_a_bundle_has_every_local_module_that_is_imported(tmp_path: Path) -> None:
    for name, text in IMPORTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = bundle.of_study_file(tmp_path / "study.py", whole=True)
    assert found.files.keys() == IMPORTS.keys() - {"unused.py", "package/unused.py"}
    assert found.study_file == "study.py"
    found.write(Folder.at(tmp_path / "code"))
    again = Bundle.read(Folder.at(tmp_path / "code"), found.digest)
    assert again == found
    leaf = bundle.of_module("package.deep.leaf", tmp_path / "package/deep/leaf.py")
    assert "package/__init__.py" in leaf.files
    assert "a.py" not in leaf.files


STUDY = '''"""Why?"""
import a

STUDY = 1
LENGTH = 4  # of a bit
SIZE = 3


class Task:
    """A task."""

    text = """one
    two   """
    size = SIZE


@a.decorate
def space(trial):
    return LENGTH


constraints: object = None
BASELINES = {"x": space}
'''

SAME = {
    "a comment": ("# of a bit", "# of two bits"),
    "a blank line": ("LENGTH = 4", "\n\nLENGTH = 4"),
    "the question": ("Why?", "Why not?\n\nIndeed.\n"),
    "the study": ("STUDY = 1", "STUDY = dict(\n    trials=2,\n)"),
    "the space": ("return LENGTH", "x = 3\n    return x"),
    "what only the space uses": ("LENGTH = 4", "LENGTH = max(\n    4, 5\n)"),
    "the main program": (
        "BASELINES =",
        "if __name__ == '__main__':\n    a.run(STUDY)\n\nBASELINES =",
    ),
    "the constraints": ("constraints: object = None", "def constraints(trial): return {}"),
    "the baselines": ('{"x": space}', "{}"),
}

OTHER = {
    "a number": ("SIZE = 3", "SIZE = 5"),
    "a call": ("LENGTH = 4", "_ = a.f()"),
    "a string": ("two   ", "two "),
    "the indentation": ("\n    text = ", "\n    if True:\n        text = "),
    "an import": ("import a\n", "import a, os\n"),
    "a name that the rest uses": ("text = ", "study = STUDY\n    text = "),
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_the_digest_covers_what_can_change_a_part(name: str) -> None:
    before, after = (SAME | OTHER)[name]
    assert before in STUDY
    for study_file in ("study.py", ""):
        old, new = (
            Bundle({"study.py": text.encode()}, study_file)
            for text in (STUDY, STUDY.replace(before, after))
        )
        same = name in SAME and (study_file or name in ("a comment", "a blank line"))
        assert (old.digest == new.digest) is bool(same)
        assert changes(old, new) == ([] if same else ["study.py"])
        whole = [Bundle(each.files, each.study_file, whole=True).digest for each in (old, new)]
        assert whole[0] != whole[1]


def test_a_study_that_a_part_uses_counts() -> None:
    text = STUDY + "\nclass Other:\n    study = STUDY\n"
    digests = {
        Bundle({"study.py": each.encode()}, "study.py").digest
        for each in (text, text.replace("STUDY = 1", "STUDY = 2"))
    }
    assert len(digests) == 2


def test_a_part_that_workers_could_not_import_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Inside(sab.Schedule):
        def k_top(self, progress: float, final: int, dense: int) -> int:
            return final

    study = sab.Study(
        name="s", task=sab.Copying.Config(length=3), ladder=sab.Ladder(lengths=(3,), select=(3,))
    )

    def space(trial: object) -> sab.TrialConfig:
        return sab.TrialConfig(model=sab.SAB.Config(schedule=schedule))

    schedule: sab.Schedule = Inside()
    with pytest.raises(StudyFileError, match=r"Inside is defined in a function.*: define it at"):
        from_objects(study, space)
    schedule = Halfway()
    data = from_objects(study, space).try_space().model
    assert data.schedule == schedule  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Halfway, "__module__", "__main__")
        patch.setattr(local, "_identities", {})
        with pytest.raises(StudyFileError, match=r"a script or a notebook, which workers can't"):
            from_objects(study, space)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("    @dataclass(frozen=True, kw_only=True)\n", ""),
            "Config has fields but isn't a datac",
        ),
        (("length: int = 4", "length: int = 4; kind: int = 1"), "has a field 'kind', a name that"),
    ],
    ids=["no dataclass", "a reserved name"],
)
def test_a_class_that_cannot_be_stored_is_refused(
    tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    path = own(tmp_path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(StudyFileError, match=says):
        load(path)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package with a schedule, and register that under a name."""
    folder = tmp_path / "site-packages"
    (folder / "halfway-1.0.dist-info").mkdir(parents=True)
    (folder / "halfway-1.0.dist-info" / "METADATA").write_text("Name: halfway\nVersion: 1.0\n")
    (folder / "halfway-1.0.dist-info" / "entry_points.txt").write_text(
        "[sabtune.parts]\nhalfway = halfway_parts:Halfway\nbroken = halfway_parts:Missing\n"
    )
    text = Path(__file__).read_text()
    start, end = text.index("@dataclass"), text.index("\n\n\ndef run_of")
    head = "from dataclasses import dataclass\nimport sabtune as sab\n"
    (folder / "halfway_parts.py").write_text(
        head + text[start:end] + "\n\n\nclass Other(Halfway):\n    pass\n"
    )
    monkeypatch.syspath_prepend(folder)
    for cached in (table._registered, table._installed):
        cached.cache_clear()
    yield
    sys.modules.pop("halfway_parts", None)
    for cached in (table._registered, table._installed):
        cached.cache_clear()


@pytest.mark.usefixtures("package")
def test_an_installed_package_needs_no_stored_code() -> None:
    parts = importlib.import_module("halfway_parts")
    for part, kind in ((parts.Halfway, "halfway"), (parts.Other, "halfway_parts:Other")):
        run = spec().run
        data = run.to_dict()
        data["trial"]["model"]["schedule"] = {"kind": kind}
        found = RunConfig.from_dict(data)
        assert type(found.trial.model.schedule) is part  # type: ignore[attr-defined]
        assert found.to_dict() == data
        assert codes(data) == {}
    for kind, says in (
        ("broken", "'broken', which can't be loaded: AttributeError"),
        ("no_package:X", "No module named 'no_package'; install the package that has no_package"),
        ("halfway_parts:dataclass", "'halfway_parts:dataclass', which is no Schedule"),
        ("linaer", "did you mean 'linear'"),
    ):
        data["trial"]["model"]["schedule"] = {"kind": kind}
        with pytest.raises(ConfigError, match=says):
            RunConfig.from_dict(data)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").made()


def test_resuming_with_changed_code_is_refused(tmp_path: Path, store: Store) -> None:
    path = own(tmp_path)
    text, model = path.read_text(), (tmp_path / "own_gru.py").read_text()
    open_or_create(load(path), store)

    def resume(*, accept: bool = False) -> None:
        stored = StudyRecord.open(store, "own")
        checked(load(path), stored, accept_changed_code=accept)

    resume()
    path.write_text(text.replace('"hidden", 8, 32', '"hidden", 8, 30').replace("STUDY", "\nSTUDY"))
    resume()
    path.write_text(
        text.replace("inputs, outputs, chance = 1, 2, 0.5", "inputs, outputs, chance = 1, 2, 0")
    )
    with pytest.raises(StoreError, match=r"code of own:FirstBit.Config has changed.*\(own.py\)"):
        resume()
    resume(accept=True)
    path.write_text(text)
    (tmp_path / "own_gru.py").write_text(model.replace("-0.2, 0.2", "-0.3, 0.3"))
    with pytest.raises(StoreError, match=r"code of own\S+ has changed since .*own_gru.py\)"):
        resume()
    (tmp_path / "own_gru.py").write_text(model)
    (tmp_path / "own_text.py").write_text("def describe(hidden):\n    return 'GRU'\n")
    with pytest.raises(StoreError, match=r"own_text\.py"):
        resume()
    open_or_create(load(path), store)  # as a search does that accepts the change
    resume()


def test_every_trial_refers_to_the_stored_code(tmp_path: Path, store: Store) -> None:
    path = own(tmp_path)
    file = load(path)
    study = open_or_create(file, store)
    trial = study.optuna.ask()
    TrialSpecs(file, (), store.code).spec(trial)
    record = study.read().trial(0)
    whole = Bundle.read(store.code, record.environment["code"])
    assert whole is not None
    assert whole.files[path.name] == path.read_bytes()
    assert whole.files.keys() == {"own.py", "own_gru.py", "own_text.py"}
    assert record.run is not None
    assert {*codes(record.run.to_dict()).values()} <= {*store.code.names()}


NESTED = """
from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import sabtune as sab
from sabtune.schema import Config

if TYPE_CHECKING:
    from sabtune import Schedule


@dataclass(frozen=True, kw_only=True)
class Gaussian(Config):
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Uniform(Config):
    scale: float = 1.0


class Kind(enum.Enum):
    A = 1


@dataclass(frozen=True, kw_only=True)
class Outer(sab.TaskConfig):
    length: int = 4
    FIELD

    def build(self):
        return sab.Copying.Config(length=self.length).build()
"""


@pytest.mark.parametrize(
    ("line", "value", "says"),
    [
        ("noise: Gaussian | Uniform = None", "Uniform(scale=2)", r"noise is Uniform\(scale=2.0\)"),
        ("rate: Schedule = None", "sab.Constant()", r"rate is Constant\(\), and {'kind': 'const"),
        ("place: Path = None", "Path('/a')", "can't be stored .*PosixPath is not JSON"),
        ("mode: Kind = None", "Kind.A", "can't be stored .*Kind is not JSON"),
        ("sizes: list = None", "[1, (2, 3)]", r"sizes is \[1, \(2, 3\)\], and \[1, \[2, 3\]\]"),
        ("noise: Gaussian = Gaussian()", "Gaussian(scale=3)", None),
        ("inner: sab.LSTM.Config = None", "sab.LSTM.Config(hidden=3)", None),
        ("twice: int = field(init=False, default=2)", None, None),
        ("steps: tuple[int, ...] | tuple[str, ...] = ()", "('a', 'b')", None),
        ("shortest: int = 3", "2", None),
        ("limit: int | None = None", "None", None),
    ],
)  # fmt: skip
def test_a_configuration_reads_back_as_it_is_or_is_refused(
    tmp_path: Path, line: str, value: str | None, says: str | None
) -> None:
    (tmp_path / "nested.py").write_text(NESTED.replace("FIELD", line))
    name = line.partition(":")[0]
    given = f"{name}={value}" if value is not None else ""
    path = tmp_path / "study.py"
    path.write_text(
        "import sabtune as sab\nfrom nested import *\n"
        f"STUDY = sab.Study(name='s', task=Outer({given}), trials=1,\n"
        "    ladder=sab.Ladder(lengths=(4,), select=(4,), sequences=8))\n"
        "def space(trial): return sab.TrialConfig(model=sab.LSTM.Config(hidden=4))\n"
    )
    if says is not None:
        with pytest.raises(StudyFileError, match=says):
            load(path)
        return
    file = load(path)
    run = run_of(file)
    again = RunConfig.from_dict(run.to_dict())
    assert again == run
    assert again.train.shortest is None


def test_a_study_runs_the_files_of_its_folder_as_they_are_now(tmp_path: Path) -> None:
    """Check modules that were imported before, and classes that a failed load has left."""
    folder = tmp_path / "work"
    path = own(folder)
    text = (folder / "own_text.py").read_text()
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module("own_text")
        (folder / "own_text.py").write_text(text.replace("gru hidden", "another hidden"))
        assert load(path).try_space().model.label().startswith("another hidden=")
        study = path.read_text()
        path.write_text(study + "\n1 / 0\n")
        with pytest.raises(StudyFileError):
            load(path)
        path.write_text(study.replace("chance = 1, 2, 0.5", "chance = 1, 2, 0.25"))
        task = load(path).study.task
        data = RunConfig.from_dict(
            spec().run.to_dict() | {"task": run_of(load(path)).to_dict()["task"]}
        )
        assert task.build().chance == data.task.build().chance == 0.25
    finally:
        sys.path.remove(str(folder))


def test_a_module_that_changed_after_its_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path)
    sys.path.insert(0, str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for name in ("own_gru", "own_text"):
        sys.modules.pop(name, None)
    try:
        module = importlib.import_module("own_gru")
        file = tmp_path / "own_gru.py"
        file.write_text(file.read_text().replace("-0.2, 0.2", "-0.25, 0.25"))
        with pytest.raises(ConfigError, match=r"own_gru.py was changed after it was imported"):
            local.identify(module.GRU.Config)
        importlib.reload(module)
        assert local.identify(module.GRU.Config)["kind"] == "own_gru:GRU.Config"
    finally:
        sys.path.remove(str(tmp_path))
        for name in ("own_gru", "own_text"):
            sys.modules.pop(name, None)


def test_a_module_named_like_one_of_python_is_refused(tmp_path: Path) -> None:
    path = own(tmp_path)
    (tmp_path / "this.py").write_text((tmp_path / "own_gru.py").read_text())
    name = next(name for name in ("sched", "wave", "trace") if name not in sys.modules)
    (tmp_path / f"{name}.py").write_text((tmp_path / "own_gru.py").read_text())
    path.write_text(path.read_text().replace("from own_gru", f"from {name}"))
    with pytest.raises(
        StudyFileError, match=rf"needs {name}.py, which has the name of a module of"
    ):
        load(path)
    sys.modules.pop(name, None)


def test_the_process_decides_which_module_is_stored(tmp_path: Path) -> None:
    """Check two modules of one name: that of the study's folder is the one that is imported."""
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    path = own(folder)
    elsewhere.mkdir()
    (folder / "own_gru.py").rename(elsewhere / "own_gru.py")
    (elsewhere / "own_text.py").write_text("def describe(hidden):\n    return 'elsewhere'\n")
    sys.path.append(str(elsewhere))
    try:
        file = load(path)
        assert file.try_space().model.label().startswith("gru")
        digest = codes(run_of(file).to_dict())["own_gru:GRU.Config"]
        stored = local.find_bundle(digest).files["own_text.py"]
        assert stored == (folder / "own_text.py").read_bytes()
    finally:
        sys.path.remove(str(elsewhere))
        sys.modules.pop("own_gru", None)


def test_imports_within_functions_work_with_the_code_of_two_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, runs = Folder.at(tmp_path / "code"), []
    for number in (1, 2):
        path = own(tmp_path / str(number))
        text = path.read_text().replace("from own_text import describe\n", "")
        path.write_text(
            text.replace("x = torch.randint", "import lazy; x = lazy.N + 0 * torch.randint")
        )
        (path.parent / "lazy.py").write_text(f"N = {number}\n")
        data = run_of(load(path)).to_dict()
        for digest in codes(data).values():
            local.find_bundle(digest).write(code)
        runs.append(data)
    forget(monkeypatch)
    local.add_source(code)
    read = [RunConfig.from_dict(data) for data in runs]
    for number in (1, 2, 1):
        run = read[number - 1]
        run.activate()
        task = run.task.build()
        batch = task.batch(2, 3, torch.Generator())
        assert set(batch.x.flatten().tolist()) == {number}
