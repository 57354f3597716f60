"""Methods side by side over their seeds: what each reaches, and whether they can be told apart.

A `Comparison` holds the runs. What it found comes as tables for the terminal (`page`), as Markdown
(`markdown`) and as plain rows with every number in full (`accuracy_rows`, `contrast_rows`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from sabtune.compare import statistics
from sabtune.compare.statistics import Difference, Estimate, Floats, Share
from sabtune.compare.table import ResultTable
from sabtune.errors import ConfigError
from sabtune.training.evaluation import SOLVED, LengthResult, solve_length

FEW = 10
"""Seeds below which a bootstrap interval is noticeably too narrow (see `bootstrap_interval`)."""

NOT_DISTINGUISHABLE = "not distinguishable at this n"

Row = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One method's runs on fresh seeds, each tested at the same lengths on fresh sequences.

    runs: the rungs of each seed, by its index; equal indices of two groups are equal seeds.
    failed: further seeds, whose runs diverged or failed. They count as unsolved, with chance
    accuracy.
    """

    label: str
    runs: Mapping[int, Sequence[LengthResult]]
    failed: int = 0

    @property
    def n(self) -> int:
        return len(self.runs) + self.failed

    def solved(self, length: int, at: float = SOLVED) -> Share:
        """P(solve): at least `at` at this length and at every shorter one that was measured."""
        reached = [
            solve_length([result for result in results if result.length <= length], at) == length
            for results in self.runs.values()
        ]
        return statistics.solve_share(reached + [False] * self.failed)

    def loss(self, length: int) -> Estimate | None:
        """The mean over the seeds that ended, a failed one having none; None if no seed did."""
        results = [
            result
            for results in self.runs.values()
            for result in results
            if result.length == length
        ]
        return statistics.mean([result.loss for result in results]) if results else None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The first group less another, at the compared length; `corrected`: p after Holm."""

    other: Group
    difference: Difference
    corrected: float

    @property
    def reading(self) -> str:
        if self.corrected >= statistics.SIGNIFICANCE:
            return NOT_DISTINGUISHABLE
        return "higher" if self.difference.value > 0 else "lower"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods measured alike; the first is the one that the others are held against.

    chance, solved_at: accuracies, the task's own. searched: the lengths that the search chose by.
    length: where the contrasts are taken, chosen beforehand; None: the longest.
    """

    groups: Sequence[Group]
    chance: float
    searched: Collection[int]
    length: int | None = None
    solved_at: float = SOLVED

    def __post_init__(self) -> None:
        _check_groups(self.groups)
        if self.compared not in self.lengths:
            raise ConfigError(f"length={self.length!r}: expected one of {list(self.lengths)}")

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        runs = next(group.runs for group in self.groups if group.runs)
        return _lengths(next(iter(runs.values())))

    @property
    def compared(self) -> int:
        return self.lengths[-1] if self.length is None else self.length

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        ours, *others = self.groups
        differences = [self._difference(ours, other) for other in others]
        corrected = statistics.holm([difference.p for difference in differences])
        return tuple(
            Contrast(other=other, difference=difference, corrected=float(p))
            for other, difference, p in zip(others, differences, corrected, strict=True)
        )

    def accuracies(self, group: Group, length: int, among: Collection[int] = ()) -> Floats:
        """One a seed, by rising index; a failed seed has chance accuracy.

        Failed seeds have their places among the indices `among`, or else stand at the end.
        """
        found = [
            next(result.accuracy for result in group.runs[seed] if result.length == length)
            if seed in group.runs
            else self.chance
            for seed in sorted({*group.runs, *among})
        ]
        return np.array(found + [self.chance] * (group.n - len(found)))

    def phases(self, group: Group, length: int) -> tuple[Estimate, Estimate] | None:
        """The mean accuracies in phase with the training length and in the worst phase, failed
        seeds at chance; None where they weren't measured."""
        results = [result for of in group.runs.values() for result in of if result.length == length]
        samples = []
        for name in ("in_phase", "worst_phase"):
            known = [getattr(result, name) for result in results if result.by_phase]
            if not known or None in known:
                return None
            samples.append(known + [self.chance] * group.failed)
        in_phase, worst = map(statistics.mean, samples)
        return in_phase, worst

    def _difference(self, ours: Group, theirs: Group) -> Difference:
        """Paired where both ran the same seeds, else unpaired: no seed is left out.

        They ran the same if they ran as many, and each one's failures account for the seeds that
        only the other one has results of.
        """
        seeds = {*ours.runs, *theirs.runs}
        if ours.n == theirs.n >= len(seeds):
            a, b = (self.accuracies(group, self.compared, seeds) for group in (ours, theirs))
            return statistics.paired_difference(a, b)
        a, b = (self.accuracies(group, self.compared) for group in (ours, theirs))
        return statistics.unpaired_difference(a, b)


