"""The length-generalisation table: methods by lengths, and beside them what the papers report.

From a search its best trial; of `confirm`, or of a study that is a contest itself, every method
over its fresh seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sabtune.compare import comparison, statistics
from sabtune.compare.comparison import Group
from sabtune.compare.statistics import Estimate
from sabtune.compare.table import ResultTable, csv_text, latex
from sabtune.config import PARTS
from sabtune.escaping import markdown as markdown_text
from sabtune.report import published
from sabtune.report.data import ReportData
from sabtune.schema import to_dict

MOST = 8
"""Lengths that one table is wide; what would make it wider gets a table of its own."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method; cells by length."""

    label: str
    seeds: str
    cells: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows that came about alike. setting: where it isn't ours; so they stand in another table."""

    heading: str
    rows: tuple[Row, ...]
    setting: str = ""

    @property
    def lengths(self) -> set[int]:
        return {length for row in self.rows for length in row.cells}


def tables(data: ReportData) -> list[ResultTable]:
    """The accuracies, then the losses."""
    up_to = "length" if data.shortest is None else "lengths up to"
    trained = f"trained at {up_to} {data.run.task.length:,}"
    accuracy = _tables("Accuracy in %", trained, list(_accuracies(data)))
    losses = _tables(f"Loss in {data.task.loss_unit}", trained, list(_losses(data)))
    return accuracy + losses


def notes(data: ReportData) -> list[str]:
    """How the rows came about, a line each."""
    found = data.confirmed
    return [*(comparison.notes_on_seeds(found) if found else []), *own_notes(data)]


def own_notes(data: ReportData) -> list[str]:
    """Of these, what stands in no other notes on a contest."""
    lines: list[str] = []
    if data.confirmed and any(group.failed for group in data.confirmed.groups):
        lines.append("Losses are of the seeds that didn't fail.")
    if not data.is_comparison:
        lines.append(_chosen(data))
    quoted = [_of_table(table, data) for table in _quoted(data)]
    if quoted and data.shortest is not None:
        lines.append(
            f"Ours were trained on lengths from {data.shortest:,} on, some of them; what is "
            "quoted was trained on one length."
        )
    return [*lines, *quoted]


def _of_table(table: published.QuotedTable, data: ReportData) -> str:
    """What a paper's table is of, and what it says of a test set as a whole."""
    sources = "; ".join(dict.fromkeys(row.source for row in table.rows))
    words = [f"{sources}: {published.QUOTED}. Setting: {table.words}."]
    whole = [f"{row.method} {row.values[None]}" for row in table.rows if None in row.values]
    words += [f"There: {'; '.join(whole)}."] * bool(whole)
    words += [table.note] * bool(table.note)
    if not table.is_of(_task(data)):
        words.append("It is another than this study's: no row of it compares.")
    return " ".join(words)


def markdown(data: ReportData) -> str:
    """The tables and their notes as Markdown."""
    texts = [table.markdown() for table in tables(data)]
    return "\n\n".join([*texts, "\n".join(f"- {_note(note)}" for note in notes(data))]) + "\n"


def _note(text: str) -> str:
    """A note on one line; what it says to type stays code."""
    parts = " ".join(text.split()).split("`")
    code = len(parts) % 2  # as many backticks open as close
    return "`".join(part if code and i % 2 else markdown_text(part) for i, part in enumerate(parts))


def latex_page(data: ReportData) -> str:
    """The tables and their notes as LaTeX, to be \\input; wants booktabs."""
    texts = [
        table.latex(f"tab:{data.name}-ladder-{number}")
        for number, table in enumerate(tables(data), 1)
    ]
    said = [rf"{{\footnotesize\noindent {latex(note)}\par}}" for note in notes(data)]
    return "\n\n".join([r"% \usepackage{booktabs}", *texts, "\n".join(said)]) + "\n"


def csv_page(data: ReportData) -> str:
    """One row for each method and length, every number in full; accuracies are fractions."""
    rows = list(_rows(data))
    return csv_text(rows, dict.fromkeys(name for row in rows for name in row))


def _tables(what: str, trained: str, blocks: Sequence[Block]) -> list[ResultTable]:
    """As few tables as keep to `MOST` lengths, the blocks in their order."""
    tables: list[list[Block]] = []
    for block in blocks:
        together = [*tables[-1], block] if tables else [block]
        lengths = set().union(*(one.lengths for one in together))
        alike = len({one.setting for one in together}) == 1
        if tables and len(lengths) <= MOST and alike:
            tables[-1].append(block)
        else:
            tables.append([block])
    return [_table(f"{what}, by length; {of[0].setting or trained}", of) for of in tables]


def _table(title: str, blocks: Sequence[Block]) -> ResultTable:
    lengths = sorted(set().union(*(block.lengths for block in blocks)))
    body: list[tuple[str, ...]] = []
    for block in blocks:
        body.append((block.heading,))
        for row in block.rows:
            body.append((row.label, row.seeds, *(row.cells.get(n, "–") for n in lengths)))
    return ResultTable(
        title, ("method", "seeds", *(f"{length:,}" for length in lengths)), tuple(body)
    )


