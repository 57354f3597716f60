"""Comparisons of methods over several seeds: their accuracies, and whether they differ.

A `Comparison` holds the runs. Its results are available as tables for the terminal (`page`), as
Markdown (`markdown`), and as rows of unrounded numbers (`accuracy_rows`, `contrast_rows`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from sabtune.analysis import statistics
from sabtune.analysis.statistics import Difference, Estimate, Floats, Share
from sabtune.analysis.table import ResultTable
from sabtune.errors import ConfigError
from sabtune.training.evaluation import SOLVED, LengthResult, solve_length

FEW_SEEDS = 10
"""The number of seeds below which bootstrap intervals are too narrow: see `bootstrap_interval`."""

NOT_DISTINGUISHABLE = "not distinguishable at this n"

Row = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one method on fresh seeds, all tested at the same lengths on fresh sequences.

    label: What identifies the method; unique in a comparison.

    runs: The length results of each seed, by the index of the seed. The same index in two groups
    means the same seed.

    failed: The number of seeds that `runs` lacks because their runs diverged or failed. Failed
    seeds count as unsolved, with chance accuracy.

    legend: What figures and tables call the method; "" for its label.

    share: The share of the memories that a step keeps at the end of a training sequence; None for a
    model without memories.

    parameters, multiply_adds, seconds: The mean over the seeds that didn't fail of the parameters,
    of the multiply-adds of a step, and of the seconds of a run; None if no run recorded it.
    """

    label: str
    runs: Mapping[int, Sequence[LengthResult]]
    failed: int = 0
    legend: str = ""
    share: float | None = None
    parameters: float | None = None
    multiply_adds: float | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The name of the method in figures and tables."""
        return self.legend or self.label

    @property
    def n(self) -> int:
        """The number of seeds, including failed ones."""
        return len(self.runs) + self.failed

    def solved(self, length: int, at: float = SOLVED) -> Share:
        """Return P(solve): the share of seeds with at least the accuracy `at` up to this length."""
        reached = [
            solve_length([result for result in results if result.length <= length], at) == length
            for results in self.runs.values()
        ]
        return statistics.solve_share(reached + [False] * self.failed)

    def loss(self, length: int) -> Estimate | None:
        """Return the mean loss over the seeds that didn't fail; None if all failed."""
        results = [
            result
            for results in self.runs.values()
            for result in results
            if result.length == length
        ]
        return statistics.mean([result.loss for result in results]) if results else None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The difference between the first group of a comparison and another, at the compared length.

    other: The other group.

    difference: The accuracy of the first group minus that of the other.

    corrected: The p-value after Holm's correction.
    """

    other: Group
    difference: Difference
    corrected: float

    @property
    def reading(self) -> str:
        """The result for the first group: "higher", "lower" or `NOT_DISTINGUISHABLE`."""
        if self.corrected >= statistics.SIGNIFICANCE:
            return NOT_DISTINGUISHABLE
        return "higher" if self.difference.value > 0 else "lower"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of the first method with each of the others, at the same lengths.

    groups: The runs of each method.

    chance: The chance accuracy of the task.

    searched: The selection lengths of the search.

    length: The length at which methods are compared, chosen in advance. None: the longest.

    solved_at: The accuracy from which a length counts as solved.

    Raises ConfigError if labels are not unique, a group has no seeds, the runs were measured at
    different lengths, or `length` wasn't measured.
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
        """The lengths at which all runs were measured, in ascending order."""
        runs = next(group.runs for group in self.groups if group.runs)
        return _lengths(next(iter(runs.values())))

    @property
    def compared(self) -> int:
        """The length at which methods are compared."""
        return self.lengths[-1] if self.length is None else self.length

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The differences between the first group and each other one."""
        ours, *others = self.groups
        return self._contrasts(ours, [(ours, other) for other in others])

    def contrasts_of(self, group: Group) -> tuple[Contrast, ...]:
        """Return the differences between a group and each other one.

        A group other than the first was chosen by the same results, so its p-values are corrected
        for the comparisons between all groups.
        """
        if group.label == self.groups[0].label:
            return self.contrasts
        others = [other for other in self.groups if other.label != group.label]
        pairs = [(group, other) for other in others]
        return self._contrasts(group, [*pairs, *itertools.combinations(others, 2)])

    def _contrasts(self, ours: Group, pairs: Sequence[tuple[Group, Group]]) -> tuple[Contrast, ...]:
        """Return the differences between `ours` and others, with p corrected for all pairs."""
        differences = [self._difference(first, second) for first, second in pairs]
        corrected = statistics.holm([difference.p for difference in differences])
        return tuple(
            Contrast(other=second, difference=difference, corrected=float(p))
            for (first, second), difference, p in zip(pairs, differences, corrected, strict=True)
            if first is ours
        )

    def accuracies(self, group: Group, length: int, among: Collection[int] = ()) -> Floats:
        """Return the accuracy of each seed, shape (n,), sorted by the index of the seed.

        A failed seed has chance accuracy.

        among: Indices of seeds that take part. Those without results are failed seeds. All other
        failed seeds come last.
        """
        accuracies = [
            next(result.accuracy for result in group.runs[seed] if result.length == length)
            if seed in group.runs
            else self.chance
            for seed in sorted({*group.runs, *among})
        ]
        return np.array(accuracies + [self.chance] * (group.n - len(accuracies)))

    def phases(self, group: Group, length: int) -> tuple[Estimate, Estimate] | None:
        """Return the mean accuracies in phase with the training length and in the worst phase.

        Failed seeds have chance accuracy. Returns None if one of the two was not measured.
        """
        results = [
            result
            for length_results in group.runs.values()
            for result in length_results
            if result.length == length
        ]
        samples = []
        for name in ("in_phase", "worst_phase"):
            measured = [getattr(result, name) for result in results if result.by_phase]
            if not measured or None in measured:
                return None
            samples.append(measured + [self.chance] * group.failed)
        in_phase, worst = map(statistics.mean, samples)
        return in_phase, worst

    def _difference(self, ours: Group, theirs: Group) -> Difference:
        """Return the paired difference if both groups ran the same seeds, else the unpaired one.

        Both differences use all seeds. The indices of failed seeds are not recorded. Two groups
        count as having run the same seeds if they have the same number of seeds, and if the failed
        seeds of each are at least as many as the seeds that only the other has results for.
        """
        seeds = {*ours.runs, *theirs.runs}
        if ours.n == theirs.n >= len(seeds):
            a, b = (self.accuracies(group, self.compared, seeds) for group in (ours, theirs))
            return statistics.paired_difference(a, b)
        a, b = (self.accuracies(group, self.compared) for group in (ours, theirs))
        return statistics.unpaired_difference(a, b)


