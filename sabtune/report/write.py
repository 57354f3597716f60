"""A report's files: the page, the length-generalisation table, the trials, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

import optuna

from sabtune.errors import StoreError
from sabtune.report import length_table, trials
from sabtune.report.data import ReportData, gather
from sabtune.schema import check_name
from sabtune.storage.store import Store

Format = Literal["html", "md", "tex", "csv", "png", "pdf"]

TABLES: Mapping[Format, Mapping[str, Callable[[ReportData], str]]] = {
    "md": {"ladder.md": length_table.markdown},
    "csv": {"ladder.csv": length_table.csv_page, "trials.csv": trials.csv_page},
    "tex": {"ladder.tex": length_table.latex_page},
}
"""By format: what makes each file."""

FIGURES: tuple[Literal["png", "pdf"], ...] = ("png", "pdf")
FORMATS = ("html", *TABLES, *FIGURES)
"""All there are; figures are figures/*.png and *.pdf."""

QUICK = ("html", *TABLES)
"""What a search makes at its end."""


def write(
    study: optuna.Study, store: Store, folder: Path, formats: Collection[str] = FORMATS
) -> list[Path]:
    """Writes the report on a study into a folder, which is made if need be; the files' paths.

    Raises StoreError if no trial is complete or the folder can't be written, ConfigError if a
    format is none of `FORMATS`.
    """
    for name in formats:
        check_name("--format", name, FORMATS)
    data = gather(study, store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_put(folder / name, content) for name, content in _files(data, formats)]
    except OSError as problem:
        raise StoreError(
            f"the folder {folder} can't be written ({problem.strerror}): give another with --out"
        ) from None


def _files(data: ReportData, formats: Collection[str]) -> Iterator[tuple[str, str | bytes]]:
    """Each file's name and content, made when it is asked for."""
    for of, tables in TABLES.items():
        if of in formats:
            yield from ((name, table(data)) for name, table in tables.items())
    drawn = [name for name in FIGURES if name in formats]
    if not drawn and "html" not in formats:
        return
    from sabtune.report.figures import drawings  # what draws takes long to import

    found = drawings(data)
    if "html" in formats:
        from sabtune.report.html import page

        yield "report.html", page(data, found)
    if drawn:
        from sabtune.report.figures import still

        for drawing in found:
            for name in drawn:
                yield f"figures/{drawing.name}.{name}", still.draw(drawing, name)


def _put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
