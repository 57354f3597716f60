"""Test confirmations and ablations: which runs take part, and a real one from end to end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState

from sabtune import cli
from sabtune.analysis.compared import comparison
from sabtune.cli import running
from sabtune.compare.ablation import CHANGED, ablations
from sabtune.compare.confirm import (
    enqueue,
    finalists,
    fresh_lengths,
    name_of,
    planned,
    study_file,
    with_fresh_seeds,
)
from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.errors import ConfigError, StoreError, StudyFileError
from sabtune.models import LSTM, SAB, ModelConfig
from sabtune.models.sab import ALL
from sabtune.schedule import Constant, Cosine, Linear
from sabtune.storage.store import Store
from sabtune.study.attributes import LABEL, SPEC
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.study.trial_specs import FRESH_SEED
from sabtune.study.writer import StudyWriter
from sabtune.tasks import Adding, Copying, TaskConfig
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import TrialSpec
from tests.one_ray import Commands
from tests.records import spec
from tests.stores import unpacked
from tests.studies import learnable


def config(model: ModelConfig) -> TrialConfig:
    return TrialConfig(model=model, train=TrainConfig(updates=10))


def test_fresh_lengths_share_only_the_first_with_the_ladder() -> None:
    ladder = Ladder(lengths=(100, 200, 400, 2000, 5000), select=(100, 200))
    assert fresh_lengths(ladder) == (100, 141, 283, 894, 3162, 10000)
    assert fresh_lengths(Ladder(lengths=(5,), select=(5,))) == (5, 10)


def winner(model: ModelConfig, **train: Any) -> RunConfig:
    trial = TrialConfig(model=model, train=TrainConfig(updates=10, **train))
    return RunConfig.of(task=Copying.Config(length=50), trial=trial, seed=3)


def test_an_ablation_changes_one_thing_at_a_time() -> None:
    run = winner(SAB.Config(k_top=3, k_att=4, k_trunc=5, schedule=Linear(start="all")))
    grid = ablations({"#7 any": run})
    assert grid.pop("winner") == run
    models = {label: of.trial.model.label() for label, of in grid.items() if of.task == run.task}
    same = run.model.label()
    assert models == {
        "k_top → all": "k_top=all k_att=4 k_trunc=5 constant",
        "k_att → 1": "k_top=3 k_att=1 k_trunc=5 linear",
        "k_trunc → full": "k_top=3 k_att=4 k_trunc=0 linear",
        "schedule → constant": "k_top=3 k_att=4 k_trunc=5 constant",
        "form → released": "k_top=3 k_att=4 k_trunc=5 linear released",
        "initial → noise": same,
        "initial → passed": same,
        "lengths → 5 to 50": same,
    }
    trained = {label: of.trial.train for label, of in grid.items()}
    assert {label: t for label, t in trained.items() if t != run.train} == {
        "initial → noise": replace(run.train, initial="noise"),
        "initial → passed": replace(run.train, initial="passed"),
        "lengths → 5 to 50": replace(run.train, shortest=5),
    }
    assert {of.task for of in grid.values()} == {run.task}


def test_an_ablation_leaves_out_what_the_winner_has_already() -> None:
    model = SAB.Config(k_top=ALL, k_att=1, k_trunc=0, schedule=Constant(), scoring="dot")
    run = winner(model, initial="passed", shortest=20)
    assert list(ablations({"": run})) == [
        "winner",
        "form → released",
        "initial → zero",
        "initial → noise",
        "lengths → one",
    ]


def test_only_the_training_of_other_models_is_ablated() -> None:
    runs = {"#1 sab": winner(SAB.Config()), "lstms #2 lstm": winner(LSTM.Config())}
    theirs = [label for label in ablations(runs) if label.startswith("lstms")]
    assert theirs == [
        "lstms #2 lstm",
        "lstms #2 lstm: initial → noise",
        "lstms #2 lstm: initial → passed",
        "lstms #2 lstm: lengths → 5 to 50",
    ]


def test_an_ablation_can_be_limited_to_some_changes() -> None:
    runs = {"#1 sab": winner(SAB.Config()), "lstms #2 lstm": winner(LSTM.Config())}
    assert list(ablations(runs, ["k_att", "lengths"])) == [
        "winner",
        "k_att → 1",
        "lengths → 5 to 50",
        "lstms #2 lstm",
        "lstms #2 lstm: lengths → 5 to 50",
    ]
    for label in ablations(runs):
        assert label.split(": ")[-1].split(" → ")[0] in (*CHANGED, "winner", "lstms #2 lstm")
    with pytest.raises(ConfigError, match="no change of 'length': did you mean 'lengths'"):
        ablations(runs, ["length"])


@pytest.mark.parametrize(
    ("model", "train", "changes"),
    [
        (SAB.Config(k_top=3, schedule=Linear(start=3)), {}, ["schedule → constant"]),
        (SAB.Config(k_top=15, k_att=5, schedule=Cosine()), {}, ["schedule → constant"]),
        (SAB.Config(k_top=ALL, schedule=Linear()), {}, ["k_top → all", "schedule → constant"]),
        (SAB.Config(k_trunc=70), {}, ["k_trunc → full"]),
        (SAB.Config(k_trunc=1000), {}, ["k_trunc → full"]),
        (SAB.Config(k_trunc=71, cut="before"), {}, ["k_trunc → full"]),
        (SAB.Config(), {"shortest": 50}, ["lengths → one"]),
    ],
)
def test_a_change_without_effect_is_left_out_with_a_message(
    model: ModelConfig, train: dict[str, Any], changes: list[str]
) -> None:
    """The task has 70 steps, so a sequence has 15 memories with k_att 5."""
    told: list[str] = []
    grid = ablations({"#7": winner(model, **train)}, say=told.append)
    assert not grid.keys() & set(changes)
    assert told == [f"{of} is left out: it computes what winner computes" for of in changes]


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (SAB.Config(k_top=3, schedule=Linear(start=4)), "schedule → constant"),
        (SAB.Config(k_top=20, k_att=5), "k_top → all"),  # longer sequences have more memories
        (SAB.Config(k_trunc=69), "k_trunc → full"),
        (SAB.Config(k_trunc=70, cut="before"), "k_trunc → full"),
    ],
)
def test_a_change_with_an_effect_stays(model: ModelConfig, change: str) -> None:
    told: list[str] = []
    assert change in ablations({"#7": winner(model)}, say=told.append)
    assert not told


def test_no_length_is_shorter_than_the_task_allows() -> None:
    # A tenth of the length is 1, which is too short for the adding task.
    run = replace(winner(SAB.Config()), task=Adding.Config(length=10))
    assert not [label for label in ablations({"": run}) if label.startswith("lengths")]


def fill(
    study: optuna.Study, models: Sequence[ModelConfig], task: TaskConfig | None = None
) -> None:
    """Add one complete trial per model, each better than the one before."""
    for number, model in enumerate(models):
        trial = study.ask()
        run = spec().run
        run = RunConfig.of(task=task or run.task, trial=config(model), seed=number)
        made: TrialSpec = spec(number, run=run)
        trial.set_user_attr(SPEC, made.to_dict())
        study.tell(trial, 0.1 * number)


def test_finalists_are_the_best_and_the_baselines_the_best_of_each_kind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    storage = open_storage(store, write=True)
    ours = optuna.create_study(study_name="ours", storage=storage, direction="maximize")
    baselines = optuna.create_study(study_name="lstms", storage=storage, direction="maximize")
    empty = optuna.create_study(study_name="empty", storage=storage, direction="maximize")
    fill(ours, [SAB.Config(k_top=k_top) for k_top in (1, 2, 3)])
    fill(baselines, [LSTM.Config(k_trunc=5), SAB.Config(k_top=9), LSTM.Config(k_trunc=7)])
    assert list(finalists([StudyRecord.open(store, name) for name in ["ours"]], 2)) == [
        "#2 k_top=3 k_att=5 k_trunc=5 constant",
        "#1 k_top=2 k_att=5 k_trunc=5 constant",
    ]
    assert list(finalists([StudyRecord.open(store, name) for name in ["ours", "lstms"]], 1)) == [
        "ours #2 k_top=3 k_att=5 k_trunc=5 constant",
        "lstms #2 lstm k_trunc=7",
        "lstms #1 k_top=9 k_att=5 k_trunc=5 constant",
    ]
    with pytest.raises(StoreError, match="study 'empty' has no complete trial yet"):
        finalists([StudyRecord.open(store, name) for name in [empty.study_name]], 1)


def test_finalists_are_tested_on_one_task(tmp_path: Path) -> None:
    store = Store(tmp_path)
    storage = open_storage(store, write=True)
    tasks = {
        "one": Copying.Config(length=4, symbols=1),
        "longer": Copying.Config(length=5, symbols=1),
    }
    for name, task in tasks.items():
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        fill(study, [SAB.Config()], task)
    with pytest.raises(StoreError, match="tested on different tasks: compare studies of the same"):
        finalists([StudyRecord.open(store, name) for name in ["one", "longer"]], 1)


def test_a_comparison_runs_what_is_requested_and_the_rest_waits(tmp_path: Path) -> None:
    store, runs = Store(tmp_path), {"a": winner(SAB.Config()), "b": winner(LSTM.Config())}
    assert planned(StudyRecord.find(store, "c"), runs, 3) == 6
    study = optuna.create_study(study_name="c", storage=open_storage(store, write=True))
    assert enqueue(StudyWriter(study), with_fresh_seeds(runs, 3)) == list(
        range(6)
    )  # a and b, by seed
    StudyWriter(study).begin(0)
    StudyWriter(study).begin(1)
    assert planned(StudyRecord.find(store, "c"), runs, 3) == 6
    # A smaller request runs only its own waiting trials and those that have started.
    only = {"b": runs["b"]}
    assert enqueue(StudyWriter(study), with_fresh_seeds(only, 2)) == [3]
    assert planned(StudyRecord.find(store, "c"), only, 2) == 3
    # A larger or different request runs in its own order.
    others = {"new": winner(SAB.Config(k_top=2)), "b": runs["b"]}
    assert enqueue(StudyWriter(study), with_fresh_seeds(others, 4)) == [6, 7, 3, 8, 5, 9, 10]
    assert planned(StudyRecord.find(store, "c"), others, 4) == 9
    labels = [trial.user_attrs[LABEL] for trial in study.trials[6:]]
    assert labels == ["new", "new", "new", "new", "b"]
    # An existing configuration isn't trained again under another label.
    assert enqueue(
        StudyWriter(study), with_fresh_seeds({"s a": runs["a"], "other": runs["a"]}, 3)
    ) == [2, 4]
    assert len(study.trials) == 11


def test_incomparable_runs_become_a_new_comparison(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = {"winner": winner(SAB.Config()), "k_att → 1": winner(SAB.Config(k_att=1))}
    assert name_of("s.ablate", store, runs, None)[0] == "s.ablate"
    compared(store, "s.ablate", runs, (4, 9))
    other = {"winner": winner(SAB.Config(k_top=2)), "k_att → 1": winner(SAB.Config(k_att=1))}
    for given, lengths, name in (
        (runs, None, "s.ablate"),
        (runs, (4, 9), "s.ablate"),
        ({"winner": runs["winner"]}, None, "s.ablate"),
        (runs, (4, 20), "s.ablate-2"),
        (other, None, "s.ablate-2"),
    ):
        assert name_of("s.ablate", store, given, lengths)[0] == name
    compared(store, "s.ablate-2", other, (4, 9))
    assert name_of("s.ablate", store, other, None)[0] == "s.ablate-2"
    assert name_of("s.ablate", store, runs, None)[0] == "s.ablate"
    assert name_of("s.ablate", store, other, (4, 20))[0] == "s.ablate-3"
    # The study exists but has neither a plan nor trials.
    optuna.create_study(study_name="s.ablate-3", storage=open_storage(store, write=True))
    assert name_of("s.ablate", store, other, (4, 20))[0] == "s.ablate-3"


def compared(
    store: Store, name: str, runs: Mapping[str, RunConfig], lengths: tuple[int, ...]
) -> None:
    study = optuna.create_study(study_name=name, storage=open_storage(store, write=True))
    study.set_user_attr(
        "plan", {"study": {"ladder": {"lengths": list(lengths), "select": [lengths[0]]}}}
    )
    enqueue(StudyWriter(study), with_fresh_seeds(runs, 1))


@pytest.mark.parametrize("command", ["confirm", "ablate"])
def test_the_command_that_resumes_a_comparison_has_the_same_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("SABTUNE_DATA", raising=False)
    store, told = Store(tmp_path), []
    study = optuna.create_study(
        study_name="s", storage=open_storage(store, write=True), direction="maximize"
    )
    fill(study, [SAB.Config()])
    monkeypatch.setattr("sabtune.compare.run.study_file", lambda *_: None)
    monkeypatch.setattr(running, "run_comparison", lambda *given, **_: told.extend(given))
    top, own = ["--top", "1"], ["--changes", "form,k_att"]
    first, then = ([], own) if command == "ablate" else (top, [])
    words = [
        command,
        "s",
        *first,
        "--seeds",
        "2",
        *then,
        "--lengths",
        "4,9",
        "--store",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["sabtune", *words])
    with pytest.raises(SystemExit):
        sys.exit(cli.run())
    (again,) = [of for of in told if isinstance(of, str) and f" {command} s " in of]
    assert shlex.split(again)[shlex.split(again).index(command) :] == words


BASELINE = """
from sabtune.models import LSTM