def accuracy_table(comparison: Comparison) -> ResultTable:
    """Return a table of the mean accuracy of each method at each length, with its interval."""
    rows = []
    for group in comparison.groups:
        samples = [comparison.accuracies(group, length) for length in comparison.lengths]
        means = [statistics.mean(sample).percent() for sample in samples]
        rows.append((group.name, _seeds(group), *means))
    return ResultTable(
        f"Accuracy in %: mean over seeds [{statistics.CONFIDENCE:.0%} interval]",
        ("method", "seeds", *(f"length {length:,}" for length in comparison.lengths)),
        tuple(rows),
    )


def longest_table(comparison: Comparison) -> ResultTable:
    """Return a table of each method's interquartile mean and P(solve) at the longest length."""
    longest = comparison.lengths[-1]
    by_phase = [comparison.phases(group, longest) for group in comparison.groups]
    rows = []
    for group, phases in zip(comparison.groups, by_phase, strict=True):
        middle = statistics.interquartile_mean(comparison.accuracies(group, longest))
        solved = group.solved(longest, comparison.solved_at)
        count = f"{solved.count} of {solved.n}"
        row = [group.name, _seeds(group), middle.percent(), count, solved.percent()]
        if any(by_phase):
            row += [mean.percent() for mean in phases] if phases else ["–", "–"]
        rows.append(tuple(row))
    header = ["method", "seeds", "IQM of accuracy (%)", "solved by", "P(solve) (%)"]
    if any(by_phase):
        header += ["in phase (%)", "worst phase (%)"]
    return ResultTable(f"At length {longest:,}, the longest", tuple(header), tuple(rows))


def contrast_table(comparison: Comparison) -> ResultTable:
    """Return a table of the differences between the first method and each other one."""
    name = comparison.groups[0].name
    rows = []
    for contrast in comparison.contrasts:
        seeds, difference = _compared_seeds(comparison, contrast), contrast.difference
        ps = _p(difference.p), _p(contrast.corrected)
        gap = difference.percent(sign="+")
        rows.append((contrast.other.name, seeds, gap, *ps, contrast.reading))
    return ResultTable(
        f"{name} against the others at length {comparison.compared:,}",
        ("against", "seeds", "difference (percentage points)", "p", "p after Holm", "the first is"),
        tuple(rows),
    )


def tables(comparison: Comparison) -> list[ResultTable]:
    """Return all tables of the comparison; one method alone has no table of differences."""
    tables = [accuracy_table(comparison), longest_table(comparison)]
    return [*tables, contrast_table(comparison)] if comparison.contrasts else tables


def page(comparison: Comparison) -> RenderableType:
    """Return the tables and notes of the comparison for the terminal."""
    parts: list[RenderableType] = []
    for table in tables(comparison):
        parts += [table.rich(), Text("")]
    return Stack(*parts, *(Text(note) for note in notes(comparison)))


def markdown(comparison: Comparison) -> str:
    """Return the tables and notes of the comparison as Markdown."""
    texts = [table.markdown() for table in tables(comparison)]
    return "\n\n".join([*texts, "\n".join(f"- {note}" for note in notes(comparison))]) + "\n"


