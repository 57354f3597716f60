"""What the person watching sees: a table on a terminal, a line each elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from sabtune.config import RunConfig
from sabtune.evaluation import Rung
from sabtune.search.progress import Watch
from sabtune.training import Report
from sabtune.watcher import Outcome


def rungs(*accuracies: float) -> list[Rung]:
    return [
        Rung(length=5 * 2**i, accuracy=a, loss=0.0, sequences=8) for i, a in enumerate(accuracies)
    ]


def report(step: int) -> Report:
    return Report(
        step=step,
        loss=0.5,
        accuracy=0.8,
        gradient_norm=1.0,
        skipped=0,
        updates_per_second=123.4,
        in_force={"k_top": 4},
    )


def play(console: Console, run: RunConfig) -> Watch:
    """A search of three trials: one completes, one is pruned, one fails."""
    watch = Watch(console, 12)
    with watch:
        for number in range(3):
            watch.trial_started(number, run)
            if number < 2:
                watch.trial_reported(number, report(10), rungs(0.9, 0.4 + number / 10), 0.6)
        done = rungs(0.95, 0.85, 0.75)
        watch.trial_ended(0, Outcome(state="COMPLETE", score=0.9, ladder=done, test=done))
        watch.trial_ended(1, Outcome(state="PRUNED", reason="score 0.600 at 10 updates"))
        watch.trial_ended(2, Outcome(state="FAIL", reason="DivergedError: no finite gradient"))
    return watch


def test_plain_lines_away_from_a_terminal(run: RunConfig) -> None:
    shown = io.StringIO()
    play(Console(file=shown, width=40), run)  # narrower than the lines: none is broken
    assert shown.getvalue().splitlines() == [
        "#0 starts: k_top=2 k_att=2 k_trunc=3 linear rate=0.01",
        "#0 10/20 updates, 123/s, loss 0.500, 5: 90.0%  10: 40.0%, score 0.600",
        "#1 starts: k_top=2 k_att=2 k_trunc=3 linear rate=0.01",
        "#1 10/20 updates, 123/s, loss 0.500, 5: 90.0%  10: 50.0%, score 0.600",
        "#2 starts: k_top=2 k_att=2 k_trunc=3 linear rate=0.01",
        "#0 done: 5: 95.0%  10: 85.0%  20: 75.0%  [1 of 12]",
        "#1 pruned: score 0.600 at 10 updates  [2 of 12]",
        "#2 failed: DivergedError: no finite gradient  [2 of 12]",
    ]


def test_a_table_on_a_terminal(run: RunConfig) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=160, height=30, force_terminal=True, color_system=None)
    play(console, run)
    last = shown.getvalue().split("trials: ")[-1]
    assert last.startswith("2 of 12")
    rows = {line.split("│")[1].strip(): line for line in last.splitlines() if line.startswith("│")}
    assert "done" in rows["0"]
    assert "5: 95.0%  10: 85.0%  20: 75.0%" in rows["0"]
    assert "pruned" in rows["1"]
    assert "5: 90.0%  10: 50.0%" in rows["1"]
    assert "DivergedError: no finite gradient" in rows["2"]
    assert "starts" not in shown.getvalue()


def test_the_table_never_outgrows_the_terminal(run: RunConfig) -> None:
    """The latest trials stay in sight, those that run below those that ended."""
    console = Console(file=io.StringIO(), width=160, height=14, force_terminal=True)
    watch = Watch(console, 40)
    for number in range(40):
        watch.trial_started(number, run)
        if number != 5:
            watch.trial_ended(number, Outcome(state="PRUNED", reason="low"))
    lines = console.render_lines(watch._table(), console.options)
    assert len(lines) <= 14
    text = ["".join(segment.text for segment in line) for line in lines]
    numbers = [row.split("│")[1].strip() for row in text if row.startswith("│")]
    assert numbers == [str(n) for n in range(33, 40)] + ["5"]
