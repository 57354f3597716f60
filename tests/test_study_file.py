"""Test study files: the shipped ones load, and mistakes have clear messages."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import optuna
import pytest

from sabtune.config import PARTS, RunConfig, TrialConfig
from sabtune.errors import ConfigError, StudyFileError
from sabtune.models import LSTM
from sabtune.schema import flatten, from_dict, to_dict
from sabtune.study.definition import ASHA, Resources, Study
from sabtune.study.loading import load
from sabtune.study.study_file import StudyFile
from sabtune.tasks import Copying
from sabtune.training.evaluation import Ladder
from sabtune.training.matching import count_parameters

GOOD = """
from sabtune.config import TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import SAB
from sabtune.study.definition import Study
from sabtune.tasks import Copying

STUDY = Study(name="s", task=Copying.Config(length=4), ladder=Ladder(lengths=(4, 8), select=(4,)))

def space(trial):
    return TrialConfig(model=SAB.Config(k_top=trial.suggest_int("k_top", 1, 3)))
"""

ROOT = Path(__file__).parent.parent
OTHERS = ("found", "gru")
SEARCHED = [p for p in sorted((ROOT / "search_spaces").glob("*.py")) if p.stem not in OTHERS]


COMPARED = ["copying", "adding", "recall", "digits", "text"]
COMPARED += ["mqar", "selective_copying", "flip_flop", "passkey", "parity", "permutations"]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.py"
    path.write_text(text)
    return path


def test_a_good_file_loads(tmp_path: Path) -> None:
    file = load(written(tmp_path, GOOD))
    assert file.study.name == "s"
    config = file.config(optuna.trial.FixedTrial({"k_top": 2}))  # type: ignore[arg-type]
    assert config.model.label().startswith("k_top=2")


@pytest.mark.parametrize("path", SEARCHED, ids=lambda path: path.stem)
def test_every_shipped_study_loads_and_its_space_holds(path: Path) -> None:
    file = load(path)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [file.config(study.ask()) for _ in range(50)]
    assert all(isinstance(config, TrialConfig) for config in configs)
    assert file.study.name == path.stem
    assert len({repr(config) for config in configs}) > 40


WIDE = {"lstm", "truncated", "self_attention", "entmax", "sparse_test", "h_detach"}
"""The baselines that have the width of SAB."""
MATCHED = {
    "gru": 0.02,
    "slstm": 0.02,
    "mingru": 0.02,
    "minlstm": 0.02,
    "mem_lstm": 0.02,
    "rel_lstm": 0.02,
    "transformer": 0.12,  # its heads divide the width, twice if positions are rotary
    "mamba2": 0.03,
    "mamba2_passing": 0.03,
}
"""The largest relative differences of the numbers of parameters of the others."""


ONCE = {"slstm", "rel_lstm", "transformer", "mamba2", "mamba2_passing"}
"""The baselines that only the first study is tried with; all get their task in the same way."""


@cache
def of_sab(name: str) -> tuple[StudyFile, TrialConfig]:
    """Return a shipped study, and its first configuration."""
    file = load(ROOT / "search_spaces" / f"{name}.py")
    return file, file.try_space()


@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        (name, baseline)
        for name in COMPARED
        for baseline in [*sorted(WIDE), *MATCHED]
        if name == COMPARED[0] or baseline not in ONCE
    ],
)
def test_a_shipped_baseline_differs_only_in_the_model(name: str, baseline: str) -> None:
    (ours, a), theirs = of_sab(name), load(ROOT / "search_spaces" / f"{name}.py", baseline)
    assert theirs.study.name == f"{name}.{baseline}"
    alike = replace(theirs.study, name=name, points=ours.study.points)
    assert alike == ours.study
    b = theirs.try_space()
    assert type(a.model) is not type(b.model)
    if baseline in WIDE:
        assert a.model.hidden == b.model.hidden
    else:
        ours_has, theirs_has = (count_parameters(c.model, ours.study.task) for c in (a, b))
        assert abs(theirs_has / ours_has - 1) < MATCHED[baseline]
    assert a.train.updates == b.train.updates


@pytest.mark.parametrize("baseline", [None, "lstm", "truncated", "self_attention"])
def test_the_configurations_in_found_py_are_results_of_copying(baseline: str | None) -> None:
    ours = load(ROOT / "search_spaces" / "found.py", baseline)
    theirs = load(ROOT / "search_spaces" / "copying.py", baseline)
    assert (ours.study.task, ours.study.ladder) == (theirs.study.task, theirs.study.ladder)
    found, drawn = ours.try_space(), theirs.try_space()
    assert (type(found.model), found.model.hidden) == (type(drawn.model), drawn.model.hidden)
    assert found.train.updates == drawn.train.updates
    with (
        ROOT / "docs" / "results" / f"copying{f'.{baseline}' * bool(baseline)}.csv"
    ).open() as trials:
        run = RunConfig.of(task=ours.study.task, trial=found, seed=0)
        # As when it is read back: a forget_bias of 1 becomes 1.0.
        run = RunConfig.from_dict(run.to_dict())
        wanted = {k: str(v) for k, v in flatten(run.to_dict()).items() if k.startswith("trial.")}
        rows = [row for row in csv.DictReader(trials) if wanted.items() <= row.items()]
    assert any(row["state"] == "complete" for row in rows)


BASELINES = """