def _accuracies(data: ReportData) -> Iterator[Block]:
    rows = []
    found = data.confirmed
    if found:
        for group in found.groups:
            means = {n: statistics.mean(found.accuracies(group, n)) for n in found.lengths}
            rows.append(_row(group, {n: _percent(mean) for n, mean in means.items()}))
        yield Block(heading=FRESH, rows=tuple(rows))
    if not data.is_comparison:
        cells = {result.length: f"{result.accuracy:.1%}".rstrip("%") for result in data.best.test}
        yield Block(heading=ITSELF, rows=(_best(data, cells),))
    yield from _papers(data, "accuracy")


def _papers(data: ReportData, measure: published.Measure) -> Iterator[Block]:
    """What papers report by length, a block for each source and setting."""
    for table in _quoted(data):
        if table.measure != measure:
            continue
        setting = "" if table.is_of(_task(data)) else table.words
        for source in dict.fromkeys(row.source for row in table.rows):
            theirs = [_of_paper(row) for row in table.rows if row.source == source]
            rows = tuple(row for row in theirs if row.cells)
            if rows:
                yield Block(heading=f"{source}: {published.QUOTED}", rows=rows, setting=setting)


def _losses(data: ReportData) -> Iterator[Block]:
    rows = []
    found = data.confirmed
    if found:
        for group in found.groups:
            means = {n: group.loss(n) for n in found.lengths}
            rows.append(_row(group, {n: _plain(mean) for n, mean in means.items()}))
        yield Block(heading=FRESH, rows=tuple(rows))
    if not data.is_comparison:
        cells = {result.length: f"{result.loss:.3g}" for result in data.best.test}
        yield Block(heading=ITSELF, rows=(_best(data, cells),))
    yield from _papers(data, "loss")


FRESH = f"On fresh seeds: mean, and its {statistics.CONFIDENCE:.0%} interval"
ITSELF = "The search's best trial, which the search chose itself: one seed"


def _row(group: Group, cells: Mapping[int, str]) -> Row:
    failed = f"\n({group.failed} failed)" if group.failed else ""
    return Row(label=group.label, seeds=f"{group.n}{failed}", cells=cells)


def _best(data: ReportData, cells: Mapping[int, str]) -> Row:
    return Row(label=_label(data), seeds="1", cells=cells)


def _label(data: ReportData) -> str:
    return f"#{data.best.number} {data.run.trial.model.label()}"


def _percent(mean: Estimate) -> str:
    return mean.percent().replace(" [", "\n[")


def _plain(mean: Estimate | None) -> str:
    if mean is None:
        return "–"
    ends = mean.interval
    return f"{mean.value:.3g}" + (f"\n[{ends.low:.3g}, {ends.high:.3g}]" if ends else "")


def _of_paper(row: published.Quoted) -> Row:
    cells = {
        length: value if isinstance(value, str) else f"{value:g}"
        for length, value in row.values.items()
        if length is not None
    }
    return Row(label=row.method, seeds="–", cells=cells)


def _task(data: ReportData) -> dict[str, object]:
    return to_dict(data.run.task, PARTS)


def _quoted(data: ReportData) -> list[published.QuotedTable]:
    return published.quoted(_task(data))


def _chosen(data: ReportData) -> str:
    at = ", ".join(f"{length:,}" for length in data.select)
    return (
        f"The search's best trial is its choice by scores at length {at}, among its complete "
        f"trials ({len(data.complete)}); it is shown on {data.best.test[0].sequences:,} "
        "test sequences a length, which chose nothing. What is chosen for its score flatters: "
        "`sabtune confirm` tells more."
    )


def _rows(data: ReportData) -> Iterator[dict[str, object]]:
    found = data.confirmed
    own = {"trained_at": data.run.task.length}
    unit = {"loss_unit": data.task.loss_unit}
    for row in comparison.accuracy_rows(found) if found else ():
        named = {name.replace("mean", "accuracy"): value for name, value in row.items()}
        yield {"source": "fresh seeds", **own, **named, **unit}
    for result in () if data.is_comparison else data.best.test:
        row = {"method": _label(data), "length": result.length, "seeds": 1}
        row |= {"accuracy": result.accuracy, "loss": result.loss}
        row |= (
            {"in_phase": result.in_phase, "worst_phase": result.worst_phase}
            if result.by_phase
            else {}
        )
        yield {"source": "the search's best trial, which it chose itself", **own, **row, **unit}
    for table in _quoted(data):
        for of in table.rows:
            yield from _of_row(table, of)


def _of_row(table: published.QuotedTable, of: published.Quoted) -> Iterator[dict[str, object]]:
    source = f"{of.source}, {published.QUOTED}: {table.words}"
    for length, value in of.values.items():
        row: dict[str, object] = {"source": source, "method": of.method}
        row |= {"length": length} if length is not None else {}
        if isinstance(value, str):
            yield {**row, "note": value}
        else:
            yield {**row, table.measure: value / 100 if table.measure == "accuracy" else value}