def accuracy_table(comparison: Comparison) -> ResultTable:
    """Methods × lengths: the mean accuracy and its interval."""
    rows = []
    for group in comparison.groups:
        samples = [comparison.accuracies(group, length) for length in comparison.lengths]
        means = [statistics.mean(sample).percent() for sample in samples]
        rows.append((group.label, _seeds(group), *means))
    return ResultTable(
        f"Accuracy in %: mean over seeds [{statistics.CONFIDENCE:.0%} interval]",
        ("method", "seeds", *(f"length {length:,}" for length in comparison.lengths)),
        tuple(rows),
    )


def longest_table(comparison: Comparison) -> ResultTable:
    """What each method reaches at the longest length: the interquartile mean and P(solve)."""
    longest = comparison.lengths[-1]
    by_phase = [comparison.phases(group, longest) for group in comparison.groups]
    rows = []
    for group, phases in zip(comparison.groups, by_phase, strict=True):
        middle = statistics.interquartile_mean(comparison.accuracies(group, longest))
        solved = group.solved(longest, comparison.solved_at)
        count = f"{solved.count} of {solved.n}"
        row = [group.label, _seeds(group), middle.percent(), count, solved.percent()]
        if any(by_phase):
            row += [mean.percent() for mean in phases] if phases else ["–", "–"]
        rows.append(tuple(row))
    header = ["method", "seeds", "IQM of accuracy (%)", "solved by", "P(solve) (%)"]
    if any(by_phase):
        header += ["in phase (%)", "worst phase (%)"]
    return ResultTable(f"At length {longest:,}, the longest", tuple(header), tuple(rows))


def contrast_table(comparison: Comparison) -> ResultTable:
    """The first method against each other one, at the compared length."""
    label = comparison.groups[0].label
    rows = []
    for contrast in comparison.contrasts:
        seeds, difference = _compared_seeds(comparison, contrast), contrast.difference
        ps = _p(difference.p), _p(contrast.corrected)
        gap = difference.percent(sign="+")
        rows.append((contrast.other.label, seeds, gap, *ps, contrast.reading))
    return ResultTable(
        f"{label} against the others at length {comparison.compared:,}",
        ("against", "seeds", "difference (percentage points)", "p", "p after Holm", f"{label} is"),
        tuple(rows),
    )


def tables(comparison: Comparison) -> list[ResultTable]:
    found = [accuracy_table(comparison), longest_table(comparison)]
    return [*found, contrast_table(comparison)] if comparison.contrasts else found


