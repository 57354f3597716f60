"""Every command that sabtune prints runs as it is printed, from the same folder."""

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
from sabtune.cli.commands import FROM, quoted, typed, where_of
from sabtune.cluster.jobs import Job
from sabtune.compare.confirm import enqueue, wanted
from sabtune.config import RunConfig
from sabtune.data import place
from sabtune.redaction import without_secrets
from sabtune.search.run import Ending
from sabtune.storage.store import Store
from sabtune.study import record
from sabtune.study.definition import StudyFile
from tests.reports import searched
from tests.studies import learnable

ODD = 'it\'s $HOME "and" `é` [red]x *'
"""A folder's name."""


def words_of(line: str) -> list[str]:
    """As a shell reads them."""
    read = ["bash", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(read, capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize("word", [ODD, "a b", "-x", "", "new\nline", "bell\a'\\", "\udcff", "ü"])
def test_a_shell_reads_back_what_was_quoted(word: str) -> None:
    line = quoted(word)
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
    line = typed(name, *arguments, where=where | {"data_dir": Path(ODD)}, **must)
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
    console = screen.Screen(
        markup=False, emoji=False, width=20, force_terminal=True, file=sys.stdout
    )
    screen.hint(console, "Again:", f"sabtune report {quoted(ODD)} --store {'x' * 50}")
    assert (
        capsys.readouterr().out
        == f"{'Again:':<27}sabtune report {quoted(ODD)} --store {'x' * 50}\n"
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
    line = typed("search", "f.py", where=where_of(url, url, url))
    assert "geheim" not in line
    assert "token" not in line
    assert words_of(line)[-1] == bare


def test_how_it_was_called_is_how_it_is_called(
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
    monkeypatch.setenv(FROM, "cluster.yaml")
    assert commands.program() == "sabtune"


class Searches:
    """In place of searches: what each was asked for; all of them are interrupted."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def search(self, file: StudyFile, store: Store, _: object, **options: Any) -> Ending:
        name, budget = file.study.name, options["budget"]
        self.asked.append(
            (name, file.baseline, file.study.trials, file.study.seed, budget.hours, store,
             options["system_metrics"], place.folder(), file.path.resolve())
        )  # fmt: skip
        if name not in record.names(store):
            study = searched(store, name, 4)
            record.set_plan(study, {"file": str(file.path.resolve())})
        return Ending(complete=False, behind="it is away")

    def compare_runs(
        self, name: str, _: object, store: Store, runs: dict[str, RunConfig], **options: Any
    ) -> Any:
        self.asked.append((name, options["seeds"], options["lengths"], store, place.folder()))
        if name not in record.names(store):
            study = optuna.create_study(study_name=name, storage=record.store_of(store, write=True))
            enqueue(study, wanted(runs, options["seeds"]))
        return Ending(complete=False, behind="it is away"), record.open_study(store, name)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Searches:
    """In an odd folder, with nothing that takes long or leaves this process."""
    made = Searches()
    (tmp_path / ODD).mkdir()
    monkeypatch.chdir(tmp_path / ODD)
    monkeypatch.setattr("sabtune.search.run.search", made.search)
    monkeypatch.setattr("sabtune.compare.confirm.compare_runs", made.compare_runs)
    monkeypatch.setattr("sabtune.tracking.mirror.sync", lambda *_: made.asked.append(("sync",)))
    monkeypatch.setattr("sabtune.tracking.ui.serve", lambda *_: made.asked.append(("ui",)))
    monkeypatch.setattr("sabtune.cli.showing.check_free", lambda _: None)
    for module in ("running", "showing", "screen"):
        monkeypatch.setattr(f"sabtune.cli.{module}.log_report", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("SABTUNE_DATA", str(tmp_path / "data $1"))
    return made


def run(words: Sequence[object]) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code in (0, 130), done.output
    return done


def printed(done: Result) -> dict[str, list[str]]:
    """The commands that were printed, without how sabtune is called, by what they are for."""
    lines = [line.partition(":") for line in done.output.splitlines() if " -m sabtune " in line]
    return {text: words_of(line)[3:] for text, _, line in lines}


@pytest.fixture
def study(tmp_path: Path, searches: Searches) -> str:
    """A file that is named as an option is."""
    file = learnable(tmp_path / ODD)
    text = file.read_text() + "\n\nBASELINES = {'lstm': space}\n"
    file.with_name("-odd [red].py").write_text(text)
    return "-odd [red].py"


@pytest.mark.parametrize("given", [[], ["--baseline", "lstm"], ["--study", "other"]])
def test_what_an_interrupted_search_prints(
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
        "All trials in the browser", "This page again", "Figures and tables", "On fresh seeds",
        "Once it is back", "Interrupted. Go on with",
    }  # fmt: skip
    again = printed(run(first["Interrupted. Go on with"]))
    assert again == first
    assert searches.asked == [asked] * 2
    assert f"Study {asked[0]}: " in run(first["This page again"]).output
    run(first["Figures and tables"])
    assert Path("report", "report.html").is_file()
    run(first["All trials in the browser"])
    run(first["Once it is back"])
    assert searches.asked[2:] == [("ui",), ("sync",)]
    confirmation = printed(run(first["On fresh seeds"]))
    assert searches.asked[-1] == (f"{asked[0]}.confirm", 10, None, asked[5], asked[7])
    assert printed(run(confirmation["Interrupted. Go on with"])) == confirmation
    assert searches.asked[-1] == searches.asked[-2]
    run(confirmation["Once it is back"])
    ablation = run(["ablate", asked[0], "--changes", "k_att", "--lengths", "200,300", *own[:4]])
    run(printed(ablation)["Interrupted. Go on with"])
    last: tuple[Any, ...] = searches.asked[-1]
    assert last[:3] == (f"{asked[0]}.ablate", 5, (200, 300))


def test_an_interrupted_search_of_a_new_study_goes_on_with_that(
    searches: Searches, study: str
) -> None:
    run(["search", "--", study])
    done = printed(run(["search", "--new", "--", study]))
    assert [asked[0] for asked in searches.asked] == ["learnable", "learnable-2"]
    run(done["Interrupted. Go on with"])
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
    """In place of a cluster's: what was submitted; `says`: what every job prints."""

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


def test_what_is_printed_of_a_cluster_is_about_the_study_that_is_searched(
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


def test_a_search_that_runs_there_is_told_how_to_follow(
    searches: Searches, study: str, head: Head
) -> None:
    head.known = [RUNNING]
    refused = CliRunner().invoke(app, ["search", f"--cluster={CLUSTER}", "--", study])
    told = str(refused.exception)
    follow = words_of(told.partition("follow it with ")[2].partition(", or stop it with ")[0])[3:]
    assert follow == ["status", "learnable", "--follow", f"--cluster={CLUSTER}"]
    shown = printed(run(["status", f"--cluster={CLUSTER}"]))
    assert shown["The last of them"] == follow
    head.known = []
    assert printed(run(["search", f"--cluster={CLUSTER}", "--", study]))
    assert head.submitted[0][0] == "search"


def test_a_job_prints_what_is_typed_elsewhere(
    searches: Searches, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FROM, CLUSTER)
    monkeypatch.setenv(commands.STUDY_FILE, f"/home/me/{ODD}.py")
    lines = run(["search", "--", study]).output.splitlines()
    (line,) = [of for of in lines if of.startswith("Interrupted. Go on with:")]
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
    opened = record.open_study(store, "learnable", write=True)
    record.set_model(opened, record.KeptModel(trial=0, uri="models:/m-1"))
    for uri in (store.mlflow_uri, "http://127.0.0.1:1"):
        shown = run(["report", "learnable", "--store", "st"]).output
        (line,) = [of for of in shown.splitlines() if "load_model" in of]
        called: list[str] = []
        module = type("Module", (), {"set_tracking_uri": called.append})
        code = line.strip().removeprefix("import mlflow; ").partition("; mlflow.pyfunc")[0]
        exec(code, {"mlflow": module})
        assert called == [uri]
        record.set_tracking(opened, "http://127.0.0.1:1")


@pytest.mark.parametrize("within", [None, ODD])
def test_a_missing_data_set_is_fetched_to_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str | None
) -> None:
    monkeypatch.delenv("SABTUNE_DATA", raising=False)
    if within:
        place.use(tmp_path / within)
    looked = place.folder()
    for told in (place.fetching("mnist", looked),):
        words = words_of(told)
        assert words[:4] == ["sabtune", "data", "fetch", "mnist"]
        assert words[4:] == (["--data-dir", str(looked)] if within else [])
