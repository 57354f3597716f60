"""Test a trial: its measurements, resuming and limits."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from sabtune import manifest
from sabtune.errors import CheckpointError, ConfigError, LimitError
from sabtune.manifest import PROGRESS
from sabtune.models import SAB
from sabtune.schedule import Constant, Linear, Schedule
from sabtune.seeding import Stream
from sabtune.tasks import Pixels, Source
from sabtune.training import evaluation
from sabtune.training.evaluation import Begun, Ladder, LengthResult, measure_ladder, measure_on
from sabtune.training.trial import (
    FILE,
    FORMAT,
    Limits,
    Progress,
    TrialRun,
    TrialSpec,
    load_history,
)
from tests.checkpoints import of_format, seal
from tests.records import spec
from tests.stores import unpacked


def unclocked(history: list[Progress]) -> list[Progress]:
    """Return the history without numbers that depend on the clock or the process."""
    return [
        dataclasses.replace(
            progress,
            seconds=0.0,
            memory=0.0,
            report=dataclasses.replace(progress.report, updates_per_second=0.0),
        )
        for progress in history
    ]


def test_reports_measure_selection_lengths_and_the_end_measures_all() -> None:
    first, last = TrialRun(spec())
    assert [result.length for result in first.ladder] == [4]
    assert not first.finished
    assert not first.test
    assert [result.length for result in last.ladder] == [4, 8]
    assert [result.length for result in last.test] == [4, 8]
    assert last.finished
    assert last.ladder != last.test  # measured on other sequences


def test_a_comparison_uses_its_own_test_sequences() -> None:
    run = TrialRun(spec(confirms=True))
    (*_, last), (*_, searched) = run, TrialRun(spec())
    assert last.test != searched.test
    assert last.ladder == searched.ladder
    kept = {"sequences": 8, "seed": 0, "stream": Stream.CONFIRMATION}
    assert last.test == measure_ladder(run.training.model, run.training.task, (4, 8), **kept)  # type: ignore[arg-type]


def test_training_selection_and_tests_use_distinct_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Stream] = []

    def spy(self: Pixels, length: int, stream: Stream, *others: Any) -> Source:
        asked.append(stream)
        return real(self, length, stream, *others)

    real = Pixels.batches
    monkeypatch.setattr(Pixels, "batches", spy)
    run = dataclasses.replace(spec().run, task=Pixels.Config(by="row", length=8))
    ladder = Ladder(lengths=(8, 16), select=(8,), sequences=500)
    for confirms, last in ((False, Stream.TEST), (True, Stream.CONFIRMATION)):
        asked.clear()
        (*_, progress) = TrialRun(spec(run=run, ladder=ladder, confirms=confirms))
        assert set(asked) == {Stream.TRAINING, Stream.SELECTION, last}
        # Each image is used once, even if more sequences are requested.
        assert [result.sequences for result in progress.ladder] == [200, 200]
        assert progress.test[0].sequences == (300 if confirms else 200)


def test_a_resumed_trial_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    run = TrialRun(spec())
    next(iter(run))
    run.save(tmp_path)
    again = TrialRun.resume(spec(), tmp_path)
    assert again.history == run.history
    list(again)
    whole = TrialRun(spec())
    list(whole)
    assert unclocked(again.history) == unclocked(whole.history)
    assert again.history[-1].seconds > run.history[-1].seconds


def test_a_resumed_finished_trial_repeats_its_last_report(tmp_path: Path) -> None:
    run = TrialRun(spec())
    history = list(run)
    run.save(tmp_path)
    assert list(TrialRun.resume(spec(), tmp_path)) == history[-1:]


def test_a_trial_past_a_limit_fails_with_the_value_and_a_remedy() -> None:
    for limits, message in (
        (Limits(hours=1e-9), r"h at 10 updates is past the trial's limit of 1e-09 h: raise"),
        (Limits(memory=1e-3), r"GiB at 10 updates is past the trial's limit of 0.001 GiB: raise"),
    ):
        with pytest.raises(LimitError, match=message):
            next(iter(TrialRun(spec(limits=limits))))


def test_time_before_an_interruption_counts_towards_the_limit(tmp_path: Path) -> None:
    run = TrialRun(spec())
    next(iter(run))
    run._earlier_seconds = 7200.0  # the time of earlier attempts
    run.save(tmp_path)
    with pytest.raises(LimitError, match=r"^2 h at 20 updates"):
        list(TrialRun.resume(spec(limits=Limits(hours=1)), tmp_path))


def test_specs_and_progress_survive_a_round_trip() -> None:
    made = spec(3, 1, limits=Limits(hours=2), confirms=True)
    assert TrialSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    for progress in TrialRun(spec()):
        again = Progress.from_dict(json.loads(json.dumps(progress.to_dict())))
        assert again.to_dict() == progress.to_dict()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"history": [{}]}', '{"assignment": {}}'])
def test_a_damaged_history_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"trial\.json can't be read"):
        load_history(tmp_path)


PAUSES: dict[str, Callable[[TrialRun], bool]] = {
    "while training": lambda run: bool(run.history and run.training.stretch.updates),
    "while measuring": lambda run: bool(run.history and run.begun.done),
}


def paused(directory: Path, pause: str) -> TrialRun:
    """Return a trial that paused at `pause` after its first report, saved in `directory`."""
    run = TrialRun(spec())
    stretches = run.stretches(lambda: True)
    while not PAUSES[pause](run):
        next(stretches)
    run.save(directory)
    return run


def as_of_an_older_version(trial: dict[str, Any], progress: dict[str, Any]) -> None:
    """Remove keys whose values in this checkpoint are the defaults."""
    for key in ("limits", "confirms", "configuration"):
        del trial["assignment"][key]
    for key in ("phases", "solved_reports"):
        del trial["assignment"]["ladder"][key]
    for key in ("test", "finished", "solved"):
        del trial["history"][0][key]
    for key in ("by_phase", "seconds"):
        del trial["history"][0]["ladder"][0][key]
    del trial["begun"]["seconds"]
    if not trial["begun"]["tallies"]:
        del trial["begun"], trial["rungs"], trial["report"]
    for key in ("in_a_row", "far"):
        del progress[key]
    for key in ("skipped", "seconds"):
        del progress["stretch"][key]
    del trial["seconds"], trial["memory"]


def as_of_a_newer_version(trial: dict[str, Any], progress: dict[str, Any]) -> None:
    """Add an unknown key to every part that may have one."""
    first = trial["history"][0]
    for part in (
        trial,
        trial["assignment"],
        trial["assignment"]["limits"],
        trial["assignment"]["ladder"],
        first,
        first["report"],
        first["ladder"][0],
        trial["report"] or {},
        trial["begun"],
        *trial["begun"]["tallies"],
        progress,
        progress["stretch"],
        progress["stretch"]["tally"],
    ):
        part["of_another_version"] = {"x": 1}


@pytest.mark.parametrize("change", [as_of_an_older_version, as_of_a_newer_version])
@pytest.mark.parametrize("pause", PAUSES)
def test_a_checkpoint_of_another_version_is_resumed_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: str, change: Callable[..., None]
) -> None:
    monkeypatch.setattr(evaluation, "BATCH_STEPS", 24)  # less than all sequences in a batch
    run = paused(tmp_path, pause)
    files = {path: json.loads(path.read_text()) for path in (tmp_path / FILE, tmp_path / PROGRESS)}
    change(*files.values())
    for path, content in files.items():
        path.write_text(json.dumps(content))
    seal(tmp_path)
    resumed = TrialRun.resume(spec(), tmp_path)
    assert resumed.training.step == run.training.step
    assert resumed.results == run.results
    assert resumed.begun.done == run.begun.done
    list(resumed)
    whole = TrialRun(spec())
    list(whole)
    assert unclocked(resumed.history) == unclocked(whole.history)
    for name, tensor in whole.training.model.state_dict().items():
        assert torch.equal(resumed.training.model.state_dict()[name], tensor), name


def test_an_unknown_key_of_the_configuration_is_refused(tmp_path: Path) -> None:
    """Check an unknown key of the training, which might change the results."""
    run = paused(tmp_path, "while training")
    content = json.loads((tmp_path / FILE).read_text())
    content["assignment"]["run"]["trial"]["train"]["momentum"] = 0.9
    (tmp_path / FILE).write_text(json.dumps(content))
    seal(tmp_path)
    with pytest.raises(CheckpointError, match="has no key 'momentum'"):
        TrialRun.resume(run.spec, tmp_path)


def test_a_file_of_version_0_1_is_read(tmp_path: Path) -> None:
    checkpoint = unpacked(tmp_path).root / "trials" / "old" / "0000" / "checkpoint_000001"
    assert "format" not in json.loads((checkpoint / FILE).read_text())
    history = load_history(checkpoint)
    assert history[-1].finished
    assert history[-1].test[0].worst_phase is None


@pytest.mark.parametrize(("name", "number"), [(FILE, FORMAT), (PROGRESS, manifest.FORMAT)])
def test_a_file_of_a_later_format_is_refused_with_the_remedy(
    tmp_path: Path, name: str, number: int
) -> None:
    run = TrialRun(spec())
    next(iter(run))
    run.save(tmp_path)
    content = json.loads((tmp_path / name).read_text()) | {"format": number + 1}
    (tmp_path / name).write_text(json.dumps(content))
    seal(tmp_path)
    with pytest.raises(CheckpointError, match=f"format {number + 1}.*a newer one") as refused:
        TrialRun.resume(spec(), tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [0, -1.0])
def test_bad_limits(value: float) -> None:
    with pytest.raises(ConfigError, match="hours is"):
        Limits(hours=value)


def test_a_trial_with_pauses_gives_the_same_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is saved after every update and every batch and resumed from the files."""
    monkeypatch.setattr(evaluation, "BATCH_STEPS", 24)  # less than all sequences in a batch
    run, pauses = TrialRun(spec()), 0
    for at in range(1000):
        progress = next(run.stretches(lambda: True))
        pauses += progress is None
        run.save(tmp_path / str(at))
        assert load_history(tmp_path / str(at)) == run.history
        if progress is not None and progress.finished:
            break
        run = TrialRun.resume(spec(), tmp_path / str(at))
    assert pauses > 18 + 3 + 4  # 20 updates, 2 with a report; the last measures 4 lengths
    whole = TrialRun(spec())
    list(whole)
    assert unclocked(run.history) == unclocked(whole.history)


