"""Test the live progress: a table on a terminal, and lines elsewhere."""

from __future__ import annotations

import dataclasses
import io
import re
import time

import pytest
from optuna.trial import TrialState
from rich.console import Console

from sabtune.config import TrainConfig
from sabtune.models import SAB
from sabtune.study.events import Outcome
from sabtune.terminal.live_table import Watch, label
from sabtune.terminal.pace import Pace, duration
from sabtune.training.evaluation import Ladder, LengthResult
from sabtune.training.loop import Report
from sabtune.training.trial import Progress, TrialSpec
from tests import records

LABEL = "k_top=2 k_att=2 k_trunc=3 constant rate=0.001"
LADDER = Ladder(lengths=(5, 10, 20), select=(5, 10), sequences=8)


class Clock:
    """A clock that only moves when it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def spec(number: int, configuration: int | None = None) -> TrialSpec:
    return records.spec(number, configuration, ladder=LADDER)


def results(*accuracies: float) -> list[LengthResult]:
    return [
        LengthResult(length=5 * 2**i, accuracy=a, loss=0.0, sequences=8)
        for i, a in enumerate(accuracies)
    ]


def progress(
    step: int, *accuracies: float, score: float = 0.6, seconds: float = 1.0, loss: float = 0.5
) -> Progress:
    report = Report(
        step=step,
        loss=loss,
        accuracy=0.8,
        gradient_norm=1.0,
        skipped=0,
        updates_per_second=123.4,
        in_force={"k_top": 4},
    )
    return Progress(
        report=report, ladder=results(*accuracies), score=score, seconds=seconds, memory=1.0
    )


def terminal(width: int = 160, height: int = 30) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )


def shown(watch: Watch) -> list[str]:
    """Return the lines that the terminal shows now."""
    lines = watch.console.render_lines(watch._screen(), watch.console.options)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def row(lines: list[str], number: int) -> str:
    return next(line for line in lines if re.match(rf"\s*{number}  ", line))


def numbers(lines: list[str]) -> list[int]:
    """Return the numbers of the trials in these rows."""
    return [int(line.split()[0]) for line in lines]


def play(console: Console, clock: Clock) -> Watch:
    """Show a search of twelve trials: one completes, one is pruned, and one fails."""
    watch = Watch(console, 12, clock=clock)
    with watch:
        for number in range(3):
            watch.trial_started(spec(number, 1 if number == 2 else None))
            if number < 2:
                watch.trial_reported(number, progress(10, 0.9, 0.4 + number / 10))
        clock.now = 1800.0
        done = results(0.95, 0.85, 0.75)
        watch.trial_ended(0, Outcome(state="COMPLETE", score=0.9, ladder=done, test=done))
        watch.trial_ended(1, Outcome(state="PRUNED", reason="score 0.600 at 10 updates"))
        watch.trial_ended(2, Outcome(state="FAIL", reason="DivergedError: no finite gradient"))
    return watch


def test_output_without_a_terminal_is_plain_lines() -> None:
    lines = io.StringIO()
    play(Console(file=lines, width=40), Clock())  # narrower than the lines, which must not wrap
    assert lines.getvalue().splitlines() == [
        f"#0 starts: {LABEL}",
        "#0 10/20 updates, 123/s, loss 0.500, 5: 90.0%  10: 40.0%, score 0.600",
        f"#1 starts: {LABEL}",
        "#1 10/20 updates, 123/s, loss 0.500, 5: 90.0%  10: 50.0%, score 0.600",
        f"#2 starts: as #1  {LABEL}",
        "#0 complete: 5: 95.0%  10: 85.0%  20: 75.0%  [1 of 12, left –]",
        "#1 pruned: score 0.600 at 10 updates  [2 of 12, left 1 h 40 min]",
        "#2 (as #1) failed: DivergedError: no finite gradient  [3 of 12, left 1 h 40 min]",
    ]


def test_output_on_a_terminal_is_a_table() -> None:
    console = terminal()
    watch = play(console, Clock())
    lines = shown(watch)
    assert lines[0] == f"{'━' * 10:40} 3 of 12 trials · elapsed 30 min · left 1 h 40 min"
    assert lines[1] == ("0 running, 1 pruned, 1 failed, 1 complete · best 0.900 by #0 · 6 trials/h")
    assert re.split(r"\s{2,}", lines[2].strip()) == [
        *("#", "state", "configuration", "update", "per s", "loss", "score"),
        *("at 5", "at 10", "at 20"),
    ]
    assert re.split(r"\s{2,}", row(lines, 0).strip()) == [
        *("0", "complete", LABEL, "10/20", "123", "0.500", "0.900", "95.0%", "85.0%", "75.0%")
    ]
    assert re.split(r"\s{2,}", row(lines, 1).strip())[6:] == ["0.600", "90.0%", "50.0%"]
    assert f"failed    as #1  DivergedError: no finite gradient  {LABEL}" in row(lines, 2)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert lines[1] in out  # the table was drawn live
    assert "starts" not in out


@pytest.mark.parametrize("width", [80, 200])
def test_only_the_configuration_is_shortened_on_a_narrow_terminal(width: int) -> None:
    model = SAB.Config(hidden=4, k_top=10, k_att=10, k_trunc=100, normalizer="softmax")
    train = TrainConfig(updates=20000)
    run = records.spec().run
    run = dataclasses.replace(run, model=model, train=train, seed=0)
    watch = Watch(terminal(width), 9)
    ladder = Ladder(lengths=(5, 10, 20, 500, 1000), select=(5, 10, 20), sequences=8)
    watch.trial_started(records.spec(7, 5, run=run, ladder=ladder))
    watch.trial_reported(7, progress(10000, 1.0, 0.5, 0.25, loss=1e30))
    lines = shown(watch)
    assert max(map(len, lines)) <= width
    head, cells = lines[-2], re.split(r"\s{2,}", lines[-1].strip())  # one line per trial
    assert cells[:3] == ["7", "running", "as #5"]
    assert cells[-3:] == ["100.0%", "50.0%", "25.0%"]
    assert {"10000/20000", "0.600"} < set(cells)
    assert ("softmax" in cells[3]) == (width == 200)
    assert cells[3].endswith(" …") == (width == 80)
    assert set(cells[3].removesuffix(" …").split()) <= set(label(run).split())  # words are whole
    assert ("1.0e+30" in cells) == (width == 200)  # speed and loss are hidden on narrow terminals
    assert ("at 1000" in head) == (width == 200)


def test_the_table_fits_the_height_of_the_terminal() -> None:
    """The latest trials are shown, with running ones below ended ones."""
    watch = Watch(terminal(height=14), 100)
    for number in range(100):
        watch.trial_started(spec(number))
        if number % 2 and number != 5:
            watch.trial_ended(number, Outcome(state="PRUNED", reason="low"))
    lines = shown(watch)
    assert len(lines) == 13  # the cursor needs the last line
    assert lines[2] == "… and 91 more, 42 of them running"
    assert numbers(lines[4:]) == list(range(82, 100, 2))
    watch.trial_reported(5, progress(10, 0.5, score=0.9))
    for number in range(0, 100, 2):
        watch.trial_reported(number, progress(10, 0.5, score=0.4))
    lines = shown(watch)
    assert lines[2] == "… and 91 more, 42 of them running"  # and the best trial is shown
    assert numbers(lines[4:]) == [5, *range(84, 100, 2)]
    low = Watch(terminal(height=3), 100)
    low.rows = watch.rows
    assert numbers(shown(low)[-1:]) == [98]
    few = Watch(terminal(height=14), 100)
    for number in range(4):
        few.trial_started(spec(number))
        few.trial_ended(number, Outcome(state="PRUNED")) if number != 1 else None
    assert numbers(shown(few)[3:]) == [0, 2, 3, 1]


def test_a_resumed_trial_continues_its_row() -> None:
    """A trial resumes if an earlier search recorded it, or if this one started it before."""
    earlier = [
        records.trial(3, score=0.7),
        records.trial(4, score=0.9, state=TrialState.FAIL),
        records.trial(5),
    ]
    earlier[2].scores[10] = 0.4
    lines = io.StringIO()
    watch = Watch(Console(file=lines), 12, ended=2, earlier=earlier)
    watch.trial_started(spec(5))
    assert re.search(r"5  resumed  .* 10/20", row(shown(watch), 5))
    watch.trial_reported(5, progress(10, 0.5))  # repeats a report that the earlier search has shown
    watch.trial_reported(5, progress(20, 0.6))
    watch.trial_started(spec(6))
    watch.trial_started(spec(6))
    assert [line.split(":")[0] for line in lines.getvalue().splitlines()] == [
        "#5 resumes at 10/20 updates",
        "#5 20/20 updates, 123/s, loss 0.500, 5",
        "#6 starts",
        "#6 resumes",
    ]
    assert "  2 of 12 trials · " in shown(watch)[0]
    counts = shown(watch)[1]
    assert "2 running, 0 pruned, 0 failed, 0 complete, 2 before · best 0.700 by #3" in counts
    watch.trial_ended(5, Outcome(state="COMPLETE", score=0.8, ladder=results(0.8)))
    assert "best 0.800 by #5" in shown(watch)[1]
    assert "[3 of 12, left –]" in lines.getvalue()
    assert "5  complete " in row(shown(watch), 5)


def test_the_best_is_never_a_failed_trial() -> None:
    watch = Watch(terminal(), 12)
    for number, score in enumerate((0.5, 0.9, 0.5)):
        watch.trial_started(spec(number))
        assert number or "best –" in shown(watch)[1]
        watch.trial_reported(number, progress(10, 0.5, score=score))
    assert "best 0.900 by #1" in shown(watch)[1]
    bold = [
        line[0].text.strip()
        for line in watch.console.render_lines(watch._screen(), watch.console.options)[3:]
        if line[0].style and line[0].style.bold
    ]
    assert bold == ["1"]
    watch.trial_ended(1, Outcome(state="FAIL", reason="lost"))
    assert "best 0.500 by #0" in shown(watch)[1]


def test_time_left_uses_the_observed_concurrency() -> None:
    clock = Clock()
    pace = Pace(clock)
    for number in range(4):
        pace.start(number)
    clock.now = 100.0
    pace.end(0)
    assert (pace.left(9), pace.rate) == (None, 36.0)
    pace.end(1)
    # The 2 running trials are due now, and the 6 waiting ones take 100 s each, as the first 2 did.
    # At the end, 3 of the 4 slots lose half a trial's time each.
    assert pace.left(8) == pytest.approx((6 * 100 + 100 / 2 * 3) / 4)
    assert pace.rate == 72.0


def test_time_left_includes_trials_that_are_still_running() -> None:
    """Half of the trials are pruned after a tenth of the time that the others take."""
    clock = Clock()
    pace = Pace(clock)
    for number in range(8):
        pace.start(number)
    clock.now = 10.0
    for number in range(8):
        pace.report(number, 90.0)
    for number in range(4):
        pace.end(number)
    clock.now = 20.0
    mean = (4 * 10 + 4 * 100) / 8
    assert pace.left(24) == pytest.approx((20 * mean + 4 * 80 + mean / 2 * 7) / 8)
    assert pace.left(4) == 80.0  # no trial waits, so the longest running trial decides


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (42.4, "42 s"),
        (59.9, "1 min"),
        (3599, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_a_duration_in_words(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_console_that_fails_does_not_end_the_search() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    watch = Watch(Console(file=Full()), 2)
    watch.trial_started(spec(0))
    watch.trial_reported(0, progress(10, 0.5))
    watch.trial_ended(0, Outcome(state="PRUNED", reason="low"))
    assert watch.rows[0].state == "pruned"


@pytest.mark.parametrize("console", [terminal(), Console(file=io.StringIO())])
def test_a_report_takes_less_than_a_millisecond(console: Console) -> None:
    watch = Watch(console, 1000)
    for number in range(500):
        watch.trial_started(spec(number))
    reports = [progress(10, 0.5, 0.5, seconds=n) for n in range(300)]
    took = []
    for number, report in enumerate(reports):
        begun = time.perf_counter()
        watch.trial_reported(number, report)
        took.append(time.perf_counter() - begun)
    assert sorted(took)[len(took) // 2] < 1e-3