def lstm(trial):
    train = TrainConfig(updates=120, batch_size=16, learning_rate=0.02, report_every=30)
    return TrialConfig(model=LSTM.Config(hidden=12), train=train)

BASELINES = {"lstm": lstm}
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_is_confirmed_and_its_winner_ablated(commands: Commands, tmp_path: Path) -> None:
    def sabtune(*arguments: object) -> str:
        """Run a command, check that it succeeds, and return its output."""
        done = commands(*arguments, cwd=tmp_path)
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    file = learnable(tmp_path)
    text = file.read_text().replace('{"good": 0.02, "bad": 1e-6, "mad": 3e38}', '{"good": 0.02}')
    file.write_text(text)
    sabtune("search", file, "--trials", 3)
    store = Store(tmp_path / "sabtune-store")
    searched = StudyRecord.open(store, "learnable").trials

    shown = sabtune("confirm", "learnable", "--top", 2, "--seeds", 2)
    study = StudyRecord.open(store, "learnable.confirm")
    trials = study.trials
    assert len(trials) == 4
    assert {trial.run.seed for trial in trials if trial.run} == {
        FRESH_SEED,
        FRESH_SEED + 1,
    }
    assert not {t.run.seed for t in trials if t.run} & {t.run.seed for t in searched if t.run}
    assert all(trial.spec and trial.spec.confirms for trial in trials)
    assert not any(trial.spec and trial.spec.confirms for trial in searched)
    best = StudyRecord.open(store, "learnable").leaderboard.ranked()[:2]
    expected = {c.best.run.model.label() for c in best if c.best.run}
    assert {t.run.model.label() for t in trials if t.run} == expected
    for trial in trials:
        assert [result.length for result in trial.test] == [2, 3, 6, 16]

    found = comparison(study)
    assert found is not None
    assert [group.n for group in found.groups] == [2, 2]
    for group in found.groups:
        assert group.name.startswith("SAB (k_top=")
        assert group.name in shown

    champion = StudyRecord.open(store, "learnable").registered.champion_version
    assert champion is not None
    assert (champion.contest, champion.seeds, champion.length) == ("learnable.confirm", 2, 16)
    assert f"Champion of learnable: {champion.words}" in shown
    registry = MlflowClient(store.mlflow_uri)
    version = registry.get_model_version_by_alias("learnable", "champion")
    assert version.tags["sabtune.number"] == str(champion.trial)
    assert version.tags["sabtune.confirmed_in"] == "learnable.confirm"
    with pytest.raises(MlflowException, match="not found"):
        registry.get_registered_model("learnable.confirm")

    # More seeds are added to the existing ones.
    sabtune("confirm", "learnable", "--top", 2, "--seeds", 3)
    after = StudyRecord.open(store, "learnable.confirm").trials
    assert after[:4] == trials
    assert len(after) == 6

    sabtune("ablate", "learnable", "--seeds", 1, "--lengths", "2,9")
    ablated = StudyRecord.open(store, "learnable.ablate").trials
    assert {trial.label for trial in ablated} >= {"winner", "k_top → all", "form → released"}
    assert all([result.length for result in trial.test] == [2, 9] for trial in ablated)
    # Runs that were interrupted before their start wait until they are requested again.
    opened = StudyWriter.open(store, "learnable.ablate")
    label = "form → released"
    run = next(trial.run for trial in ablated if trial.label == label)
    assert run is not None
    opened.enqueue(replace(run, seed=run.seed + 1), label=label)
    words = ("ablate", "learnable", "--seeds", 2, "--changes", "k_trunc")
    narrower = sabtune(*words)
    assert f"[{len(ablated) + 2} of {len(ablated) + 2}" in narrower
    added = opened.read().trials[len(ablated) :]
    assert [trial.label for trial in added] == ["winner", "k_trunc → full"]
    assert [trial.state for trial in added] == [TrialState.COMPLETE] * 2
    assert all([result.length for result in trial.test] == [2, 9] for trial in added)
    assert opened.read().waiting == [len(ablated)]
    page = sabtune("report", "learnable.ablate")
    assert "Established: " in page
    assert "Holm" in page
    assert "winner:" in page

    again = sabtune("reproduce", "learnable", 0)
    assert "Trial 0: all" in again

    file.write_text(text + BASELINE)
    ended = sabtune("search", file, "--baseline", "lstm", "--trials", 1)
    assert "Study learnable.lstm: 1 trial (" in ended
    sabtune("confirm", "learnable.lstm", "--top", 1, "--seeds", 1)
    (confirmed,) = StudyRecord.open(store, "learnable.lstm.confirm").trials
    assert confirmed.run is not None
    assert confirmed.run.model == LSTM.Config(hidden=12)


def test_a_study_without_its_file_is_compared_as_recorded(tmp_path: Path) -> None:
    store = unpacked(tmp_path)
    file = study_file(StudyRecord.open(store, "old"))
    assert file.study.ladder.lengths == (5, 10)
    assert file.study.name == "old"
    with pytest.raises(StudyFileError, match="needs the study's file, which is gone"):
        file.space(optuna.create_study().ask())
