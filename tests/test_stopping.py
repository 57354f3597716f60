"""Test the rules that end a search: their judgment, the searcher, and what says that they did."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from rich.console import Console, RenderableType
from scipy import stats

import sabtune as sab
from sabtune.api.opened import OpenStudy
from sabtune.compare.confirm import comparison_file
from sabtune.config import PARTS
from sabtune.errors import ConfigError, SabtuneError
from sabtune.reporting.data import ReportData
from sabtune.schema import to_dict
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.attributes import RETRY_OF
from sabtune.study.configurations import Leaderboard, Seeds
from sabtune.study.definition import Study, study_from_dict, study_to_dict
from sabtune.study.events import Outcome, Overview
from sabtune.study.listing import listed
from sabtune.study.loading import load
from sabtune.study.record import StudyRecord
from sabtune.study.stopping import NoImprovement, Solved, Stopping, StoppingRule, Target
from sabtune.study.study_file import StudyFile
from sabtune.study.summary import overview
from sabtune.study.trial_record import TrialRecord
from sabtune.study.trial_specs import TrialSpecs
from sabtune.study.writer import StudyWriter
from sabtune.terminal.status import status
from sabtune.terminal.studies import studies_page
from sabtune.terminal.summary import summary
from sabtune.tracking.search_run import description
from sabtune.training.evaluation import LengthResult
from sabtune.tuning import run
from sabtune.tuning.budget import Budget
from sabtune.tuning.run import Ending, search
from sabtune.tuning.searcher import StudySearcher
from sabtune.tuning.trainable import WorkerTask
from tests.doc_blocks import block
from tests.records import spec, trial
from tests.studies import learnable

START = datetime(2026, 1, 1)

LADDER = sab.Ladder(lengths=(4, 8), select=(4,))


def definition(**changes: Any) -> Study:
    return Study(name="s", task=sab.Copying.Config(length=4, symbols=1), ladder=LADDER, **changes)


def ended(
    number: int,
    score: float,
    configuration: int | None = None,
    *,
    minute: float | None = None,
    **changes: Any,
) -> TrialRecord:
    """Return a trial that ended at a minute, by default that of its number."""
    time = START + timedelta(minutes=number if minute is None else minute)
    return trial(number, configuration, score=score, ended=time, **changes)


def board(*trials: TrialRecord, seeds: Seeds | None = None) -> Leaderboard:
    return Leaderboard(seeds or Seeds()).add(trials)


def reason(rule: StoppingRule, *trials: TrialRecord, startup: int = 0, **options: Any) -> str:
    return rule.reason(board(*trials, **options), startup)


# --- definition


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stop": 20}, "stop is 20: give a value of type NoImprovement or"),
        ({"stop": "solved"}, "stop is 'solved': give a value of type NoImprovement or"),
        ({"stop": (Solved(seeds=1), 3)}, r"stop\[1\] is 3: give a value of type NoImprovement or"),
        ({"stop": Solved(seeds=3)}, r"stop is Solved\(seeds=3\): give seeds=Seeds\(most=3\) too"),
        (
            {"stop": Target(score=0.9), "seeds": Seeds(most=4)},
            r"Seeds\(most=5\) too, because the rule needs 5 seeds .* has at most 4; or a lower",
        ),
    ],
)
def test_a_study_refuses_what_is_no_rule_or_cannot_be_fulfilled(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as problem:
        definition(**changes)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("rule", "values", "told"),
    [
        (NoImprovement, {"configurations": 0}, "configurations is 0: give a whole number of at"),
        (NoImprovement, {}, "NoImprovement lacks the key 'configurations'"),
        (Solved, {"seeds": 1.5}, "seeds is 1.5: give a whole number"),
        (Target, {"score": 1.01}, "score is 1.01: give a score of at most 1"),
        (Target, {"score": 0.9, "share": 1}, "share is 1.0: give a number between 0 and 1"),
        (Target, {"score": 0.9, "confidence": 0}, "confidence is 0.0: give a number between"),
        (Target, {"score": math.nan}, "score is nan: give a finite number"),
    ],
)
def test_a_rule_refuses_values_out_of_range(
    rule: type[StoppingRule], values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        rule(**values)


@pytest.mark.parametrize(
    "stop",
    [
        NoImprovement(configurations=20),
        (Target(score=0.5, share=0.2, confidence=0.6), Solved(seeds=2)),
        (),
    ],
)
def test_a_stored_study_has_its_rules(stop: Any) -> None:
    study = definition(stop=stop, seeds=Seeds(most=5))
    again = study_from_dict(json.loads(json.dumps(study_to_dict(study))))
    assert again == study
    assert again.rules == (stop if isinstance(stop, tuple) else (stop,))


def test_a_study_without_rules_is_stored_as_version_0_1_stored_it() -> None:
    study = definition()
    stored = study_to_dict(study)
    assert "stop" not in stored
    assert stored == {key: v for key, v in to_dict(study, PARTS).items() if key != "stop"}
    assert study_from_dict(stored).rules == ()


def test_an_unknown_stored_rule_is_named() -> None:
    stored = study_to_dict(definition(stop=Solved(seeds=1)))
    with pytest.raises(ConfigError, match=r"study\.stop\.kind is 'luck': known: no_improvement"):
        study_from_dict(stored | {"stop": {"kind": "luck"}})


def test_the_example_of_the_documentation() -> None:
    names: dict[str, Any] = {}
    text = block("studies.md", "import sabtune as sab\n\nsab.Study")
    exec(text.replace("sab.Study", "study = sab.Study"), names)
    assert [type(rule).__name__ for rule in names["study"].rules] == ["NoImprovement", "Solved"]


# --- no improvement


def test_it_counts_the_configurations_after_the_best_one() -> None:
    rule = NoImprovement(configurations=2)
    first = [ended(0, 0.4), ended(1, 0.6), ended(2, 0.5)]
    assert reason(rule, *first) == ""
    assert reason(rule, *first, ended(3, 0.7)) == ""
    assert reason(rule, *first, ended(3, 0.6)) == (  # as good is no better
        "no better configuration within 2 configurations (best #1, score 0.600)"
    )


def test_without_a_complete_trial_it_holds_never() -> None:
    pruned = [ended(n, 0.1, state=TrialState.PRUNED) for n in range(9)]
    assert reason(NoImprovement(configurations=2), *pruned) == ""
    assert reason(NoImprovement(configurations=2)) == ""


def test_pruned_configurations_count_and_failed_and_rejected_ones_do_not() -> None:
    rule = NoImprovement(configurations=2)
    rejected = trial(3, score=0.0, state=TrialState.PRUNED, spec=None, ended=START)
    trials = [ended(0, 0.9), ended(1, 0.0, state=TrialState.FAIL), ended(2, 0.2), rejected]
    assert reason(rule, *trials) == ""
    assert reason(rule, *trials, ended(4, 0.1, state=TrialState.PRUNED))


def test_running_trials_do_not_count() -> None:
    rule = NoImprovement(configurations=2)
    assert reason(rule, ended(0, 0.9), ended(1, 0.1), trial(2)) == ""


def test_the_first_trials_which_are_random_do_not_count() -> None:
    rule = NoImprovement(configurations=2)
    trials = [ended(0, 0.9), ended(1, 0.1), ended(2, 0.1), ended(3, 0.1)]
    assert reason(rule, *trials, startup=3) == ""
    assert reason(rule, *trials, startup=2)
    assert definition(startup=7).random_trials == 7
    assert definition(startup=7, sampler="random").random_trials == 0


def test_the_order_is_that_of_the_ends() -> None:
    """Check a best trial that started first and ended last."""
    rule = NoImprovement(configurations=2)
    others = [ended(1, 0.1), ended(2, 0.1), ended(3, 0.1)]
    assert reason(rule, ended(0, 0.9, minute=9), *others) == ""
    assert reason(rule, ended(0, 0.9, minute=9), *others, ended(4, 0.2, minute=10)) == ""
    assert reason(rule, ended(0, 0.9, minute=1.5), *others)


def test_seeds_of_a_configuration_count_once_when_the_first_ones_have_ended() -> None:
    rule, seeds = NoImprovement(configurations=2), Seeds(first=2, most=3)
    best = [ended(0, 0.9, 0), ended(1, 0.8, 0)]
    half = [*best, ended(2, 0.1, 2), ended(3, 0.1, 2), ended(4, 0.1, 4), trial(5, 4)]
    assert reason(rule, *half, seeds=seeds) == ""
    whole = [*half[:-1], ended(5, 0.1, 4)]
    assert reason(rule, *whole, seeds=seeds).endswith("(best #0, mean score 0.850 over 2 seeds)")
    assert reason(rule, *whole[:-2], ended(4, 0.1, 2), seeds=seeds) == ""


def test_a_further_seed_of_the_best_configuration_is_no_new_one() -> None:
    rule, seeds = NoImprovement(configurations=2), Seeds(most=3)
    trials = [ended(0, 0.9), ended(1, 0.1), ended(2, 0.2)]
    assert reason(rule, *trials, ended(3, 0.9, 0), seeds=seeds)


def test_a_configuration_that_another_one_overtakes_is_not_the_best() -> None:
    """Check that a bad second seed makes an earlier configuration the best again."""
    rule, seeds = NoImprovement(configurations=3), Seeds(most=2)
    trials = [ended(0, 0.8), ended(1, 0.1), ended(2, 0.1), ended(3, 0.9)]
    assert reason(rule, *trials, seeds=seeds) == ""
    assert "best #0" in reason(rule, *trials, ended(4, 0.0, 3), seeds=seeds)


def test_a_trial_that_breaks_a_constraint_is_no_improvement() -> None:
    rule = NoImprovement(configurations=2)
    infeasible = ended(2, 0.95, constraints={"memory": 1.0})
    assert "best #0" in reason(rule, ended(0, 0.9), ended(1, 0.1), infeasible)


@pytest.mark.parametrize("seed", range(5))
def test_a_live_judgment_is_that_of_the_record_and_of_a_plain_count(seed: int) -> None:
    """Compare with a count over the trials in the order of their ends, one seed for each."""
    draw = random.Random(seed)
    scores = [draw.choice([0.1, 0.2, 0.3, 0.5, 0.7, 0.9]) for _ in range(60)]
    states = draw.choices(
        [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL], [5, 4, 1], k=60
    )
    trials = [ended(n, s, state=w) for n, (s, w) in enumerate(zip(scores, states, strict=True))]
    rule, live = NoImprovement(configurations=8), board()
    stopping = Stopping([rule], 5, live)
    best, since = None, 0
    for number, each in enumerate(trials):
        live.start(number)
        live.end(each)
        if each.state == TrialState.COMPLETE and (best is None or each.score > best):
            best, since = each.score, 0
        elif each.state != TrialState.FAIL and number >= 5 and best is not None:
            since += 1
        assert bool(stopping.reason) == (best is not None and since >= 8), number
        recorded = Stopping([rule], 5, board(*trials[: number + 1]))
        assert recorded.fulfilled == stopping.fulfilled


def costly(number: int, score: float, cost: float, **changes: Any) -> TrialRecord:
    return ended(number, score, values=[score, cost], **changes)


def test_with_several_objectives_the_pareto_front_is_improved() -> None:
    rule = NoImprovement(configurations=2)
    trials = [costly(0, 0.9, 5.0), costly(1, 0.5, 1.0), costly(2, 0.4, 2.0)]
    assert reason(rule, *trials) == ""
    assert "Pareto front is #1" in reason(rule, *trials, costly(3, 0.9, 5.0))
    assert reason(rule, *trials, costly(3, 0.6, 1.5)) == ""


def test_the_pareto_front_is_that_of_optuna() -> None:
    draw = random.Random(0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    trials = []
    for number in range(80):
        values = [draw.randint(0, 6) / 6 for _ in range(3)]
        study.add_trial(optuna.trial.create_trial(values=values))
        trials.append(ended(number, values[0], values=values))
    distinct = {tuple(best.values) for best in study.best_trials}
    assert {tuple(each.values) for each in board(*trials).front} == distinct


# --- a target, and solved seeds


def of_seeds(scores: Sequence[float], **changes: Any) -> list[TrialRecord]:
    """Return the seeds of configuration 0."""
    return [ended(number, score, 0, **changes) for number, score in enumerate(scores)]


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.9])
def test_a_target_is_judged_by_the_exact_bound(share: float, confidence: float) -> None:
    rule = Target(score=0.8, share=share, confidence=confidence)
    for n in range(1, 16):
        bounds = []
        for reached in range(n + 1):
            exact = stats.binomtest(reached, n, alternative="greater")
            bound = exact.proportion_ci(confidence, method="exact").low
            bounds.append(bound >= share - 1e-9)  # it may be equal, but for rounding
            trials = of_seeds([0.8] * reached + [0.79] * (n - reached))
            assert bool(reason(rule, *trials)) == bounds[-1], (reached, n)
        assert any(bounds) == (n >= rule.least_seeds)


def test_only_complete_feasible_trials_reach_a_target_and_all_count_as_seeds() -> None:
    rule = Target(score=0.8, share=0.5, confidence=0.75)
    assert rule.least_seeds == 2
    good = of_seeds([0.9, 0.9])
    assert reason(rule, *good) == (
        "a score of 0.8 with at least 50% of the seeds of one configuration, at 75% confidence "
        "(#0, 2 of 2 seeds)"
    )
    for other in (
        ended(2, 0.9, 0, state=TrialState.PRUNED),
        ended(2, 0.0, 0, state=TrialState.FAIL),
        ended(2, 0.9, 0, constraints={"memory": 1.0}),
    ):
        assert reason(rule, *good, other) == ""
    assert reason(rule, ended(0, 0.9), ended(1, 0.9)) == ""  # two configurations


def test_enough_solved_seeds_of_one_configuration() -> None:
    rule = Solved(seeds=2)
    solved: dict[str, Any] = {"accuracy": 1.0}
    trials = of_seeds([0.9, 0.2], **solved)
    assert reason(rule, trials[0], ended(1, 0.9, **solved)) == ""
    assert reason(rule, trials[0], ended(1, 0.9, 0, accuracy=0.98)) == ""
    assert reason(rule, trials[0], ended(1, 0.9, 0, constraints={"m": 1.0}, **solved)) == ""
    told = reason(rule, *trials, ended(2, 0.1, 0))
    assert told == "2 solved seeds of one configuration (#0, 2 of 3 seeds)"


def test_the_first_fulfilled_rule_is_the_reason() -> None:
    rules = [NoImprovement(configurations=5), Solved(seeds=1), NoImprovement(configurations=1)]
    stopping = Stopping(rules, 0, board(ended(0, 0.9, accuracy=1.0), ended(1, 0.1)))
    assert stopping.fulfilled[0] == "solved"
    assert Stopping(rules[:1], 0, board(ended(0, 0.9))).fulfilled == ("", "")


# --- the searcher


def file_with(folder: Path, **changes: Any) -> StudyFile:
    file = load(learnable(folder))
    values: dict[str, Any] = {"startup": 1, "sampler": "random", "pruning": None, "trials": 20}
    study = dataclasses.replace(file.study, **(values | changes))
    return dataclasses.replace(file, study=study)


class Trials:
    """A searcher with the trials that run, which the test ends."""

    def __init__(self, file: StudyFile, study: optuna.Study, folder: Path):
        self.writer, self.said = StudyWriter(study), list[str]()
        known = StudyRecord(study).trials
        self.board = Leaderboard(file.study.seeds).add(known)
        self.searcher = StudySearcher(
            self.writer,
            TrialSpecs(file, known, Folder.at(folder) / "code"),
            self.board,
            Folder.at(folder),
            Budget(),
            stopping=Stopping(file.study.rules, file.study.random_trials, self.board),
            say=self.said.append,
        )
        self.ids: dict[int, str] = {}

    def start(self) -> int | str | None:
        """Return the number of the next trial, or what the searcher returns instead."""
        name = f"tune-{len(self.ids)}"
        config = self.searcher.suggest(name)
        if not isinstance(config, dict):
            return config
        number = WorkerTask.from_config(config).spec.number
        self.ids[number] = name
        return number

    def end(self, number: object, score: float | None, accuracy: float = 0.5) -> None:
        """End a trial; without a score, it fails."""
        assert isinstance(number, int)
        results = [
            LengthResult(length=n, accuracy=accuracy, loss=0, sequences=8) for n in (2, 4, 8)
        ]
        state = "FAIL" if score is None else "COMPLETE"
        outcome = Outcome(state=state, ladder=results, test=results)  # type: ignore[arg-type]
        values = None if score is None else [score]
        self.searcher.on_trial_complete(self.ids.pop(number))
        self.board.end(self.writer.end(self.writer.reopen(number), outcome, values))


def test_the_search_ends_when_a_rule_holds_and_no_trial_runs(tmp_path: Path) -> None:
    file = file_with(tmp_path, stop=NoImprovement(configurations=2), seeds=Seeds())
    file = dataclasses.replace(file, space=distinct(file))
    study = optuna.create_study(direction="maximize")
    trials = Trials(file, study, tmp_path)
    running = [trials.start() for _ in range(4)]
    for number, score in zip(running[:3], (0.9, 0.1, 0.2), strict=True):
        trials.end(number, score)
    assert trials.start() is None  # trial 3 runs
    assert trials.start() is None
    (line,) = trials.said
    assert line == (
        "No new configurations: no better configuration within 2 configurations "
        "(best #0, score 0.900). 1 trial will end first."
    )
    trials.end(running[3], 0.3)
    assert trials.start() == Searcher.FINISHED
    assert len(study.trials) == 4
    again = Trials(file, study, tmp_path)  # a resumed search judges alike
    assert again.start() == Searcher.FINISHED
    assert again.said == []


def test_the_search_goes_on_if_a_running_trial_is_an_improvement(tmp_path: Path) -> None:
    file = file_with(tmp_path, stop=NoImprovement(configurations=2))
    file = dataclasses.replace(file, space=distinct(file))
    trials = Trials(file, optuna.create_study(direction="maximize"), tmp_path)
    running = [trials.start() for _ in range(4)]
    for number, score in zip(running[:3], (0.8, 0.1, 0.2), strict=True):
        trials.end(number, score)
    assert trials.start() is None
    trials.end(running[3], 0.9)
    assert trials.start() == 4
    assert trials.said[1] == "The search goes on: a trial that ran was an improvement."


def test_unfinished_trials_and_repetitions_run_although_a_rule_holds(tmp_path: Path) -> None:
    file = file_with(tmp_path, stop=Solved(seeds=1))
    study = optuna.create_study(direction="maximize")
    first = Trials(file, study, tmp_path)
    running = [first.start() for _ in range(3)]
    first.end(running[0], 0.9, accuracy=1.0)
    first.end(running[1], None)
    assert first.start() is None  # interrupted here, while trial 2 runs
    study.enqueue_trial({"rate": "bad", "k_top": 2})  # as a warm start would
    run.enqueue_failed(StudyWriter(study))
    assert RETRY_OF in study.get_trials()[4].user_attrs
    resumed = Trials(file, study, tmp_path)
    assert [resumed.start() for _ in range(3)] == [2, 4, None]
    resumed.end(2, 0.1)
    resumed.end(4, 0.1)
    assert resumed.start() == Searcher.FINISHED
    assert StudyRecord(study).waiting == [3]


def test_without_rules_the_search_makes_all_trials(tmp_path: Path) -> None:
    trials = Trials(file_with(tmp_path), optuna.create_study(direction="maximize"), tmp_path)
    for _ in range(8):
        trials.end(trials.start(), 0.1, accuracy=1.0)
    assert trials.start() == 8


def distinct(file: StudyFile) -> Any:
    """Return a space that never returns a configuration twice."""

    def space(trial: optuna.Trial) -> sab.TrialConfig:
        config = file.space(trial)
        rate = trial.suggest_float("own_rate", 1e-3, 1e-2)
        return dataclasses.replace(
            config, train=dataclasses.replace(config.train, learning_rate=rate)
        )

    return space


# --- the end of a search, and what shows it

RULE = NoImprovement(configurations=2)

WORDS = "no better configuration within 2 configurations (best #0, score 0.900)"


class RayStartedError(SabtuneError):
    """Raised in place of starting Ray."""


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudyFile, Store]:
    """Return a file with a rule, and a store with a study of it that fulfills the rule."""

    def start_ray(*_: object) -> str:
        raise RayStartedError

    monkeypatch.setattr(run, "made_whole", lambda *_: "")
    monkeypatch.setattr(run, "_run_on_ray", start_ray)
    file, store = file_with(tmp_path, stop=RULE), Store(tmp_path / "store").made()
    file = dataclasses.replace(file, space=distinct(file))
    study = run.open_or_create(file, store)
    trials = Trials(file, study.optuna, tmp_path)
    for score in (0.9, 0.1, 0.2):
        trials.end(trials.start(), score)
    assert trials.start() == Searcher.FINISHED
    return file, store


def test_a_search_that_runs_again_says_which_rule_ended_it(
    stopped: tuple[StudyFile, Store],
) -> None:
    file, store = stopped
    for _ in range(2):
        assert search(file, store) == Ending(complete=True, stopped=WORDS)
    assert StudyRecord.open(store, "learnable").stopped_by == WORDS


@pytest.mark.parametrize(
    "changes",
    [{"stop": None}, {"stop": NoImprovement(configurations=3)}, {"stop": (), "trials": 30}],
)
def test_another_rule_lets_the_search_go_on(
    stopped: tuple[StudyFile, Store], changes: dict[str, Any]
) -> None:
    file, store = stopped
    assert search(file, store).stopped
    study = dataclasses.replace(file.study, **changes)
    with pytest.raises(RayStartedError):
        search(dataclasses.replace(file, study=study), store)
    record = StudyRecord.open(store, "learnable")
    assert record.definition is not None
    assert record.definition.stop == changes["stop"]
    assert record.stopped_by == ""  # until a rule ends it again
    with pytest.raises(RayStartedError):
        search(file.without_rules(), store)
    assert search(file, store).stopped == WORDS


def test_a_study_with_all_of_its_trials_is_complete_without_a_rule(
    stopped: tuple[StudyFile, Store],
) -> None:
    file, store = stopped
    assert search(file.with_limits(trials=3, seed=None), store) == Ending(complete=True)


def test_the_runs_of_a_comparison_are_not_stopped(stopped: tuple[StudyFile, Store]) -> None:
    file, store = stopped
    study = StudyWriter.open(store, "learnable")
    specs = TrialSpecs(file, study.read().trials, store.code)
    enqueued = run.EnqueuedTrials(numbers=[], specs=specs)
    with pytest.raises(RayStartedError):
        run.execute(study, file, store, (), trials=4, enqueued=enqueued)


def test_a_comparison_has_no_rule_and_a_baseline_has_that_of_its_file(tmp_path: Path) -> None:
    path = learnable(tmp_path)
    text = path.read_text().replace(
        "startup=8,", "startup=8, stop=NoImprovement(configurations=2),"
    )
    text = f"from sabtune import NoImprovement\n{text}\nBASELINES = {{'same': space}}\n"
    path.write_text(text)
    file = load(path)
    assert load(path, "same").study.rules == file.study.rules == (RULE,)
    compared = comparison_file("c", file, {"run": spec().run}, None, None)
    assert compared.study.rules == ()


def printed(page: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(page)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_everything_that_shows_a_study_has_the_rule(stopped: tuple[StudyFile, Store]) -> None:
    file, store = stopped
    (before,) = listed(store)
    assert not before.complete
    search(file, store)
    (entry,) = listed(store)
    assert entry.complete
    record = StudyRecord.open(store, "learnable")
    assert "complete, no improvement" in printed(studies_page("x", [entry], (), START))
    assert f"The last one was ended by {WORDS}." in printed(status(record, alive=False))
    assert f"Ended by {WORDS}." in printed(summary(record))
    assert ReportData(study=record, comparisons={}).counts.endswith(f"; ended by {WORDS}")
    shown: Overview = overview(record, complete=True)
    assert "ends early by no better configuration within 2 configurations" in shown.budget
    assert f"**Ended by:** {WORDS}" in description(shown)
    opened = OpenStudy("learnable", store)
    assert opened.stopped_by == WORDS
    assert f"<p>Ended by {WORDS}.</p>" in opened._repr_html_()
