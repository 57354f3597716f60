"""Test the search of all baselines of a study, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner, Result

import sabtune as sab
from sabtune import interrupts
from sabtune.cli import app, remote
from sabtune.errors import ConfigError, FailedTrialsError, StudyFileError
from sabtune.models import LSTM
from sabtune.storage.store import Store
from sabtune.study.loading import load, load_baselines
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.study.study_file import StudyFile
from sabtune.tuning.run import Ending
from tests.reports import LENGTHS, frozen
from tests.studies import learnable
from tests.test_commands import words_of

NAMES = ["lstm", "gru", "truncated"]
"""The baselines of the study file."""

COMPLETE = Ending(complete=True)
SPENT = Ending(complete=False, out_of_budget=True)
INTERRUPTED = Ending(complete=False)


class Searches:
    """A fake of searches: it records them, and each ends as `endings` has it for its baseline."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.endings: dict[str, Ending] = {}
        self.states: dict[str, TrialState] = {}
        self.during: Callable[[str], object] = lambda _: None

    @property
    def names(self) -> list[str]:
        return [asked["name"] for asked in self.asked]

    def search(self, file: StudyFile, store: Store, _: object, **options: Any) -> Ending:
        name, budget = file.study.name, options["budget"]
        asked = {"name": name, "baseline": file.baseline, "trials": file.study.trials}
        asked |= {"hours": budget.hours, "gpu_hours": budget.gpu_hours, "budget": budget}
        self.asked.append(asked)
        baseline = file.baseline or ""
        if StudyRecord.find(store, name) is None:
            study = optuna.create_study(
                study_name=name, storage=open_storage(store, write=True), direction="maximize"
            )
            study.set_user_attr("plan", {"rival": baseline})
            score = 0.9 - 0.2 * NAMES.index(baseline) if baseline else 0.95
            state = self.states.get(baseline, TrialState.COMPLETE)
            for number in range(2):
                study.add_trial(frozen(number, LSTM.Config(hidden=8), score, state))
        self.during(baseline)
        return self.endings.get(baseline, COMPLETE)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Searches:
    made = Searches()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sabtune.tuning.run.search", made.search)
    monkeypatch.setattr("sabtune.cli.searching.publish_report", lambda *_: None)
    monkeypatch.setattr("sabtune.api.searching.publish", lambda *_: "")
    monkeypatch.setenv("COLUMNS", "150")
    interrupts.forget()
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = learnable(tmp_path)
    spaces = "".join(f"    '{name}': space,\n" for name in NAMES)
    file.write_text(f"{file.read_text()}\n\nBASELINES = {{\n{spaces}}}\n")
    return file


