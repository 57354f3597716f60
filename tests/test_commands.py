"""Test that every command that sabtune prints can be run as printed, in the same folder."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import typer
from typer.testing import CliRunner, Result

from sabtune.cli import app, commands, remote, screen
from sabtune.cli.commands import CLUSTER_VARIABLE, command_line, location_values, quote
from sabtune.cluster.jobs import Job
from sabtune.compare.confirm import enqueue, with_fresh_seeds
from sabtune.compare.run import ComparisonPlan
from sabtune.data import place
from sabtune.redaction import without_secrets
from sabtune.storage.store import Store
from sabtune.study.events import KeptModel
from sabtune.study.names import stored_names
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import StudyFile
from sabtune.study.writer import StudyWriter
from sabtune.terminal.console import Screen
from sabtune.tuning.run import Ending
from tests.reports import searched
from tests.studies import learnable

ODD = 'it\'s $HOME "and" `é` [red]x *'
"""A name for folders and stores that a shell misreads unless it is quoted."""


def words_of(line: str) -> list[str]:
    """Return the words of a line as a shell splits them."""
    read = ["bash", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(read, capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("word", [ODD, "a b", "-x", "", "new\nline", "bell\a'\\", "\udcff", "ü"])
def test_a_shell_reads_back_what_was_quoted(word: str) -> None:
    line = quote(word)
    assert line.isprintable()
    assert words_of(line) == [word]


NAMES = sorted(typer.main.get_group(app).commands.keys() - {"data"})


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_given_the_options_that_it_has(name: str) -> None:
    where = {"store": f"{ODD}/s", "files": "-dash", "tracking": "http://x", "cluster": "-c.yaml"}
    group = typer.main.get_group(app)
    command = group.commands[name]
    arguments = ["-odd", "3"] if name in ("reproduce", "extrapolate") else ["-odd"]
    arguments = [] if name in ("doctor", "ui") else arguments
    must = {"lengths": "4,9"} if name == "extrapolate" else {}
    line = command_line(name, *arguments, where=where | {"data_dir": Path(ODD)}, **must)
    program, *words = words_of(line)[2:]
    assert (program, words[0]) == ("sabtune", name)
    context = command.make_context(name, words[1:])
    known = {of.name for of in command.params}
    for key, value in (where | {"data_dir": Path(ODD)}).items():
        assert key not in known or str(context.params[key]) == str(value)
    if arguments:
        first = next(of.name for of in command.params if of.param_type_name == "argument")
        given = context.params[first]
        assert str(given[0] if isinstance(given, list | tuple) else given) == "-odd"


def test_a_command_is_on_one_line_of_any_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Screen(markup=False, emoji=False, width=20, force_terminal=True, file=sys.stdout)
    screen.hint(console, "Again:", f"sabtune report {quote(ODD)} --store {'x' * 50}")
    assert (
        capsys.readouterr().out == f"{'Again:':<27}sabtune report {quote(ODD)} --store {'x' * 50}\n"
    )


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("postgresql://anna:geheim@host/db", "postgresql://anna@host/db"),
        (
            "postgresql://anna@host/db?password=geheim&sslmode=on",
            "postgresql://anna@host/db?sslmode=on",
        ),
        ("postgresql://anna@host/db?password=geheim", "postgresql://anna@host/db"),
        ("https://token@host/mlflow", "https://host/mlflow"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        (ODD, ODD),
    ],
)
def test_no_password_is_in_a_command(url: str, bare: str) -> None:
    assert without_secrets(url) == bare
    line = command_line("search", "f.py", where=location_values(url, url, url))
    assert "geheim" not in line
    assert "token" not in line
    assert words_of(line)[-1] == bare


def test_printed_commands_start_sabtune_as_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / ODD / "sabtune"
    there.parent.mkdir()
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(there)])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert words_of(commands.program()) == [f"{ODD}/sabtune"]
    monkeypatch.setenv("PATH", str(there.parent))
    assert commands.program() == "sabtune"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    assert commands.program().endswith(" -m sabtune")
    monkeypatch.setenv(CLUSTER_VARIABLE, "cluster.yaml")
    assert commands.program() == "sabtune"


class Searches:
    """A fake of searches that records their arguments; each is interrupted at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def search(self, file: StudyFile, store: Store, _: object, **options: Any) -> Ending:
        name, budget = file.study.name, options["budget"]
        self.asked.append(
            (name, file.baseline, file.study.trials, file.study.seed, budget.hours, store,
             options["system_metrics"], place.folder(), file.path.resolve())
        )  # fmt: skip
        if name not in stored_names(store):
            study = searched(store, name, 4)
            study.set_user_attr("plan", {"file": str(file.path.resolve())})
        return Ending(complete=False, behind="it is away")

    def run_comparison(self, plan: ComparisonPlan, *_: object) -> Any:
        self.asked.append((plan.name, plan.seeds, plan.lengths, plan.store, place.folder()))
        if plan.name not in stored_names(plan.store):
            storage = open_storage(plan.store, write=True)
            study = optuna.create_study(study_name=plan.name, storage=storage)
            enqueue(StudyWriter(study), with_fresh_seeds(plan.runs, plan.seeds))
        ending = Ending(complete=False, behind="it is away")
        return ending, StudyRecord.open(plan.store, plan.name)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Searches:
    """Return fake searches, and work in a folder with an odd name."""
    made = Searches()
    (tmp_path / ODD).mkdir()
    monkeypatch.chdir(tmp_path / ODD)
    monkeypatch.setattr("sabtune.tuning.run.search", made.search)
    monkeypatch.setattr("sabtune.compare.run.run_comparison", made.run_comparison)
    monkeypatch.setattr("sabtune.tracking.mirror.sync", lambda *_: made.asked.append(("sync",)))
    monkeypatch.setattr("sabtune.tracking.ui.serve", lambda *_: made.asked.append(("ui",)))
    monkeypatch.setattr("sabtune.cli.showing.check_free", lambda _: None)
    for module in ("searching", "showing", "screen"):
        monkeypatch.setattr(f"sabtune.cli.{module}.publish_report", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("SABTUNE_DATA", str(tmp_path / "data $1"))
    return made


def run(words: Sequence[object]) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code in (0, 130), done.output
    return done


def printed(done: Result) -> dict[str, list[str]]:
    """Return the printed commands by purpose, without the program itself."""
    lines = [line.partition(":") for line in done.output.splitlines() if " -m sabtune " in line]
    return {text: words_of(line)[3:] for text, _, line in lines}


@pytest.fixture
def study(tmp_path: Path, searches: Searches) -> str:
    """Return a study file whose name looks like an option."""
    file = learnable(tmp_path / ODD)
    text = file.read_text() + "\n\nBASELINES = {'lstm': space}\n"
    file.with_name("-odd [red].py").write_text(text)
    return "-odd [red].py"


@pytest.mark.parametrize("given", [[], ["--baseline", "lstm"], ["--study", "other"]])
def test_commands_of_an_interrupted_search_run(
    searches: Searches, study: str, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["--store", f"{ODD}/st", "--files", "some files", "--trials", 9, "--seed", 3]
    own += ["--hours", 0.5, "--system-metrics"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1/#a b")
    first = printed(run(["search", *own, *given, "--", study]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("SABTUNE_DATA")
    (asked,) = searches.asked
    assert set(first) == {
        "Browse all trials", "Show these results again", "Write figures and tables",
        "Confirm on fresh seeds", "Once MLflow is back", "Interrupted. Resume with",
    }  # fmt: skip
    again = printed(run(first["Interrupted. Resume with"]))
    assert again == first
    assert searches.asked == [asked] * 2
    assert f"Study {asked[0]}: " in run(first["Show these results again"]).output
    run(first["Write figures and tables"])
    assert Path("report", "report.html").is_file()
    run(first["Browse all trials"])
    run(first["Once MLflow is back"])
    assert searches.asked[2:] == [("ui",), ("sync",)]
    confirmation = printed(run(first["Confirm on fresh seeds"]))
    assert searches.asked[-1] == (f"{asked[0]}.confirm", 10, None, asked[5], asked[7])
    assert printed(run(confirmation["Interrupted. Resume with"])) == confirmation
    assert searches.asked[-1] == searches.asked[-2]
    run(confirmation["Once MLflow is back"])
    ablation = run(["ablate", asked[0], "--changes", "k_att", "--lengths", "200,300", *own[:4]])
    run(printed(ablation)["Interrupted. Resume with"])
    last: tuple[Any, ...] = searches.asked[-1]
    assert last[:3] == (f"{asked[0]}.ablate", 5, (200, 300))


def test_an_interrupted_search_of_a_new_study_resumes_the_new_study(
    searches: Searches, study: str
) -> None:
    run(["search", "--", study])
    done = printed(run(["search", "--new", "--", study]))
    assert [asked[0] for asked in searches.asked] == ["learnable", "learnable-2"]
    run(done["Interrupted. Resume with"])
    assert searches.asked[-1] == searches.asked[-2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--study", "a b"], "--study: name is 'a b': give at most 100 letters"),
        (["--study", ""], "--study: name is '': give at most 100 letters"),
        (["--study", "x", "--new"], "--study is 'x': give it or --new, not both"),
    ],
)
def test_a_studys_name_is_checked(
    searches: Searches, study: str, given: list[str], told: str
) -> None:
    done = CliRunner().invoke(app, ["search", *given, "--", study])
    assert told in str(done.exception)
    assert searches.asked == []


class Head:
    """A fake of a cluster's head that records jobs.

    says: the output of every job.
    """

    def __init__(self, says: str = "") -> None:
        self.says, self.submitted, self.known = says, list[tuple[Any, ...]](), list[Job]()

    def jobs(self) -> list[Job]:
        return self.known

    def submit(self, command: str, *words: str, study: str = "", **_: object) -> str:
        self.submitted.append((command, *words, study))
        return "job"

    def follow(self, name: str, show: Any) -> Job:
        if self.submitted[-1][0] != "free-name":
            raise KeyboardInterrupt
        show(self.says)
        return dataclasses.replace(RUNNING, state="SUCCEEDED", code=0)


RUNNING = Job(
    name="j", study="learnable", command="search", state="RUNNING",
    begun=None, ended=None, code=None, words="",
)  # fmt: skip


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    made = Head("restored from a copy\nlearnable-7\n")

    @contextmanager
    def head_of(_: Path) -> Iterator[Head]:
        yield made

    monkeypatch.setattr(remote, "head_of", head_of)
    monkeypatch.setattr(remote, "check_capacity", lambda *_: None)
    return made


CLUSTER = f"-{ODD}.yaml"


def test_commands_printed_for_a_cluster_name_the_searched_study(
    searches: Searches, study: str, head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = printed(run(["search", "--new", f"--cluster={CLUSTER}", "--", study]))
    assert head.submitted[0] == ("free-name", "learnable", "")
    command, *words, of = head.submitted[1]
    assert (command, of) == ("search", "learnable-7")
    assert words[words.index("--study") + 1] == "learnable-7"
    assert "--new" not in words
    followed: list[tuple[object, ...]] = []
    monkeypatch.setattr(remote, "follow_study", lambda *of: followed.append(of))
    monkeypatch.setattr(remote, "stop", lambda *of: followed.append(of))
    assert len(done) == 4
    for line in done.values():
        run(line)
    assert followed == [(Path(CLUSTER), "learnable-7")] * 4


def test_a_search_that_runs_on_the_cluster_is_refused_with_how_to_follow_it(
    searches: Searches, study: str, head: Head
) -> None:
    head.known = [RUNNING]
    refused = CliRunner().invoke(app, ["search", f"--cluster={CLUSTER}", "--", study])
    told = str(refused.exception)
    follow = words_of(told.partition("follow it with ")[2].partition(", or stop it with ")[0])[3:]
    assert follow == ["status", "learnable", "--follow", f"--cluster={CLUSTER}"]
    shown = printed(run(["status", f"--cluster={CLUSTER}"]))
    assert shown["Follow the latest"] == follow
    head.known = []
    assert printed(run(["search", f"--cluster={CLUSTER}", "--", study]))
    assert head.submitted[0][0] == "search"


def test_a_job_prints_commands_for_the_users_machine(
    searches: Searches, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CLUSTER_VARIABLE, CLUSTER)
    monkeypatch.setenv(commands.STUDY_FILE_VARIABLE, f"/home/me/{ODD}.py")
    lines = run(["search", "--", study]).output.splitlines()
    (line,) = [of for of in lines if of.startswith("Interrupted. Resume with:")]
    name, *words = words_of(line.partition(":")[2])
    assert name == "sabtune"
    assert words[:2] == ["search", f"/home/me/{ODD}.py"]
    assert words[-1] == f"--cluster={CLUSTER}"


def test_a_free_name_is_the_one_that_new_gives(searches: Searches, study: str) -> None:
    run(["search", "--", study])
    assert run(["free-name", "learnable"]).output.splitlines()[-1] == "learnable-2"


def test_the_line_that_loads_a_model_names_its_mlflow(
    searches: Searches, study: str, tmp_path: Path
) -> None:
    run(["search", "--store", "st", "--", study])
    store = Store((tmp_path / ODD / "st").absolute())
    opened = StudyWriter.open(store, "learnable")
    opened.set_model(KeptModel(trial=0, uri="models:/m-1"))
    for uri in (store.mlflow_uri, "http://127.0.0.1:1"):
        shown = run(["report", "learnable", "--store", "st"]).output
        (line,) = [of for of in shown.splitlines() if "load_model" in of]
        called: list[str] = []
        module = type("Module", (), {"set_tracking_uri": called.append})
        code = line.strip().removeprefix("import mlflow; ").partition("; mlflow.pyfunc")[0]
        exec(code, {"mlflow": module})
        assert called == [uri]
        opened.set_tracking("http://127.0.0.1:1")


@pytest.mark.parametrize("within", [None, ODD])
def test_the_fetch_command_uses_the_folder_that_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str | None
) -> None:
    monkeypatch.delenv("SABTUNE_DATA", raising=False)
    if within:
        place.use(tmp_path / within)
    looked = place.folder()
    for told in (place.fetch_command("mnist", looked),):
        words = words_of(told)
        assert words[:4] == ["sabtune", "data", "fetch", "mnist"]
        assert words[4:] == (["--data-dir", str(looked)] if within else [])
