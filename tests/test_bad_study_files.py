"""Test that mistakes in study files are reported on one line, before anything is computed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sabtune.cli import app
from sabtune.errors import StudyFileError
from sabtune.storage.store import Store
from sabtune.study.loading import load
from sabtune.tuning.run import open_or_create

GOOD = """\
import math, optuna, sys
from sabtune.config import TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import SAB
from sabtune.study.definition import ASHA, Resources, Study
from sabtune.tasks import Copying

STUDY = Study(name="s", task=Copying.Config(length=4), ladder=Ladder(lengths=(4, 8), select=(4,)))

def space(trial):
    k_top = trial.suggest_int("k_top", 2, 5)
    return TrialConfig(model=SAB.Config(k_top=k_top))

def constraints(trial):
    return {"memory": trial.memory - 1e9}
"""

STUDY, SPACE, CONSTRAINTS = 8, 11, 15
"""The lines of `GOOD` that assign STUDY, draw k_top and return the constraints."""

DRAW = 'trial.suggest_int("k_top", 2, 5)'
RETURN = "return TrialConfig(model=SAB.Config(k_top=k_top))"
MADE = '{"memory": trial.memory - 1e9}'


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def of_study(words: str) -> str:
    return changed("select=(4,)))", f"select=(4,)), {words})")


def choices(written: str) -> str:
    return changed(DRAW, f'[trial.suggest_categorical("k", {written}), 3][1]')


TERRIBLE = """
class Terrible(Exception):
    def __str__(self):
        raise ValueError("no words")