def lstm(trial):
    "Without a memory."
    return TrialConfig(model=LSTM.Config(k_trunc=trial.suggest_int("k_trunc", 1, 3)))

BASELINES = {"lstm": lstm}
"""


def test_a_baseline_uses_the_parameters_of_points_in_its_space(tmp_path: Path) -> None:
    points = "({'k_top': 1}, {'k_top': 1, 'k_trunc': 2}, {'k_top': 2, 'k_trunc': 2})"
    text = GOOD.replace("import SAB", "import LSTM, SAB").replace(
        "select=(4,)))", f"select=(4,)), points={points})"
    )
    text = text.replace("SAB.Config(", 'SAB.Config(k_trunc=trial.suggest_int("k_trunc", 1, 3), ')
    file = load(written(tmp_path, '"""Which?"""' + text + BASELINES), "lstm")
    assert (file.study.name, file.baseline) == ("s.lstm", "lstm")
    assert file.study.points == ({}, {"k_trunc": 2})
    assert file.question == "Which?\n\nBaseline: lstm\n\nWithout a memory."
    config = file.config(optuna.trial.FixedTrial({"k_trunc": 3}))  # type: ignore[arg-type]
    assert config.model == LSTM.Config(k_trunc=3)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("", "study.py has no baseline 'lst': it has no BASELINES"),
        (BASELINES, "study.py has no baseline 'lst': did you mean 'lstm'"),
        ("\nBASELINES = {'lst': 3}", "study.py:13: BASELINES is {'lst': 3}: give spaces by name"),
        ("\nBASELINES = [space]", "study.py:13: BASELINES is .*: give spaces by name"),
        ("\nBASELINES = {'lst': lambda trial: 1 / 0}", "study.py:.* ZeroDivisionError"),
    ],
    ids=["none", "near", "number", "list", "fails"],
)
def test_an_unknown_baseline_is_an_error(tmp_path: Path, after: str, message: str) -> None:
    with pytest.raises(StudyFileError, match=message) as told:
        load(written(tmp_path, GOOD + after), "lst")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("STUDY =", "STUDIE ="), "study.py has no STUDY: add"),
        (("STUDY = Study(", "STUDY = dict("), "study.py has no STUDY: add"),
        (("def space", "def room"), "study.py has no space: add"),
        (("k_top=trial", "ktop=trial"), r"study.py:11: SAB.Config has no key 'ktop': did you mean"),
        (('"k_top", 1, 3', '"k_top", -3, -3'), r"study.py:11: k_top is -3: give a whole number"),
        (("return TrialConfig", "TrialConfig"), r"space\(trial\) returned None: return a"),
        (("import SAB", "import SABBATH"), r"study.py:4: ImportError: cannot import name"),
        (("def space(trial):", "def space(trial)"), "study.py:10: expected ':'"),
        (('name="s"', 'name="a/b"'), "study.py:8: name is 'a/b': give at most 100 letters"),
        (("(4, 8)", "(5, 8)"), r"study.py:8: ladder.lengths is \(5, 8\): give the training length"),
        (("select=(4,)", "slect=(4,)"), "study.py:8: Ladder has no key 'slect': did you mean"),
        (("Config(length=4)", "Config(length=-4)"), "study.py:8: length is -4: give a whole"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_mistake_in_a_file_has_its_line_and_a_remedy(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in GOOD
    with pytest.raises(StudyFileError, match=message) as told:
        load(written(tmp_path, GOOD.replace(*change)))
    assert "\n" not in str(told.value)


def test_a_missing_study_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"there is no study file .*nowhere.py"):
        load(tmp_path / "nowhere.py")
    with pytest.raises(StudyFileError, match="there is no study file"):
        load(tmp_path)


def test_limits_replace_the_studys_own(tmp_path: Path) -> None:
    file = load(written(tmp_path, GOOD))
    assert file.with_limits(trials=None, seed=None) == file
    changed = file.with_limits(trials=3, seed=9).study
    assert (changed.trials, changed.seed) == (3, 9)
    with pytest.raises(ConfigError, match="trials is 0"):
        file.with_limits(trials=0, seed=None)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (ASHA, {"grace": 0}, "grace is 0"),
        (ASHA, {"grace": 5, "reduction": 1}, "reduction is 1"),
        (Resources, {"cpus": 0}, "cpus is 0"),
        (Resources, {"gpus": -0.5}, "gpus is -0.5"),
    ],
)
def test_study_values_out_of_range_are_named(
    part: type, values: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        part(**values)


@pytest.mark.parametrize("pruning", [None, ASHA(grace=5)])
def test_a_study_survives_a_round_trip_through_the_plan(pruning: ASHA | None) -> None:
    ladder = Ladder(lengths=(7, 8), select=(7,))
    study = Study(name="x", task=Copying.Config(length=7), ladder=ladder, pruning=pruning)
    assert from_dict(Study, json.loads(json.dumps(to_dict(study, PARTS))), PARTS) == study


def test_the_training_length_must_come_first() -> None:
    with pytest.raises(ConfigError, match="the training length, 7, first"):
        Study(
            name="x",
            task=Copying.Config(length=7),
            ladder=Ladder(lengths=(8, 16), select=(8,)),
        )
