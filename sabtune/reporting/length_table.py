"""The length-generalization table: methods by length, next to results from papers.

It shows the best trial of a search, and every method of a comparison over its fresh seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sabtune.analysis import comparison, statistics
from sabtune.analysis.comparison import Group
from sabtune.analysis.statistics import Estimate
from sabtune.analysis.table import ResultTable, csv_text, latex
from sabtune.config import PARTS
from sabtune.escaping import markdown as markdown_text
from sabtune.reporting import published
from sabtune.reporting.data import ReportData
from sabtune.schema import to_dict
from sabtune.wording import counted

MAX_LENGTHS = 8
"""Maximum number of lengths in one table. Rows with further lengths get a table of their own."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method, with its cells by length."""

    label: str
    seeds: str
    cells: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows with a common origin."""

    heading: str
    rows: tuple[Row, ...]

    @property
    def lengths(self) -> set[int]:
        """The lengths of all rows."""
        return {length for row in self.rows for length in row.cells}


def tables(data: ReportData) -> list[ResultTable]:
    """Return the tables of accuracies, then those of losses."""
    up_to = "length" if data.shortest is None else "lengths up to"
    trained = f"trained at {up_to} {data.run.task.length:,}"
    accuracy = _tables("Accuracy in %", trained, list(_accuracies(data)))
    losses = _tables(f"Loss in {data.task.loss_unit}", trained, list(_losses(data)))
    return accuracy + losses


def notes(data: ReportData) -> list[str]:
    """Return notes on the origin of the rows, one line each."""
    confirmed = data.confirmed
    return [*(comparison.notes_on_seeds(confirmed) if confirmed else []), *own_notes(data)]


def own_notes(data: ReportData) -> list[str]:
    """Return the notes on the origin of the rows, without those on the seeds of a comparison."""
    lines: list[str] = []
    if data.confirmed and any(group.failed for group in data.confirmed.groups):
        lines.append("Losses are means over the seeds that did not fail.")
    if not data.is_comparison:
        lines.append(_chosen(data))
    quoted = [_table_note(table) for table in _quoted(data)]
    if quoted and data.shortest is not None:
        lines.append(
            f"Ours: some trials were trained on varied lengths, from {data.shortest:,} on. The "
            "quoted models were trained on one length."
        )
    return [*lines, *quoted, *_left_out(data)]


def _table_note(table: published.QuotedTable) -> str:
    """Return a note on a paper's table, with the paper's results on a whole test set."""
    sources = "; ".join(dict.fromkeys(row.source for row in table.rows))
    words = [f"{sources}: {published.QUOTED}. Setting: {table.words}."]
    whole = [f"{row.method} {row.values[None]}" for row in table.rows if None in row.values]
    words += [f"There: {'; '.join(whole)}."] * bool(whole)
    words += [table.note] * bool(table.note)
    return " ".join(words)


def _left_out(data: ReportData) -> Iterator[str]:
    """Yield a note on the papers' tables that are not shown, if there are any."""
    tables = published.left_out(_task(data))
    if tables:
        settings = "; ".join(table.words for table in tables)
        yield f"Published results in other settings do not compare and are left out: {settings}."


def markdown(data: ReportData) -> str:
    """Return the tables and their notes as Markdown."""
    texts = [table.markdown() for table in tables(data)]
    return "\n\n".join([*texts, "\n".join(f"- {_note(note)}" for note in notes(data))]) + "\n"


def _note(text: str) -> str:
    """Return a note on one line as Markdown; text in backticks stays code."""
    parts = " ".join(text.split()).split("`")
    balanced = len(parts) % 2 == 1  # every opening backtick is closed
    return "`".join(
        part if balanced and i % 2 else markdown_text(part) for i, part in enumerate(parts)
    )


def latex_page(data: ReportData) -> str:
    """Return the tables and their notes as LaTeX to \\input, which requires booktabs."""
    texts = [
        table.latex(f"tab:{data.name}-ladder-{number}")
        for number, table in enumerate(tables(data), 1)
    ]
    note_lines = [rf"{{\footnotesize\noindent {latex(note)}\par}}" for note in notes(data)]
    return "\n\n".join([r"% \usepackage{booktabs}", *texts, "\n".join(note_lines)]) + "\n"


def csv_page(data: ReportData) -> str:
    """Return a CSV with one row per method and length; accuracies are fractions."""
    rows = list(_rows(data))
    return csv_text(rows, dict.fromkeys(name for row in rows for name in row))