"""

BAD = {
    # Syntax and encoding
    "syntax": (changed("def space(trial):", "def space(trial)"), r":10: expected ':'"),
    "indentation": (changed("    k_top =", "  k_top ="), r":12: unindent|:12: unexpected indent"),
    "null byte": (GOOD + "\0", r"study.py: .*null bytes|study.py:\d+: .*null bytes"),
    "not text": ("\udcff\udcfe\udc80", r"study.py:\d+: .*(?i:utf-8)"),
    "no such encoding": ("# coding: klingon\n" + GOOD, r"study.py:\d*:? ?.*klingon"),
    # Errors while the file runs
    "name error": (GOOD + "nothing", r":16: NameError: name 'nothing'"),
    "exit": ("import sys\nsys.exit()", r":2: it ends the program \(sys.exit\): remove that call"),
    "exit 0": ("raise SystemExit(0)", r":1: it ends the program"),
    "base exception": ("raise BaseException('odd')", r":1: BaseException: odd"),
    "generator exit": ("raise GeneratorExit", r":1: GeneratorExit$"),
    "empty message": ("raise ValueError", r":1: ValueError$"),
    "many lines": ("raise ValueError('a\\n\\n  b\\x1b[2J')", r":1: ValueError: a b \[2J$"),
    "huge message": ("raise ValueError('a' * 10**6)", r":1: ValueError: a{800}…$"),
    "no message": (TERRIBLE + "raise Terrible", r":5: Terrible: \(its message can't be shown\)"),
    "no module": ("import nowhere_at_all", r":1: ModuleNotFoundError: No module.*: install it"),
    "relative": ("from . import other", r":1: ImportError: .*by its name alone, without a dot"),
    "neighbor": ("\nimport broken_neighbor", r":2: SyntaxError: .*broken_neighbor.py:1: "),
    "eval": ("\neval('1 +')", r":2: SyntaxError: <string>:1: "),
    "recursion": ("def f(): f()\nf()", r":1: RecursionError"),
    # Missing definitions
    "no study": (changed("STUDY =", "STUDIE ="), r"study.py has no STUDY: add"),
    "a class": (changed("STUDY = Study(", "STUDY = Study;dict("), r"add .* in \S+study.py:8$"),
    "a dict": (changed("STUDY = Study(", "STUDY = dict("), r"add .* in \S+study.py:8$"),
    "no space": (changed("def space", "def room"), r"study.py has no space: add"),
    "a number": (GOOD + "\nspace = 3", r"no space: add .* instead of 3 in \S+study.py:10$"),
    "no argument": (changed("space(trial)", "space()"), r":10: space can't be called with a tri"),
    "two": (changed("space(trial)", "space(trial, x)"), r":10: space can't be called with a tri"),
    "lambda": (GOOD + "space = lambda: 3", r":16: space can't be called with a trial alone"),
    "async": (changed("def space", "async def space"), r":10: space\(trial\) returned <coroutine"),
    "yields": (changed("return Tri", "yield Tri"), r":10: space\(trial\) returned <generator"),
    "space class": (GOOD + "class space:\n def __init__(self, trial): 0", r"returned .*: return a"),
    "returns none": (changed(RETURN, "return"), r":10: space\(trial\) returned None: return a"),
    # The STUDY
    "pruning": (of_study('pruning="asha"'), rf":{STUDY}: \S*pruning is 'asha': give"),
    "resources": (of_study('resources={"cpus": 2}'), rf":{STUDY}: \S*resources is .*: give"),
    "points list": (of_study("points=[1]"), rf":{STUDY}: \S*points\S* is .*1.*: give"),
    "points names": (of_study('points=("k_top",)'), rf":{STUDY}: \S*points\S* is .*k_top.*: give"),
    "points dict": (of_study('points={"k_top": 3}'), rf":{STUDY}: \S*points\S* is .*: give"),
    "points keys": (of_study("points=({1: 3},)"), rf":{STUDY}: \S*points\S* is .*: give"),
    "unasked": (of_study('points=({"k": 3},)'), rf":{STUDY}: a point gives 'k', which the space"),
    # The space
    "space exits": (changed(DRAW, "sys.exit(0)"), rf":{SPACE}: it ends the program"),
    "space kills": (changed(DRAW, "exec('raise BaseException')"), rf":{SPACE}: BaseException$"),
    "space is wrong": (changed("return", "1 / 0; return"), r":12: ZeroDivisionError: division"),
    "all pruned": (changed("return", "raise optuna.TrialPruned('no'); return"),
                   r":12: pruned by the space: no$"),
    "never valid": (changed("2, 5", "-5, -2"), r":12: (SAB\.Config\.)?k_top is -\d: give a whole"),
    "tuples": (choices("[(8, 1), (4, 2)]"), rf":{SPACE}: k has the choice \(8, 1\), which a data"),
    "lists": (choices("[[8], [4]]"), rf":{SPACE}: k has the choice \[8\], which a database"),
    "objects": (choices("[object()]"), rf":{SPACE}: k has the choice <object .*, which a data"),
    "functions": (choices("[math.sin]"), rf":{SPACE}: k has the choice <built-in .*, which a data"),
    "nan": (choices("[1.0, math.nan]"), rf":{SPACE}: k has the choice nan, which a database"),
    "a set": (choices('{"a", "b"}'), rf":{SPACE}: the choices of k are the set .*: give a list"),
    "equal": (choices("[1, True]"), rf":{SPACE}: k has the choices 1 and True, which are equal"),
    "none": (choices("[]"), rf":{SPACE}: ValueError: "),
    "no name": (changed('"k_top"', "7"), rf":{SPACE}: a parameter is named 7: give a string"),
    "dynamic": (changed(RETURN, 'trial.suggest_categorical("c", list(range(k_top))); ' + RETURN),
                r":12: c is one of \[0, .*\], and was one of \[0, .*\] in another trial: give"),
    "kinds": (changed(RETURN, 'k_top > 3 and trial.suggest_float("c", 1, 2) or '
                      'trial.suggest_int("c", 1, 2); ' + RETURN),
              r":12: c is a .* from 1\S* to 2\S*, and was a .* in another trial: give each"),
    # The constraints
    "no function": (GOOD + "\nconstraints = 3", r":14: constraints is 3: give a function"),
    "no trial": (changed("ts(trial)", "ts()"), r":14: constraints can't be called with a trial"),
    "no mapping": (changed(MADE, "[1]"), r":14: constraints\(trial\) returned \[1\]: return num"),
    "not a number": (changed(MADE, '{"m": "many"}'), r":14: .* returned 'many' for 'm': return"),
    "nan made": (changed(MADE, '{"m": math.nan}'), r":14: .* returned nan for 'm': return numbers"),
    "name of it": (changed(MADE, "nothing"), rf":{CONSTRAINTS}: NameError: name 'nothing'"),
    "exits": (changed(MADE, "sys.exit()"), rf":{CONSTRAINTS}: it ends the program"),
    # BASELINES
    "baselines list": (GOOD + "BASELINES = [space]", r"BASELINES is \[<function.*: give spaces"),
    "baselines class": (GOOD + "BASELINES = {'a/b': space}", r"BASELINES is .*: give spaces"),
    "baseline": (GOOD + "BASELINES = {'a': lambda: 3}", r"BASELINES\['a'\] can't be called"),
}  # fmt: skip


def written(folder: Path, text: str, name: str = "study.py") -> Path:
    path = folder / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_with_its_location(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    written(tmp_path, "def", "broken_neighbor.py")
    with pytest.raises(StudyFileError, match=message) as told:
        load(written(tmp_path, text))
    words = str(told.value)
    assert words.isprintable()
    assert str(tmp_path / "study.py") in words
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("case", ["exit", "tuples", "unasked", "resources", "no mapping"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["search", "dry run"])
def test_a_search_and_a_dry_run_refuse_the_same(tmp_path: Path, case: str, dry: list[str]) -> None:
    text, message = BAD[case]
    path, store = written(tmp_path, text), tmp_path / "store"
    ended = CliRunner().invoke(app, ["search", str(path), "--store", str(store), *dry])
    assert isinstance(ended.exception, StudyFileError)
    assert re.search(message, str(ended.exception))
    assert not store.exists()


def test_a_dry_run_refuses_a_space_that_does_not_fit_the_stored_study(tmp_path: Path) -> None:
    store = Store.at(str(tmp_path / "store")).made()
    draw = 'trial.suggest_categorical("k", [3, 2])'
    file = load(written(tmp_path, changed(DRAW, draw)))
    file.config(open_or_create(file, store).optuna.ask())
    path = written(tmp_path, changed(DRAW, draw.replace("2]", "2, 1]")))
    command = ["search", str(path), "--store", str(store.root), "--dry-run"]
    ended = CliRunner().invoke(app, command)
    assert isinstance(ended.exception, StudyFileError)
    assert re.search(rf":{SPACE}: k is one of .*: search with --new", str(ended.exception))
