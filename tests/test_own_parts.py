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


class Task:
    """A task."""

    text = """one
    two   """


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
    "the constraints": ("constraints: object = None", "def constraints(trial): return {}"),
    "the baselines": ('{"x": space}', "{}"),
}

OTHER = {
    "a number": ("LENGTH = 4", "LENGTH = 5"),
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
    text = STUDY + "\nTRIALS = STUDY\n"
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