def _tables(quantity: str, trained: str, blocks: Sequence[Block]) -> list[ResultTable]:
    """Return as few tables as `MAX_LENGTHS` allows, with the blocks in order."""
    tables: list[list[Block]] = []
    for block in blocks:
        candidate = [*tables[-1], block] if tables else [block]
        lengths = set().union(*(member.lengths for member in candidate))
        if tables and len(lengths) <= MAX_LENGTHS:
            tables[-1].append(block)
        else:
            tables.append([block])
    return [_table(f"{quantity}, by length; {trained}", members) for members in tables]


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
    confirmed = data.confirmed
    if confirmed:
        for group in confirmed.groups:
            means = {n: statistics.mean(confirmed.accuracies(group, n)) for n in confirmed.lengths}
            rows.append(_row(group, {n: _percent(mean) for n, mean in means.items()}))
        yield Block(heading=FRESH, rows=tuple(rows))
    if not data.is_comparison:
        cells = {result.length: f"{result.accuracy:.1%}".rstrip("%") for result in data.best.test}
        yield Block(heading=SELECTED, rows=(_best(data, cells),))
    yield from _papers(data, "accuracy")


def _papers(data: ReportData, measure: published.Measure) -> Iterator[Block]:
    """Yield the comparable results of papers by length, one block for each source."""
    for table in _quoted(data):
        if table.measure != measure:
            continue
        for source in dict.fromkeys(row.source for row in table.rows):
            from_source = [_paper_row(row) for row in table.rows if row.source == source]
            rows = tuple(row for row in from_source if row.cells)
            if rows:
                yield Block(heading=f"{source}: {published.QUOTED}", rows=rows)


def _losses(data: ReportData) -> Iterator[Block]:
    rows = []
    confirmed = data.confirmed
    if confirmed:
        for group in confirmed.groups:
            means = {n: group.loss(n) for n in confirmed.lengths}
            rows.append(_row(group, {n: _plain(mean) for n, mean in means.items()}))
        yield Block(heading=FRESH, rows=tuple(rows))
    if not data.is_comparison:
        cells = {result.length: f"{result.loss:.3g}" for result in data.best.test}
        yield Block(heading=SELECTED, rows=(_best(data, cells),))
    yield from _papers(data, "loss")


FRESH = f"On fresh seeds: mean, and its {statistics.CONFIDENCE:.0%} interval"
SELECTED = "The search's best trial, picked by its search score: one seed"


def _row(group: Group, cells: Mapping[int, str]) -> Row:
    failed = f"\n({group.failed} failed)" if group.failed else ""
    return Row(label=group.name, seeds=f"{group.n}{failed}", cells=cells)


def _best(data: ReportData, cells: Mapping[int, str]) -> Row:
    return Row(label=_label(data), seeds="1", cells=cells)


def _label(data: ReportData) -> str:
    return f"#{data.best.number} {data.run.model.legend()}"


def _percent(mean: Estimate) -> str:
    return mean.percent().replace(" [", "\n[")


def _plain(mean: Estimate | None) -> str:
    if mean is None:
        return "–"
    ends = mean.interval
    return f"{mean.value:.3g}" + (f"\n[{ends.low:.3g}, {ends.high:.3g}]" if ends else "")


def _paper_row(row: published.Quoted) -> Row:
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
    lengths = ", ".join(f"{length:,}" for length in data.select)
    return (
        f"The search picked its best trial by scores at length {lengths}, among "
        f"{counted(len(data.complete), 'complete trial')}. It is shown on "
        f"{data.best.test[0].sequences:,} test sequences per length, which were not used to pick "
        "it. Its numbers are still optimistic: run `sabtune confirm` to repeat it on fresh seeds."
    )


def _rows(data: ReportData) -> Iterator[dict[str, object]]:
    confirmed = data.confirmed
    training = {"trained_at": data.run.task.length}
    unit = {"loss_unit": data.task.loss_unit}
    for row in comparison.accuracy_rows(confirmed) if confirmed else ():
        named = {name.replace("mean", "accuracy"): value for name, value in row.items()}
        yield {"source": "fresh seeds", **training, **named, **unit}
    for result in () if data.is_comparison else data.best.test:
        row = {"method": _label(data), "length": result.length, "seeds": 1}
        row |= {"accuracy": result.accuracy, "loss": result.loss}
        row |= (
            {"in_phase": result.in_phase, "worst_phase": result.worst_phase}
            if result.by_phase
            else {}
        )
        yield {
            "source": "the search's best trial, which it chose itself",
            **training,
            **row,
            **unit,
        }
    for table in _quoted(data):
        for quoted in table.rows:
            yield from _paper_records(table, quoted)


def _paper_records(
    table: published.QuotedTable, quoted: published.Quoted
) -> Iterator[dict[str, object]]:
    """Yield a CSV row for each length of one row of a paper's table."""
    source = f"{quoted.source}, {published.QUOTED}: {table.words}"
    for length, value in quoted.values.items():
        row: dict[str, object] = {"source": source, "method": quoted.method}
        row |= {"length": length} if length is not None else {}
        if isinstance(value, str):
            yield {**row, "note": value}
        else:
            yield {**row, table.measure: value / 100 if table.measure == "accuracy" else value}