def page(comparison: Comparison) -> RenderableType:
    """The comparison as something rich can print."""
    parts: list[RenderableType] = []
    for table in tables(comparison):
        parts += [table.rich(), Text("")]
    return Stack(*parts, *(Text(note) for note in notes(comparison)))


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown text."""
    texts = [table.markdown() for table in tables(comparison)]
    return "\n\n".join([*texts, "\n".join(f"- {note}" for note in notes(comparison))]) + "\n"


def accuracy_rows(comparison: Comparison) -> list[Row]:
    """One row for each method and length; shares and accuracies are fractions, not %."""
    at, rows = comparison.solved_at, list[Row]()
    for group in comparison.groups:
        for length in comparison.lengths:
            accuracies, solved = comparison.accuracies(group, length), group.solved(length, at)
            row: Row = {"method": group.label, "length": length}
            row |= {"seeds": group.n, "failed": group.failed, "solved": solved.count}
            row |= statistics.mean(accuracies).named("mean")
            row |= statistics.interquartile_mean(accuracies).named("iqm")
            row |= solved.named("p_solve")
            phases = comparison.phases(group, length)
            row |= phases[0].named("in_phase") | phases[1].named("worst_phase") if phases else {}
            loss = group.loss(length)
            row |= loss.named("loss") if loss else {}
            rows.append(row)
    return rows


def contrast_rows(comparison: Comparison) -> list[Row]:
    """One row for each method that the first is held against; differences are fractions."""
    ours = comparison.groups[0]
    rows: list[Row] = []
    for contrast in comparison.contrasts:
        difference, other = contrast.difference, contrast.other
        row: Row = {"method": ours.label, "against": other.label, "length": comparison.compared}
        row |= {"seeds": ours.n, "seeds_against": other.n, "paired": difference.paired}
        row |= difference.named("difference")
        row |= {"p": difference.p, "p_holm": contrast.corrected, "least_p": difference.least_p}
        rows.append(row | {"exact": difference.exact, "reading": contrast.reading})
    return rows


def notes(comparison: Comparison) -> list[str]:
    """What was done, a line each: to stand under the tables."""
    return [*notes_on_seeds(comparison), *_tests(comparison)]


def notes_on_seeds(comparison: Comparison) -> list[str]:
    """Of these, what is about the runs and their intervals alone."""
    return [*_runs(comparison), *_intervals(comparison)]


def _runs(comparison: Comparison) -> Iterator[str]:
    seeds = _range(group.n for group in comparison.groups)
    runs = [results for group in comparison.groups for results in group.runs.values()]
    sequences = _range(result.sequences for results in runs for result in results)
    known = sorted(set(comparison.searched) & set(comparison.lengths))
    search = (
        f"The search chose by length {', '.join(f'{length:,}' for length in known)} too, "
        "with other seeds and sequences."
        if known
        else "The search chose by none of these lengths, seeds or sequences."
    )
    yield f"Fresh seeds, {seeds} a method; {sequences} fresh sequences a length. {search}"
    failed = [f"{group.failed} of {group.label}" for group in comparison.groups if group.failed]
    if failed:
        at = f"{comparison.chance:.1%}"
        yield f"Failed seeds ({', '.join(failed)}) count: as unsolved, at chance accuracy ({at})."


def _intervals(comparison: Comparison) -> Iterator[str]:
    yield (
        f"Intervals: {statistics.CONFIDENCE:.0%}, percentile bootstrap over seeds "
        f"({statistics.RESAMPLES:,} resamples); of P(solve): Clopper-Pearson."
    )
    if min(group.n for group in comparison.groups) < FEW:
        yield (
            f"Bootstrap intervals of fewer than {FEW} seeds are too narrow; one of equal values "
            "has no width. P(solve)'s interval holds for any number of seeds."
        )
    yield (
        f"P(solve): the share of seeds with an accuracy of {comparison.solved_at:.0%} or more at "
        "the length and every shorter one measured. IQM: the mean of the middle half of the seeds."
    )
    runs = [results for group in comparison.groups for results in group.runs.values()]
    phases = max((len(result.by_phase) for results in runs for result in results), default=0)
    if phases:
        yield (
            f"A length L is measured over L … L + {phases - 1}; the accuracy is their mean. In "
            "phase: those that differ from the training length by a multiple of k_att. Worst "
            "phase: the least accuracy at one remainder by k_att; P(solve) is by it."
        )


def _tests(comparison: Comparison) -> Iterator[str]:
    contrasts = comparison.contrasts
    if not contrasts:
        return
    family = len(contrasts)
    tests = {True: "sign flips over pairs of equal seeds", False: "regroupings of all seeds"}
    kinds = {tests[contrast.difference.paired] for contrast in contrasts}
    exact = all(contrast.difference.exact for contrast in contrasts)
    yield (
        f"p: two-sided permutation test by {' or '.join(sorted(kinds))}, "
        f"{'exact' if exact else f'{statistics.REARRANGEMENTS:,} drawn where there are more'}; "
        f"Holm's correction over {_counted(family, 'comparison')}. "
        "Where an interval and the corrected p disagree, p decides."
    )
    limits = {_compared_seeds(comparison, c): c.difference.least_p for c in contrasts}
    for seeds, least in limits.items():
        if least > statistics.SIGNIFICANCE:
            yield f"With {seeds} no p below {least:.3g} is possible."
    least = family * min(limits.values())
    if family > 1 and least > statistics.SIGNIFICANCE:
        yield f"After Holm no p below {min(1, least):.3g} is possible: it takes more seeds."


def _check_groups(groups: Sequence[Group]) -> None:
    labels = [group.label for group in groups]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"methods {labels}: expected a label of its own for each")
    for group in groups:
        if group.failed < 0 or group.n < 1:
            raise ConfigError(f"{group.label}: {group.n} seeds; expected at least one")
    measured = {_lengths(results) for group in groups for results in group.runs.values()}
    if len(measured) != 1 or () in measured:
        raise ConfigError(f"lengths {sorted(measured)}: expected the same in every run")


def _lengths(results: Sequence[LengthResult]) -> tuple[int, ...]:
    return tuple(sorted(result.length for result in results))


def _seeds(group: Group) -> str:
    return f"{group.n} ({group.failed} failed)" if group.failed else f"{group.n}"


def _compared_seeds(comparison: Comparison, contrast: Contrast) -> str:
    n = comparison.groups[0].n
    return _counted(n, "pair") if contrast.difference.paired else f"{n} and {contrast.other.n}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _range(numbers: Iterable[int]) -> str:
    found = set(numbers)
    low, high = min(found), max(found)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