def test_a_resumed_trial_does_not_measure_a_length_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrialRun(spec())
    next(run.stretches())
    while run.report is None:
        next(run.stretches(lambda: run.training.progress >= 1))
    run.save(tmp_path)
    resumed = TrialRun.resume(spec(), tmp_path)
    measured = list[int]()

    def spy(model: Any, task: Any, length: int, **others: Any) -> LengthResult | Begun:
        measured.append(length)
        return measure_on(model, task, length, **others)

    monkeypatch.setattr("sabtune.training.trial.measure_on", spy)
    (last,) = resumed
    assert measured == [8, 4, 8]
    whole = TrialRun(spec())
    assert unclocked([last]) == unclocked(list(whole)[1:])


def test_time_before_a_pause_is_kept(tmp_path: Path) -> None:
    run = TrialRun(spec())
    assert next(run.stretches(lambda: True)) is None
    run._earlier_seconds = 7200.0
    run.save(tmp_path)
    (first, _) = TrialRun.resume(spec(), tmp_path)
    assert first.seconds > 7200


class Reads:
    """Fake measurements that read accuracies from a table, one row per report."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *rows: tuple[float, ...]):
        self.rows, self.reports = rows, -1
        self.tested: float | None = None  # the accuracy on test sequences, if it differs
        monkeypatch.setattr("sabtune.training.trial.measure_on", self.read)

    def read(self, model: Any, task: Any, length: int, **of: Any) -> LengthResult:
        selects = of["stream"] == Stream.SELECTION
        self.reports += selects and length == 4
        row = self.rows[min(self.reports, len(self.rows) - 1)]
        accuracy = row[(4, 8, 16).index(length)]
        if self.tested is not None and not selects:
            accuracy = self.tested
        return LengthResult(length=length, accuracy=accuracy, loss=0.0, sequences=1)


def ten(solved_reports: int | None, schedule: Schedule | None = None) -> TrialSpec:
    """Return a trial of ten updates that reports after each."""
    run = spec().run
    model = SAB.Config(hidden=4, k_top=2, schedule=schedule or Constant())
    train = dataclasses.replace(run.train, updates=10, report_every=1)
    return spec(
        run=dataclasses.replace(run, model=model, train=train),
        ladder=Ladder(
            lengths=(4, 8, 16), select=(4, 8), sequences=8, solved_reports=solved_reports
        ),
    )


@pytest.mark.parametrize(
    ("solved_reports", "step"), [(1, 2), (2, 5), (3, 6), (4, 10), (None, 10)], ids=str
)
def test_a_trial_ends_after_enough_reports_with_solved_selection_lengths(
    monkeypatch: pytest.MonkeyPatch, solved_reports: int | None, step: int
) -> None:
    no, yes = (0.99, 0.98, 0.0), (0.99, 1.0, 0.5)  # solved at 0.99 or more at lengths 4 and 8
    Reads(monkeypatch, no, yes, no, yes, yes, yes, no)
    *before, last = TrialRun(ten(solved_reports))
    assert last.report.step == step
    assert last.finished
    assert not any(progress.finished for progress in before)
    solved = [progress.solved for progress in (*before, last)]
    known = [False, True, False, True, True, True, False, False, False, False]
    assert solved == (known[:step] if solved_reports else [False] * step)
    assert [result.length for result in last.ladder] == [4, 8, 16]
    assert [result.length for result in last.test] == [4, 8, 16]


def test_only_selection_sequences_decide_whether_a_trial_is_solved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check a trial whose test sequences have another accuracy at the same lengths."""
    table = Reads(monkeypatch, (1.0, 1.0, 1.0))
    table.tested = 0.5
    (last,) = TrialRun(ten(1))
    assert last.finished
    assert [result.accuracy for result in last.test] == [0.5] * 3


