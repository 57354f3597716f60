"""Test the public interface: its names, parameters and documentation, and studies from objects."""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sabtune as sab
from sabtune.errors import ConfigError, StoreError, StudyFileError
from sabtune.study.loading import from_objects, load
from tests.studies import learnable

PLACE = ["store", "files", "tracking", "data_dir", "progress"]

FUNCTIONS = {
    "ablate": ["studies", "seeds", "changes", "lengths", "notify", *PLACE],
    "confirm": ["studies", "top", "seeds", "lengths", "notify", *PLACE],
    "extrapolate": ["study", "lengths", "trials", "sequences", "phases", "store", "files",
                    "data_dir"],
    "matched": ["model", "parameters", "task"],
    "open_study": ["name", "store", "files", "tracking"],
    "report": ["study", "out", "formats", "style", "store", "files"],
    "reproduce": ["study", "trial", "store", "files", "data_dir"],
    "search": ["study", "space", "constraints", "baselines", "question", "baseline", "name", "new",
               "trials", "seed", "hours", "gpu_hours", "retry_failed", "warm_start",
               "accept_changed_code", "system_metrics", "ignore_stop", "notify", *PLACE],
    "study_names": ["store", "files"],
}  # fmt: skip
"""The public functions and their parameters."""

CLASSES = {
    "ASHA", "Adding", "Batch", "Constant", "Copying", "Cosine", "Exponential", "FlipFlop", "GRU",
    "LSTM", "Ladder", "Language", "Limits", "Linear", "MQAR", "Mamba2", "MemLSTM", "MinGRU",
    "MinLSTM", "Model", "ModelConfig", "NoImprovement", "OpenStudy", "Parity", "Passkey",
    "Permutations", "Pixels", "Recall", "RelLSTM", "Resources", "SAB", "SABLayer", "SLSTM",
    "SabtuneError", "Schedule", "Seeds", "SelectiveCopying", "SelfAttention", "SelfAttentionLayer",
    "Sequences", "Shuffled", "Solved", "Source", "Stepwise", "Stream", "Study", "SyntheticTask",
    "Target", "Task", "TaskConfig", "TrainConfig", "Transformer", "TrialConfig", "TruncatedLSTM",
}  # fmt: skip

MODULES = {"testing": {"CheckResult", "check_model", "check_schedule", "check_task"}}
"""The public modules and their names."""

OPEN_STUDY = {
    "best", "champion", "comparison", "conclusion", "figures", "ladder", "model", "question",
    "records", "refresh", "report", "source", "stopped_by", "sync", "trials",
}  # fmt: skip
"""The public attributes of `OpenStudy`, without `name` and `store`."""