def accuracy_rows(comparison: Comparison) -> list[Row]:
    """Return a row for each method and length; shares and accuracies are fractions, not percent."""
    at, rows = comparison.solved_at, list[Row]()
    for group in comparison.groups:
        for length in comparison.lengths:
            accuracies, solved = comparison.accuracies(group, length), group.solved(length, at)
            row: Row = {"method": group.name, "length": length}
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
    """Return a row for each method except the first; differences are fractions, not percent."""
    ours = comparison.groups[0]
    rows: list[Row] = []
    for contrast in comparison.contrasts:
        difference, other = contrast.difference, contrast.other
        row: Row = {"method": ours.name, "against": other.name, "length": comparison.compared}
        row |= {"seeds": ours.n, "seeds_against": other.n, "paired": difference.paired}
        row |= difference.named("difference")
        row |= {"p": difference.p, "p_holm": contrast.corrected, "least_p": difference.least_p}
        rows.append(row | {"exact": difference.exact, "reading": contrast.reading})
    return rows


def notes(comparison: Comparison) -> list[str]:
    """Return the notes below the tables, which describe the runs, intervals and tests."""
    return [*notes_on_seeds(comparison), *_tests(comparison)]


def notes_on_seeds(comparison: Comparison) -> list[str]:
    """Return the notes on the runs and intervals, without those on the tests."""
    return [*_runs(comparison), *_intervals(comparison)]


def _runs(comparison: Comparison) -> Iterator[str]:
    seeds = _range(group.n for group in comparison.groups)
    runs = [results for group in comparison.groups for results in group.runs.values()]
    sequences = _range(result.sequences for results in runs for result in results)
    shared = sorted(set(comparison.searched) & set(comparison.lengths))
    search = (
        f"The search also chose by length {', '.join(f'{length:,}' for length in shared)}, "
        "with other seeds and sequences."
        if shared
        else "The search chose by none of these lengths, seeds or sequences."
    )
    yield f"Fresh seeds, {seeds} per method; {sequences} fresh sequences per length. {search}"
    failed = [f"{group.failed} of {group.name}" for group in comparison.groups if group.failed]
    if failed:
        at = f"{comparison.chance:.1%}"
        yield f"Failed seeds ({', '.join(failed)}) count as unsolved, with chance accuracy ({at})."


def _intervals(comparison: Comparison) -> Iterator[str]:
    yield (
        f"Intervals: {statistics.CONFIDENCE:.0%}, percentile bootstrap over seeds "
        f"({statistics.RESAMPLES:,} resamples); for P(solve), Clopper-Pearson."
    )
    if min(group.n for group in comparison.groups) < FEW_SEEDS:
        yield (
            f"Bootstrap intervals of fewer than {FEW_SEEDS} seeds are too narrow, and the interval "
            "of equal values has no width. That of P(solve) is valid for any number of seeds."
        )
    yield (
        f"P(solve): the share of seeds with an accuracy of at least {comparison.solved_at:.0%} at "
        "this and every shorter measured length. IQM: the mean of the middle half of the seeds."
    )
    runs = [results for group in comparison.groups for results in group.runs.values()]
    phases = max((len(result.by_phase) for results in runs for result in results), default=0)
    if phases:
        yield (
            f"Length L is measured over lengths L to L + {phases - 1}; the accuracy is their mean. "
            "In phase: the lengths that differ from the training length by a multiple of k_att. "
            "Worst phase: the lowest accuracy at any remainder modulo k_att, which P(solve) uses."
        )


def _tests(comparison: Comparison) -> Iterator[str]:
    contrasts = comparison.contrasts
    if not contrasts:
        return
    count = len(contrasts)
    tests = {True: "sign flips over pairs of equal seeds", False: "regroupings of all seeds"}
    kinds = {tests[contrast.difference.paired] for contrast in contrasts}
    exact = all(contrast.difference.exact for contrast in contrasts)
    yield (
        f"p: two-sided permutation test by {' or '.join(sorted(kinds))}, "
        f"{'exact' if exact else f'{statistics.REARRANGEMENTS:,} drawn where there are more'}; "
        f"Holm's correction over {_counted(count, 'comparison')}. "
        "If an interval and the corrected p disagree, p decides."
    )
    limits = {_compared_seeds(comparison, c): c.difference.least_p for c in contrasts}
    for seeds, least in limits.items():
        if least > statistics.SIGNIFICANCE:
            yield f"With {seeds} no p below {least:.3g} is possible."
    least = count * min(limits.values())
    if count > 1 and least > statistics.SIGNIFICANCE:
        yield f"After Holm no p below {min(1, least):.3g} is possible: use more seeds."


def _check_groups(groups: Sequence[Group]) -> None:
    labels = [group.label for group in groups]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"methods {labels}: expected a different label for each")
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


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _range(numbers: Iterable[int]) -> str:
    distinct = set(numbers)
    low, high = min(distinct), max(distinct)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