def test_a_solved_trial_continues_until_its_schedule_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Reads(monkeypatch, (1.0, 1.0, 1.0))
    schedule = Linear(start=6, share=0.5)
    *_, last = TrialRun(ten(1, schedule))
    assert last.report.step == 5


def scheduled(k_top: Literal["final", "scheduled"] | None) -> TrialSpec:
    """Return a trial of four reports whose attention is dense for most of the first three."""
    given = spec()
    model = SAB.Config(
        hidden=12, k_top=1, k_att=1, k_trunc=3, schedule=Linear(start="all", share=0.75)
    )
    train = dataclasses.replace(given.run.train, updates=40, learning_rate=0.05)
    run = dataclasses.replace(given.run, model=model, train=train)
    ladder = Ladder(lengths=(4, 8), select=(4, 8), sequences=64, k_top=k_top)
    return dataclasses.replace(given, run=run, ladder=ladder)


def test_scores_use_the_final_k_top() -> None:
    """Check the scores of every report, and that measuring doesn't change the training."""
    final, before, asked = (TrialRun(scheduled(which)) for which in ("final", "scheduled", None))
    different = 0
    for a, b, c in zip(final, before, asked, strict=True):
        assert a.report.in_force == b.report.in_force
        assert a.ladder == c.ladder
        (model, other) = (run.training.model for run in (final, before))
        assert model.in_force() == other.in_force()  # used by the next updates
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])
        for k_top, run, told in ((1.0, final, a), (final.training.progress, before, b)):
            copied = copy.deepcopy(run.training.model)
            copied.set_progress(k_top)
            results = measure_ladder(
                copied,
                run.training.task,
                (4, 8),
                sequences=64,
                seed=0,
                stream=Stream.SELECTION,
            )
            assert list(told.ladder) == results
        different += a.ladder != b.ladder
    assert different >= 2
    assert list(final.history[-1].test) == list(before.history[-1].test)


