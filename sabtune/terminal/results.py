"""The output of dry runs, of `sabtune reproduce` and of `sabtune extrapolate`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sabtune.compare.extrapolate import Extrapolation
from sabtune.compare.reproduce import Reproduction
from sabtune.study.definition import Study, words
from sabtune.study.trial_record import TrialRecord
from sabtune.tuning.dry_run import Prediction
from sabtune.wording import counted


def prediction_page(prediction: Prediction, study: Study) -> RenderableType:
    """Return the output of a dry run: the predicted cost of a search."""
    table = Table(title="Each length of the ladder", title_justify="left")
    for name in ("length", "seconds", "peak memory (MiB)", "measured"):
        table.add_column(name, justify="right")
    probe, placement = prediction.probe, prediction.placement
    for result in probe.results:
        when = "at every report" if result.selects else "at the end"
        table.add_row(f"{result.length:,}", f"{result.seconds:.2f}", f"{result.memory:,.0f}", when)
    pruned = "; pruning reduces this" if study.pruning else ""
    pruned += "; a stopping rule may end it earlier" if study.rules else ""
    lines = [
        f"Study {study.name}, probed with {probe.label}, "
        f"{counted(probe.updates, 'update')} on {words(study.resources.cpus, 0)}:",
        f"  {1000 * probe.seconds_per_update:.1f} ms per update, "
        f"{probe.training_memory:,.0f} MiB peak memory",
        f"  {probe.trial_seconds:,.0f} s per trial, including its ladder",
        f"  {prediction.hours:.2f} h for {counted(study.trials, 'trial')}, "
        f"{placement.at_once} at once, none pruned{pruned}",
        *([placement.words] if placement.words else []),
    ]
    note = "Measured with one configuration, alone on this machine; others may differ."
    return Group(*(Text(line) for line in lines), Text(""), table, Text(note))


def reproduction_page(number: int, reproduction: Reproduction) -> RenderableType:
    """Return the output of a reproduction: the metrics and the environment that differ."""
    parts: list[RenderableType] = []
    metrics = reproduction.metrics
    if reproduction.differences:
        parts.append(
            Text(f"Trial {number}: {len(reproduction.differences)} of {metrics} metrics differ.")
        )
        parts.append(_table(reproduction.differences))
    else:
        parts.append(Text(f"Trial {number}: all {metrics} metrics are the same, bit for bit."))
    if reproduction.environment:
        parts += [Text("Differences in the environment:"), _table(reproduction.environment)]
    if reproduction.code:
        files = ", ".join(reproduction.code)
        parts.append(Text(f"It ran the code that it was trained with. Changed since then: {files}"))
    return Group(*parts)


def _table(rows: Sequence[tuple[str, object, object]]) -> Table:
    table = Table()
    for name in ("", "recorded", "now"):
        table.add_column(name)
    for name, recorded, now in rows:
        table.add_row(name, str(recorded), str(now))
    return table


def extrapolation_line(trial: TrialRecord, extrapolation: Extrapolation) -> Text:
    """Return one line with the accuracy, loss and cost of a model at one length."""
    result = extrapolation.result
    sequences = counted(result.sequences, "sequence")
    assert trial.run is not None
    label = trial.label or trial.run.model.label()
    phases = ""
    if result.by_phase:
        shares = ", ".join(f"{accuracy:.1%}" for accuracy in result.by_phase)
        phases = f" over {len(result.by_phase)} lengths ({shares})"
    return Text(
        f"#{trial.number} {label}, seed {trial.run.seed}, at length {result.length:,}{phases}: "
        f"{result.accuracy:.2%}, loss {result.loss:.3g} "
        f"({sequences}, {result.seconds or 0:,.1f} s, {extrapolation.memory:,.0f} MiB peak memory)"
    )
