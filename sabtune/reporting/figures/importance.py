"""The figure of the importances of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from sabtune.analysis.importance import SHUFFLINGS, Importance, importances
from sabtune.reporting.data import ReportData
from sabtune.reporting.figures.marks import Axis, Bars, Figure, Panel, Points
from sabtune.reporting.figures.palette import BLACK, BLUE, GRAY


def importance(data: ReportData) -> Figure | None:
    """Return the figure of importances by two estimators, or None if there are none.

    The figure also shows the importances for shuffled scores, which depend on no parameter.
    """
    estimated = importances(data.study)
    if estimated is None:
        return None
    panels = [
        _panel("fANOVA", "share of the variance", estimated.fanova),
        _panel("PED-ANOVA", "share of the divergence", estimated.ped_anova),
    ]
    return Figure(
        name="importance",
        title="Importance for the score: fANOVA and PED-ANOVA",
        caption="How much the score depends on each parameter that all configurations have "
        f"(n = {estimated.configurations}, each with the mean over its seeds, pruned ones with "
        "their last score). fANOVA: the share of the score's variance over the search space. "
        f"PED-ANOVA: how much the best {estimated.best:.0%} differ from the rest. Diamonds: the "
        f"maximum over {SHUFFLINGS} shufflings of the scores. A bar that does not exceed its "
        "diamond is gray and may be chance; of 20 parameters without influence, one is blue. If "
        "the two estimators disagree, trust neither.",
        panels=panels,
        height=0.5 + 0.28 * max(len(panel.y.ticks) for panel in panels),
    )


def _panel(title: str, share: str, estimates: Sequence[Importance]) -> Panel:
    ranked = estimates[::-1]
    bars = []
    for label, color, significant in (("", BLUE, True), ("may be chance", GRAY, False)):
        at = [i for i, one in enumerate(ranked) if one.exceeds_chance == significant]
        heights = [ranked[i].value for i in at]
        bars += [
            Bars(at=at, heights=heights, width=0.7, label=label, color=color, lying=True)
        ] * bool(at)
    shuffled = Points(
        x=[one.by_chance for one in ranked],
        y=list(range(len(ranked))),
        names=[f"{one.parameter}: {one.by_chance:.2f} by chance" for one in ranked],
        label=f"most of {SHUFFLINGS} shufflings",
        color=BLACK,
        symbol="diamond",
        filled=False,
    )
    ticks = [(float(i), one.parameter) for i, one in enumerate(ranked)]
    return Panel(
        title=title,
        x=Axis(label=share, low=0),
        y=Axis(label="", ticks=ticks, low=-0.6, high=len(ranked) - 0.4),
        marks=[*bars, shuffled],
    )
