"""Test that every code block of the documentation is run by a test, as it is printed."""

from __future__ import annotations

import ast
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer

import sabtune as sab
from sabtune.cli.app import app
from sabtune.config import RunConfig
from sabtune.parts import table
from sabtune.study.loading import from_objects, load
from sabtune.testing import check_schedule
from tests.doc_blocks import PAGES, ROOT, UNRUN, Block, all_blocks, block, commands, measurements
from tests.test_doc_searches import RUN_PAGES

BLOCKS = all_blocks()


@cache
def run_by_tests() -> dict[tuple[str, str], str]:
    """Return the calls of `block` below tests/: the file of each by its page and start."""
    calls = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text()
        if "doc_blocks" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "block":
                page, start = (ast.literal_eval(argument) for argument in node.args)
                calls[page, start] = path.name
    return calls


def runs(each: Block) -> bool:
    """Return whether a test asks for this block."""
    return any(each.page == page and each.text.startswith(start) for page, start in run_by_tests())


@pytest.mark.parametrize("each", BLOCKS, ids=str)
def test_a_block_is_run(each: Block) -> None:
    if each.language != "sh":
        assert runs(each), "no test runs this block: give it to `block` in a test"
        return
    for command in commands(each.text):
        run = runs(each) or (each.page in RUN_PAGES and command.startswith("sabtune "))
        assert command in UNRUN or run, f"no test runs {command!r}, and UNRUN has no reason"


def test_these_are_the_blocks() -> None:
    assert len(BLOCKS) > 30
    assert {each.language for each in BLOCKS} == {"sh", "python", "mermaid", "toml", "text"}
    fences = sum(page.read_text().count("```") for page in PAGES.values())
    assert fences == 2 * len(BLOCKS)
    printed = {line for each in BLOCKS if each.language == "sh" for line in commands(each.text)}
    assert UNRUN.keys() <= printed


@pytest.mark.parametrize("reason", dict.fromkeys(UNRUN.values()))
def test_some_commands_are_not_run(reason: str) -> None:
    """Print the commands that no test runs, with the reason."""
    lines = [command for command, given in UNRUN.items() if given == reason]
    pytest.skip(f"{reason}: {'; '.join(lines)}")


def test_the_commands_that_measured_the_results_are_valid() -> None:
    """Check what is not run again, because it takes minutes to days."""
    measured = measurements()
    assert len(measured) > 30
    makefile = (ROOT / "Makefile").read_text()
    for command in measured:
        program, *words = shlex.split(command)
        if program == "sabtune":
            assert_parses(words)
        elif program == "make":
            assert all(f"\n{target}:" in makefile for target in words), command
        else:
            assert program == "python", command
            script = (ROOT / words[0]).read_text()
            assert all(f'"{w}"' in script for w in words if w.startswith("--")), command


@pytest.mark.parametrize("each", BLOCKS, ids=str)
def test_the_commands_of_a_block_parse(each: Block) -> None:
    for command in commands(each.text) if each.language == "sh" else []:
        if command.startswith("sabtune "):
            assert_parses(shlex.split(command)[1:])


def assert_parses(words: list[str]) -> None:
    """Raise for an unknown command or option of sabtune."""
    command: Any = typer.main.get_group(app)
    while isinstance(command, typer.core.TyperGroup):
        name, *words = words
        command = command.commands[name]
    context = command.make_context(name, list(words))
    assert context.command is command
    context.close()