def test_a_pause_while_the_final_k_top_is_measured_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluation, "BATCH_STEPS", 100)
    given = scheduled("final")
    whole = TrialRun(given)
    expected = unclocked(list(whole))
    run, pauses = TrialRun(given), 0
    while True:
        paused = next(run.stretches(should_pause=lambda: True))
        if paused is None:
            pauses += 1
            run.save(tmp_path / str(pauses))
            run = TrialRun.resume(given, tmp_path / str(pauses))
        elif paused.finished:
            break
    assert pauses > 20
    assert unclocked(run.history) == expected


def test_a_trial_that_ended_early_stays_ended_when_resumed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Reads(monkeypatch, (1.0, 1.0, 1.0))
    given = ten(2)
    run = TrialRun(given)
    reports = list(run)
    run.save(tmp_path)
    assert len(reports) == 2
    assert list(TrialRun.resume(given, tmp_path)) == reports[-1:]


def test_a_trial_of_before_a_setting_was_there_is_taken_up_again(tmp_path: Path) -> None:
    run = TrialRun(spec())
    next(iter(run))
    run.save(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    del content["assignment"]["run"]["trial"]["model"]["forget_bias"]
    del content["assignment"]["ladder"]["solved_reports"]
    (tmp_path / FILE).write_text(json.dumps(content))
    of_format(tmp_path, 3)
    assert TrialRun.resume(spec(), tmp_path).history == run.history