def run(words: Sequence[object], code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def test_each_baseline_is_searched_in_turn_with_the_same_limits(
    searches: Searches, path: Path
) -> None:
    done = run(["search", path, "--baseline", "all", "--trials", 5, "--hours", 2])
    assert searches.names == ["learnable.lstm", "learnable.gru", "learnable.truncated"]
    assert {(asked["trials"], asked["hours"]) for asked in searches.asked} == {(5, 2.0)}
    assert len({id(asked["budget"]) for asked in searches.asked}) == 3  # each has its own
    headings = [line for line in done.output.splitlines() if line.startswith("Baseline ")]
    assert headings == [f"Baseline {name}, {i} of 3:" for i, name in enumerate(NAMES, 1)]
    table = done.output.partition("The best configuration of each study")[2]
    for name, score in zip(NAMES, (0.9, 0.7, 0.5), strict=True):
        (row,) = [line for line in table.splitlines() if f"learnable.{name}:" in line]
        assert f"{0.125 + 0.875 * score:.1%}" in row
    assert str(LENGTHS[-1] // 1000) in table
    (confirm,) = [line for line in table.splitlines() if "Compare on fresh seeds" in line]
    assert " confirm learnable.lstm learnable.gru learnable.truncated" in confirm


def test_the_table_begins_with_the_files_own_study(searches: Searches, path: Path) -> None:
    run(["search", path])
    done = run(["search", path, "--baseline", "all"])
    table = done.output.partition("The best configuration of each study")[2]
    assert table.index("learnable: ") < table.index("learnable.lstm: ")
    assert " confirm learnable learnable.lstm " in table


def test_an_interruption_ends_all_and_the_command_resumes(searches: Searches, path: Path) -> None:
    searches.endings = {"gru": INTERRUPTED}
    done = run(["search", path, "--baseline", "all", "--seed", 3], code=130)
    assert searches.names == ["learnable.lstm", "learnable.gru"]
    assert "The best configuration of each study" not in done.output
    (line,) = [line for line in done.output.splitlines() if "Resume with" in line]
    again = words_of(line.partition(":")[2])[3:]
    assert again[again.index("--baseline") + 1] == "all"
    searches.endings = {}
    resumed = run(again)
    assert searches.names[2:] == ["learnable.lstm", "learnable.gru", "learnable.truncated"]
    assert "Study learnable.lstm is complete: 2 trials (2 complete)." in resumed.output


def test_a_signal_between_two_baselines_ends_all(
    searches: Searches, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches.during = lambda name: monkeypatch.setattr(interrupts, "received", lambda: 2)
    done = run(["search", path, "--baseline", "all"], code=130)
    assert searches.names == ["learnable.lstm"]
    assert "Interrupted. Resume with:" in done.output


def test_a_spent_budget_and_a_rule_end_only_their_baseline(searches: Searches, path: Path) -> None:
    searches.endings = {"lstm": SPENT, "gru": Ending(complete=True, stopped="a rule")}
    done = run(["search", path, "--baseline", "all", "--gpu-hours", 1])
    assert len(searches.names) == 3
    assert "Complete: ended by a rule." in done.output
    assert done.output.count("The budget is spent. Resume with:") == 1
    assert done.output.rstrip().endswith("--gpu-hours 1.0")


def test_a_baseline_whose_trials_all_failed_ends_with_1_after_the_others(
    searches: Searches, path: Path
) -> None:
    searches.states = {"lstm": TrialState.FAIL}
    done = run(["search", path, "--baseline", "all"], code=1)
    assert len(searches.names) == 3
    assert "learnable.lstm: all 2 trials failed" in done.output
    assert "learnable.lstm: no complete trial" in done.output
    assert "confirm learnable.gru learnable.truncated" in done.output


def test_a_lost_ray_ends_all(searches: Searches, path: Path) -> None:
    searches.endings = {"gru": Ending(complete=False, lost="Ray ended")}
    done = run(["search", path, "--baseline", "all"], code=2)
    assert searches.names == ["learnable.lstm", "learnable.gru"]
    assert "--baseline all" in done.output.partition("Ray ended")[2]


def test_the_studies_can_have_another_name(searches: Searches, path: Path) -> None:
    run(["search", path, "--baseline", "all", "--study", "other"])
    assert searches.names == ["other.lstm", "other.gru", "other.truncated"]
    run(["search", path, "--baseline", "gru"])
    searches.endings = {"lstm": INTERRUPTED}
    done = run(["search", path, "--baseline", "all", "--new"], code=130)
    assert searches.names[4:] == ["learnable-2.lstm"]  # learnable.gru exists
    assert "--study learnable-2" in done.output
    done = CliRunner().invoke(app, ["search", str(path), "--baseline", "all", "--study", "a b"])
    assert str(done.exception).startswith("--study: name is 'a b': give at most 100")


def test_one_notification_has_the_table(
    searches: Searches, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "sabtune.notification.Notifier.send", lambda _, title, text: sent.append((title, text))
    )
    run(["search", path, "--baseline", "all"])
    ((title, text),) = sent
    assert title == "learnable: all baselines complete"
    assert all(f"learnable.{name}: " in text for name in NAMES)


def test_a_cluster_gets_one_job(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []

    def train(*words: object, **options: object) -> None:
        jobs.append((words[1:], options["study"]))
        raise SystemExit(0)

    monkeypatch.setattr(remote, "train", train)
    monkeypatch.setattr(remote, "check_capacity", lambda *_: None)
    given = ["search", path, "--baseline", "all", "--cluster", "c.yaml"]
    run([*given, "--hours", 1])
    assert jobs == [(("search", "--baseline", "all", "--hours", "1.0"), "learnable.all")]
    done = CliRunner().invoke(app, [str(word) for word in [*given, "--new"]])
    assert isinstance(done.exception, ConfigError)
    assert "give --study NAME instead" in str(done.exception)


def test_python_returns_the_studies_by_baseline(
    searches: Searches, path: Path, tmp_path: Path
) -> None:
    found = sab.search(path, baseline="all", trials=4, store=tmp_path / "st", progress=False)
    assert list(found) == NAMES
    assert [study.name for study in found.values()] == searches.names
    assert {asked["trials"] for asked in searches.asked} == {4}
    assert found["gru"].best is not None
    again = sab.search(
        path, baseline="all", name="x", hours=1, store=tmp_path / "st", progress=False
    )
    assert [study.name for study in again.values()] == ["x.lstm", "x.gru", "x.truncated"]


def test_python_searches_the_baselines_of_objects(searches: Searches, tmp_path: Path) -> None:
    def space(trial: optuna.Trial) -> sab.TrialConfig:
        return sab.TrialConfig(
            model=sab.LSTM.Config(hidden=trial.suggest_int("hidden", 4, 8)),
            train=sab.TrainConfig(updates=2),
        )

    study = sab.Study(
        name="s",
        task=sab.Copying.Config(length=3, symbols=1),
        ladder=sab.Ladder(lengths=(3, 6), select=(3,), sequences=16),
    )
    others = {"gru": space, "lstm": space}
    store = tmp_path / "st"
    found = sab.search(study, space, baselines=others, baseline="all", store=store, progress=False)
    assert list(found) == ["gru", "lstm"]
    with pytest.raises(StudyFileError, match="has no baselines: add BASELINES"):
        sab.search(study, space, baseline="all", store=store, progress=False)


def test_python_is_told_of_failures_and_interruptions(
    searches: Searches, path: Path, tmp_path: Path
) -> None:
    store = tmp_path / "st"
    searches.states = {"lstm": TrialState.FAIL}
    with pytest.raises(FailedTrialsError, match=r"study 'learnable\.lstm': all 2 trials failed"):
        sab.search(path, baseline="all", store=store, progress=False)
    assert len(searches.names) == 3
    searches.endings = {"gru": INTERRUPTED}
    with pytest.raises(KeyboardInterrupt, match=r"study 'learnable\.gru' was interrupted"):
        sab.search(path, baseline="all", store=store, progress=False)
    assert len(searches.names) == 5


def test_loading_all_is_loading_each(path: Path) -> None:
    each = [load(path, name) for name in NAMES]
    for file, own in zip(load_baselines(path), each, strict=True):
        assert (file.study, file.baseline, file.question) == (
            own.study, own.baseline, own.question
        )  # fmt: skip


def test_a_file_without_baselines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match="has no baselines: add BASELINES = "):
        load_baselines(learnable(tmp_path))


def test_no_baseline_is_named_all(tmp_path: Path) -> None:
    file = learnable(tmp_path)
    file.write_text(file.read_text() + "\n\nBASELINES = {'all': space}\n")
    for baseline in (None, "all"):
        with pytest.raises(StudyFileError, match="BASELINES has an entry 'all', which stands for"):
            load(file, baseline)