def test_the_readme_trains_a_layer_that_generalizes() -> None:
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(block("README.md", "import torch"), names)
    batch = names["task"].batch(64, 100, torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers = names["readout"](names["layer"](batch.x)[0]).argmax(dim=-1)
    right = (answers == batch.targets)[:, batch.scored].float().mean()
    assert right > 0.9


def test_the_study_file_of_the_docs_loads(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    path.write_text(block("studies.md", "import optuna"))
    file = load(path)
    assert file.study.name == "my_copying"
    quick = load(ROOT / "search_spaces" / "copying_quick.py").study
    assert file.study.task == quick.task
    assert file.study.trials == quick.trials


def test_the_study_of_the_script_is_valid() -> None:
    names: dict[str, Any] = {"__name__": "docs"}
    exec(block("python.md", "import sabtune as sab\n\n\ndef space"), names)
    file = from_objects(names["study"], names["space"])
    assert file.question.startswith("How many memories")
    assert file.study.ladder.phases == 4


def test_the_example_of_a_task_draws_sequences() -> None:
    names: dict[str, Any] = {"__name__": __name__}  # dataclasses look up the module of a class
    exec(block("extending.md", "from __future__"), names)
    task = names["FirstBit"].Config(length=7).build()
    batch = task.batch(3, 7, torch.Generator().manual_seed(0))
    assert torch.equal(batch.targets[:, -1], batch.x[:, 0].argmax(dim=-1))
    perfect = torch.nn.functional.one_hot(batch.targets, task.outputs).float()
    assert task.tally(perfect, batch).accuracy == 1.0


def test_the_example_of_a_baseline_adds_one_to_a_study_file(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    text = (ROOT / "search_spaces" / "copying.py").read_text()
    head = "from sabtune.models import LSTM\n\n\n"
    path.write_text(text + head + block("extending.md", "def narrow"))
    file = load(path, "narrow")
    assert file.question.endswith("The same LSTM with half of the units.")
    assert file.try_space().model == sab.LSTM.Config(hidden=32)
    assert load(path, "truncated").try_space().model.hidden == 64


def test_the_gru_of_the_tutorial_is_that_of_the_studies() -> None:
    text = (ROOT / "search_spaces" / "gru.py").read_text()
    _, _, code = text.partition('"""\n\n')
    assert code == block("own_parts.md", "from __future__")


def test_the_schedule_of_the_tutorial_keeps_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = block("own_parts.md", "from dataclasses import dataclass\n\nimport sabtune")
    (tmp_path / "sudden.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    import sudden  # type: ignore[import-not-found]

    schedule = sudden.Sudden()
    assert check_schedule(schedule).checks == ("config", "values", "ends")
    assert [schedule.k_top(at, 5, 40) for at in (0.0, 0.49, 0.5, 1.0)] == [40, 40, 5, 5]
    assert sab.SAB.Config(k_top=5, schedule=schedule).schedule == schedule
    sys.modules.pop("sudden")


def test_the_entry_point_of_the_docs_names_a_task(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads(block("own_parts.md", "[project.entry-points"))["project"]
    ((group, points),) = project["entry-points"].items()
    lines = [f"{name} = {path}" for name, path in points.items()]
    packages = tmp_path / "site-packages"
    info = packages / "my_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: my_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    (packages / "my_package").mkdir()
    (packages / "my_package" / "tasks.py").write_text(block("own_parts.md", '"""How many'))
    monkeypatch.syspath_prepend(packages)
    for cached in (table._registered, table._installed):
        cached.cache_clear()
    data = run.to_dict() | {"task": {"kind": "first-bit", "length": 7}}
    found = RunConfig.from_dict(data)
    assert type(found.task).__qualname__ == "FirstBit.Config"
    assert found.to_dict() == data
    for name in ("my_package.tasks", "my_package"):
        sys.modules.pop(name)
    for cached in (table._registered, table._installed):
        cached.cache_clear()


def test_the_arrays_of_aeon_become_labeled_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the conversion with a stand-in for aeon, which returns arrays as aeon documents them."""
    draws = np.random.default_rng(0)
    files = {
        f"BasicMotions_{part}.ts": (draws.normal(size=(40, 6, 30)), np.repeat(["run", "rest"], 20))
        for part in ("TRAIN", "TEST")
    }
    datasets = SimpleNamespace(load_from_ts_file=files.__getitem__)
    monkeypatch.setitem(sys.modules, "aeon", SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "aeon.datasets", datasets)
    monkeypatch.chdir(tmp_path)
    exec(block("data.md", "from aeon.datasets"), {})
    task = sab.Sequences.Config(data=str(tmp_path / "motions.npz")).build()
    assert (task.config.length, task.inputs, task.outputs) == (30, 6, 2)
    batch = task.batch(3, 30, torch.Generator().manual_seed(0))
    assert batch.x.shape == (3, 30, 6)
    first = files["BasicMotions_TRAIN.ts"][0][0].T.astype("float32")
    assert any(
        np.array_equal(first, each) for each in np.load("motions.npz")["x_train"].astype("float32")
    )
