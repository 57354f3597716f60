"""The report as one self-contained HTML page: no network, no fonts, no other files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from sabtune import __version__
from sabtune.analysis import comparison
from sabtune.analysis.table import ResultTable
from sabtune.reporting import length_table
from sabtune.reporting.data import ReportData
from sabtune.reporting.figures import cost, live
from sabtune.reporting.figures.marks import Drawing
from sabtune.reporting.figures.palette import DARK
from sabtune.schema import flatten
from sabtune.study.names import kind
from sabtune.wording import counted

FOLDER = files(__package__ or "")

MAX_QUESTION = 200
"""Maximum number of characters of a question that the first screen shows in full."""

FIRST_FIGURE = "accuracy"
"""The name of the figure on the first screen."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of the page.

    plot: The HTML of the figure.
    """

    id: str
    plot: Markup
    caption: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The first screen of the page."""

    sentences: Sequence[str]
    table: ResultTable | None
    figure: Plot


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page, listed in its table of contents.

    text: A text of one or more paragraphs.

    pairs: Rows of a table with two columns.
    """

    id: str
    title: str
    level: int = 2
    text: str = ""
    tables: Sequence[ResultTable] = ()
    pairs: Sequence[tuple[str, str]] = ()
    figure: Plot | None = None
    notes: Sequence[str] = ()


def page(data: ReportData, drawings: Sequence[Drawing]) -> str:
    """Return the whole page as HTML."""
    environment = Environment(
        loader=PackageLoader("sabtune.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _with_code
    first = next(drawing for drawing in drawings if drawing.name == FIRST_FIGURE)
    forms = [{"width": form.width, "entry": form.entry} for form in live.FORMS]
    question = data.question.partition("\n\n")[0]
    is_long = data.question != question or len(question) > MAX_QUESTION
    return environment.get_template("page.html.jinja").render(
        name=data.name,
        question=question,
        counts=data.counts,
        answer=_answer(data, first),
        sections=[
            Section(
                id="lengths",
                title="Generalization to length",
                tables=length_table.tables(data),
                notes=length_table.own_notes(data),
            ),
            *_comparisons(data),
            Section(id="figures", title="Figures"),
            *(_figure(drawing, data) for drawing in drawings if drawing is not first),
            _best(data),
            *[Section(id="question", title="The question", text=data.question)] * is_long,
            _provenance(data),
            Section(id="caveats", title="Caveats", notes=list(caveats(data))),
        ],
        plotly=_trusted(get_plotlyjs()),
        css=_trusted((FOLDER / "page.css").read_text("utf-8")),
        settings=_trusted(json.dumps({"colors": list(DARK.items()), "forms": forms})),
        script=_trusted((FOLDER / "page.js").read_text("utf-8")),
    )


def _trusted(text: str) -> Markup:
    """Return text of the package as HTML."""
    return Markup(text)  # noqa: S704


def _with_code(text: str) -> Markup:
    """Return text as HTML, with the parts in backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick is not closed
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def _answer(data: ReportData, first: Drawing) -> Answer:
    """Return the first screen: what was found, the best configurations, and accuracy by length."""
    conclusion = data.conclusion
    return Answer(sentences=conclusion.sentences, table=conclusion.table, figure=_plot(first))


def _best(data: ReportData) -> Section:
    run = data.run
    flat = flatten(run.to_dict())
    title = "The best of all runs" if data.is_comparison else "The best trial"
    return Section(
        id="best",
        title=f"{title}, #{data.best.number}: {run.model.legend()}",
        pairs=[(key.removeprefix("trial."), _value(value)) for key, value in flat.items()],
    )


def _value(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _comparisons(data: ReportData) -> Iterator[Section]:
    for name, compared in data.comparisons.items():
        title = "One thing changed at a time" if kind(name) == "ablate" else "On fresh seeds"
        shown = compared is data.confirmed  # its accuracies are in the length table
        tables = comparison.tables(compared)
        yield Section(
            id=f"comparison-{name.rpartition('.')[2]}",
            title=f"{title}: {name}",
            tables=[_two_lines(table) for table in (tables[1:] if shown else tables)],
            notes=comparison.notes(compared),
        )


def _two_lines(table: ResultTable) -> ResultTable:
    """Return the table with its intervals below the numbers."""
    body = [(row[0], *(cell.replace(" [", "\n[") for cell in row[1:])) for row in table.body]
    return replace(table, body=tuple(body))


def _figure(drawing: Drawing, data: ReportData) -> Section:
    tables = cost.tables(data) if drawing.name == cost.NAME else []
    return Section(
        id=f"figure-{drawing.name}",
        title=drawing.title,
        level=3,
        tables=tables,
        figure=_plot(drawing),
    )


def _plot(drawing: Drawing) -> Plot:
    plot = Markup(live.draw(drawing))  # noqa: S704 # plotly escapes what it is given
    return Plot(id=drawing.name, plot=plot, caption=drawing.caption)


def _provenance(data: ReportData) -> Section:
    """Return the section on the environments of the trials, with counts where they differ."""
    by_key: dict[str, Counter[str]] = {}
    for trial in data.ended:
        for key, value in flatten(trial.environment).items():
            by_key.setdefault(key, Counter())[_value(value)] += 1
    pairs = [(key, _counted(values, len(data.ended))) for key, values in by_key.items() if values]
    file = data.study.plan.file
    study_file = [("study file", str(file))] if file else []
    return Section(
        id="provenance",
        title="Provenance",
        pairs=[*study_file, *pairs, ("report made by", f"sabtune {__version__}")],
        notes=["Recorded with each trial when it ran: git revision, versions, hardware."],
    )


def _counted(values: Counter[str], trials: int) -> str:
    if len(values) == 1 and values.total() == trials:
        return next(iter(values))
    return "; ".join(
        f"{value} ({count} of {counted(trials, 'trial')})" for value, count in values.most_common()
    )


def caveats(data: ReportData) -> Iterator[str]:
    """Yield the caveats on what the report shows."""
    if not data.is_comparison:
        yield (
            "The numbers of the best trial are optimistic, on the test sequences too, because the "
            "search picked it by its score. Relations between parameters and score come from "
            "trials that a sampler drew where it expected high scores, not from a controlled "
            "experiment."
        )
    if not data.confirmed:
        yield (
            "Nothing here was repeated on fresh seeds, although success depends on the seed as "
            "much as on the configuration. Run `sabtune confirm` to repeat it."
        )
    if any(trial.state == TrialState.PRUNED for trial in data.ended):
        yield "Pruned trials are shown with their score when they were pruned, never as a result."
    if any(trial.state == TrialState.FAIL for trial in data.ended):
        yield "Failed trials have no score and are left out wherever scores are compared."
    if any(trial.environment.get("study", {}).get("dirty") for trial in data.ended):
        yield "The study file's repository had uncommitted changes when trials ran."
    revisions = {json.dumps(t.environment.get("study", {})) for t in data.ended}
    if len(revisions) > 1:
        yield "The trials ran at more than one git revision."
