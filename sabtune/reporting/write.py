"""The files of a report: HTML page, length table, trials and figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from sabtune.errors import StoreError
from sabtune.reporting import length_table, trials
from sabtune.reporting.data import ReportData, gather
from sabtune.schema import check, check_name
from sabtune.study.record import StudyRecord

Format = Literal["html", "md", "tex", "csv", "png", "pdf"]

TABLES: Mapping[Format, Mapping[str, Callable[[ReportData], str]]] = {
    "md": {"ladder.md": length_table.markdown},
    "csv": {"ladder.csv": length_table.csv_page, "trials.csv": trials.csv_page},
    "tex": {"ladder.tex": length_table.latex_page},
}
"""The function that returns the content of each file, by format and by the name of the file."""

FIGURES: tuple[Literal["png", "pdf"], ...] = ("png", "pdf")
FORMATS = ("html", *TABLES, *FIGURES)
"""All formats. With png and pdf, each figure is written to figures/*.png and figures/*.pdf."""

STYLES = ("default", "paper")
"""The styles of the figures: for reading, and for papers at NeurIPS and ICML."""

QUICK = ("html", *TABLES)
"""The formats of the report that is logged to MLflow."""


def write(
    study: StudyRecord,
    folder: Path,
    formats: Collection[str] = FORMATS,
    style: str = STYLES[0],
) -> list[Path]:
    """Write the report of a study into a folder, which is created if it does not exist.

    style: One of `STYLES`. With "paper", the figures have the widths and fonts of conferences, one
    folder each: figures/neurips/ and figures/icml/.

    Returns the paths of the files.

    Raises StoreError if no trial is complete or the folder can't be written, and ConfigError if a
    format is not in `FORMATS`, the style is not in `STYLES`, or only figures have a style and none
    is requested.
    """
    for name in formats:
        check_name("--format", name, FORMATS)
    check_name("--style", style, STYLES)
    drawn = style == STYLES[0] or not set(FIGURES).isdisjoint(formats)
    check(drawn, "--style", style, "--format png or pdf too, because only figures have a style")
    data = gather(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_put(folder / name, content) for name, content in _files(data, formats, style)]
    except OSError as problem:
        raise StoreError(
            f"the folder {folder} can't be written ({problem.strerror}): give another with --out"
        ) from None


def _files(
    data: ReportData, formats: Collection[str], style: str
) -> Iterator[tuple[str, str | bytes]]:
    """Yield the name and content of each file, one at a time."""
    for format, tables in TABLES.items():
        if format in formats:
            yield from ((name, table(data)) for name, table in tables.items())
    figure_formats = [name for name in FIGURES if name in formats]
    if not figure_formats and "html" not in formats:
        return
    from sabtune.reporting.figures import drawings  # slow to import

    figures = drawings(data)
    if "html" in formats:
        from sabtune.reporting.html import page

        yield "report.html", page(data, figures)
    if figure_formats:
        from sabtune.reporting.figures import still

        styles = still.PAPER if style == "paper" else {"": still.DEFAULT}
        for place, each in styles.items():
            folder = f"figures/{place}" if place else "figures"
            for drawing in figures:
                for name in figure_formats:
                    yield f"{folder}/{drawing.name}.{name}", still.draw(drawing, name, each)


def _put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