def test_the_public_names_are_these() -> None:
    assert set(sab.__all__) == FUNCTIONS.keys() | CLASSES | MODULES.keys() | {"__version__"}
    assert set(sab.__all__) <= set(dir(sab))
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(sab, name)), name
    for name in CLASSES:
        assert inspect.isclass(getattr(sab, name)), name
    for name, names in MODULES.items():
        module = getattr(sab, name)
        assert inspect.ismodule(module)
        assert set(module.__all__) == names
    assert {name for name in dir(sab.OpenStudy) if not name.startswith("_")} == OPEN_STUDY


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_parameters_of_a_function_are_these(name: str) -> None:
    assert list(inspect.signature(getattr(sab, name)).parameters) == FUNCTIONS[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_documents_its_parameters_errors_and_an_example(name: str) -> None:
    doc = inspect.getdoc(getattr(sab, name))
    assert doc is not None
    described = re.search(r"\nArgs:\n(.*?)\n\n", doc, re.DOTALL)
    assert described is not None
    assert re.findall(r"^    (\w+):", described[1], re.MULTILINE) == FUNCTIONS[name]
    for section in ("Returns" if name != "study_names" else "Raises", "Raises"):
        assert f"\n{section}:\n" in doc
    if name != "study_names":
        assert "\nExample:\n" in doc


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_is_documented(name: str) -> None:
    doc = inspect.getdoc(getattr(sab, name))
    assert doc is not None
    assert doc.split("\n")[0].endswith(".")


def test_the_package_imports_lazily() -> None:
    heavy = ["torch", "ray", "optuna", "mlflow", "numpy", "pandas", "numba"]
    code = (
        "import sys, sabtune; "
        f"loaded = set({heavy}) & set(sys.modules); assert not loaded, loaded; "
        "sabtune.SABLayer; "
        "loaded = {'ray', 'optuna', 'mlflow', 'pandas'} & set(sys.modules); "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_search_is_the_function_even_after_a_study_file_of_version_0_1(tmp_path: Path) -> None:
    path = learnable(tmp_path)
    text = path.read_text().replace("sabtune.study.definition", "sabtune.search.study")
    path.write_text(text)
    load(path)
    assert inspect.isfunction(sab.search)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'sabtune' has no attribute 'serach'"):
        sab.serach  # noqa: B018


def space(trial: Any) -> sab.TrialConfig:
    """How many memories?"""
    return sab.TrialConfig(
        model=sab.SAB.Config(hidden=8, k_top=trial.suggest_int("k_top", 1, 3)),
        train=sab.TrainConfig(updates=20, batch_size=4, report_every=10),
    )


def other_space(trial: Any) -> sab.TrialConfig:
    return sab.TrialConfig(
        model=sab.LSTM.Config(hidden=trial.suggest_int("hidden", 8, 9)),
        train=sab.TrainConfig(updates=20, batch_size=4, report_every=10),
    )


STUDY = sab.Study(
    name="objects",
    task=sab.Copying.Config(length=3, symbols=1),
    ladder=sab.Ladder(lengths=(3, 6), select=(3,), sequences=16),
)


def test_a_study_from_objects_has_their_source_and_question() -> None:
    file = from_objects(STUDY, space, baselines={"lstm": other_space})
    assert not file.in_file
    assert file.question == "How many memories?"
    assert file.study.ladder.phases == 5  # the default k_att
    for text in (inspect.getsource(space), inspect.getsource(other_space), "name='objects'"):
        assert text in file.source
    assert from_objects(STUDY, space, question="Why?").question == "Why?"


def test_a_baseline_of_objects_is_a_study_of_its_own() -> None:
    file = from_objects(STUDY, space, baselines={"lstm": other_space}, baseline="lstm")
    assert file.study.name == "objects.lstm"
    assert isinstance(file.try_space().model, sab.LSTM.Config)


def test_a_study_file_has_its_source(tmp_path: Path) -> None:
    path = learnable(tmp_path)
    file = load(path)
    assert file.in_file
    assert file.source == path.read_text()


def failing(trial: Any) -> sab.TrialConfig:
    raise ZeroDivisionError("no")


LINE = inspect.getsourcelines(failing)[1] + 1


class Space:
    """A space with a size."""

    def __init__(self, hidden: int):
        self.hidden = hidden

    def __call__(self, trial: Any) -> sab.TrialConfig:
        """How wide?"""
        return sized(trial, hidden=self.hidden)


def sized(trial: Any, *, hidden: int) -> sab.TrialConfig:
    """How many memories of what size?"""
    return sab.TrialConfig(
        model=sab.SAB.Config(hidden=hidden, k_top=trial.suggest_int("k_top", 1, 3)),
        train=sab.TrainConfig(updates=20, batch_size=4, report_every=10),
    )


def test_a_space_can_be_a_partial_or_an_object() -> None:
    partial = from_objects(STUDY, functools.partial(sized, hidden=8))
    assert partial.question == "How many memories of what size?"
    assert inspect.getsource(sized) in partial.source
    assert partial.path == Path(__file__)
    made = from_objects(STUDY, Space(8))
    assert made.question == "How wide?"
    assert "def __call__" in made.source
    with pytest.raises(StudyFileError, match=r"test_api\.py:\d+: ConfigError|test_api\.py:\d+: "):
        from_objects(STUDY, Space(0))


@pytest.mark.parametrize(
    ("study", "given", "error", "told"),
    [
        (STUDY, failing, StudyFileError, rf"test_api\.py:{LINE}: ZeroDivisionError: no"),
        (STUDY, lambda: None, StudyFileError, "space can't be called with a trial alone"),
        (STUDY, lambda trial: 7, StudyFileError, r"space\(trial\) returned 7"),
        (STUDY, "space", StudyFileError, "has no space"),
        ("study", space, StudyFileError, "has no STUDY"),
    ],
)
def test_wrong_objects_are_refused_with_their_place(
    study: Any, given: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as caught:
        from_objects(study, given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "options", "told"),
    [
        ((STUDY,), {}, "space is None: give a function"),
        (("study.py", space), {}, "space is given, but study.py is a study file"),
        (("study.py",), {"question": "Why?"}, "question is given, but study.py"),
        ((STUDY, space), {"trials": 0}, "trials is 0: give a whole number of at least 1"),
        ((STUDY, space), {"hours": -1}, "hours is -1: give a number above 0"),
        ((STUDY, space), {"seed": 2**40}, "seed is 1099511627776"),
        ((STUDY, space), {"new": True, "name": "x"}, "name is 'x' and new is True"),
        ((STUDY, space), {"name": "a b"}, "name is 'a b'"),
        ((STUDY, space), {"baseline": "x"}, "has no baseline 'x'"),
    ],
)
def test_wrong_arguments_of_search_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, options: Any, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, StudyFileError), match=re.escape(told)):
        sab.search(*arguments, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: sab.open_study("x"), "there is no store at"),
        (lambda: sab.study_names(), "there is no store at"),
        (lambda: sab.report("x"), "there is no store at"),
        (lambda: sab.confirm("x"), "there is no store at"),
        (lambda: sab.ablate([]), "studies is []"),
        (lambda: sab.extrapolate("x", []), "lengths is []"),
        (lambda: sab.extrapolate("x", [0]), "lengths is 0"),
        (lambda: sab.extrapolate("x", [5], sequences=0), "sequences is 0"),
        (lambda: sab.reproduce("x", 0), "there is no store at"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, StoreError), match=re.escape(told)):
        call()
    assert not list(tmp_path.iterdir())
