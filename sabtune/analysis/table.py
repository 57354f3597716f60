"""Tables of text for the terminal, as Markdown and as LaTeX, and rows as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from sabtune.escaping import markdown, spreadsheet, terminal

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "–": "--",
    "≥": r"$\geq$",
} | {sign: "\\" + sign for sign in "&%$#_{}"}
"""LaTeX for characters that have a special meaning in it."""


@dataclass(frozen=True)
class ResultTable:
    """A table of text with a title.

    The first column is left-aligned, and the others are right-aligned. A row with one cell is a
    heading for the rows below it. A cell may have a second, less prominent line, such as an
    interval under its mean.
    """

    title: str
    header: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]

    def rich(self) -> RenderableType:
        """Return the table for the terminal.

        Headers wrap to the width of the numbers, and intervals are below their numbers. If the
        terminal is too narrow, the first column wraps between words, and so do intervals if need
        be.
        """
        return _Fitting(self)

    def table(self, *, narrow: bool = False, folds: bool = False) -> Table:
        """Return the table for the terminal.

        narrow: Whether each interval is on two lines.

        folds: Whether words and numbers may be split, for a terminal that has no room for them.
        """
        table = Table(title=Text(self.title), title_justify="left", box=box.SIMPLE_HEAD)
        between = ",\n" if narrow else ", "
        body = [
            (*row[:1], *(cell.replace(" [", "\n[").replace(", ", between) for cell in row[1:]))
            for row in self.body
        ]
        for column, name in enumerate(self.header):
            cells = [cell for row in body for cell in row[column : column + 1]]
            words = [*name.split(), *(word for cell in cells for word in cell.split())]
            if column == 0:
                least = None if folds else max(map(len, words))
                table.add_column(Text(name), overflow="fold", min_width=least)
                continue
            width = max(map(len, [*name.split(), *(line for c in cells for line in c.split("\n"))]))
            header = textwrap.fill(name, width)
            least = None if folds else width
            table.add_column(
                Text(header),
                justify="right",
                overflow="fold",
                no_wrap=not folds,
                min_width=least,
            )
        for row in body:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = ("---",) + ("---:",) * (len(self.header) - 1)
        rows = [tuple(map(markdown, self.header)), rule]
        for row in self.body:
            cells = tuple(map(markdown, row))
            heading = (f"*{cells[0]}*",) + ("",) * (len(self.header) - 1)
            rows.append(heading if len(row) == 1 else cells)
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([f"**{markdown(self.title)}**", "", *lines])

    def latex(self, label: str) -> str:
        """Return the table as a LaTeX float, which requires the package booktabs.

        label: The label for \\ref.
        """
        width = len(self.header)
        lines = [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{latex(self.title)}}}\label{{{label}}}",
            rf"\begin{{tabular}}{{p{{0.28\linewidth}}{'r' * (width - 1)}}}",
            r"\toprule",
            _row(self.header),
        ]
        for before, row in zip((None, *self.body), self.body, strict=False):
            if len(row) == 1:
                lines.append(r"\midrule")
                lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{latex(row[0])}}}}} \\")
            else:
                lines += [r"\midrule"] if before is None else []
                lines.append(_row(row))
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Fitting:
    """A table in the widest form that the terminal has room for."""

    result: ResultTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        unlimited = options.update(max_width=10_000)
        for table in (self.result.table(), self.result.table(narrow=True)):
            if table.__rich_measure__(console, unlimited).minimum <= options.max_width:
                yield table
                return
        yield self.result.table(narrow=True, folds=True)


def latex(text: str) -> str:
    """Return text as LaTeX that prints it literally, on one line."""
    return "".join(LATEX.get(char, char) for char in " ".join(terminal(text).split()))


def _row(cells: tuple[str, ...]) -> str:
    return r"\raggedright " + " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    first, _, second = text.partition("\n")
    if not second:
        return latex(first)
    lines = rf"{latex(first)}\\[-1pt] {{\tiny {latex(second)}}}"
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{lines}\end{{tabular}}"


def csv_text(rows: Iterable[Mapping[str, object]], names: Iterable[str]) -> str:
    """Return rows as CSV with a header of `names`; a missing cell is empty.

    Text that a spreadsheet would interpret as a formula gets a leading apostrophe.
    """
    text, columns = io.StringIO(), list(names)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(spreadsheet, columns))
    writer.writerows([spreadsheet(row.get(name, "")) for name in columns] for row in rows)
    return text.getvalue()
