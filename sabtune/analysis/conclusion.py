"""The conclusion of a study: which sparsity generalizes to longer sequences, and how certain it is.

The terminal, MLflow and the report all show this conclusion: three sentences, and a table of the
best configurations.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sabtune.analysis import compared, statistics
from sabtune.analysis.comparison import NOT_DISTINGUISHABLE, Comparison, Group
from sabtune.analysis.statistics import Estimate
from sabtune.analysis.table import ResultTable
from sabtune.config import RunConfig
from sabtune.escaping import markdown
from sabtune.study.configurations import Configuration
from sabtune.study.record import StudyRecord
from sabtune.study.trial_record import TrialRecord
from sabtune.tasks import Task
from sabtune.training.evaluation import LengthResult, solve_length
from sabtune.wording import counted

SHOWN = 5
"""The maximum number of configurations in the table."""

PHASE_GAP = 0.005
"""The minimum gap to the mean at which the accuracy in the worst phase is mentioned."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration in the table.

    name: Its number and model in a search, or its name in a comparison.

    run: One of its training runs.

    seeds: The number of its seeds in words, as in "3, 2 complete".

    first, longest: Its mean accuracy at the training length and at the longest length, from 0 to 1.

    fresh: Its results on fresh seeds, or None.
    """

    name: str
    run: RunConfig
    seeds: str
    first: float | None
    longest: float | None
    fresh: Group | None = None


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """The conclusion of a study, in sentences and as a table.

    sentences: What was found, the best configuration, and what is and is not established.

    table: The best configurations; None if no trial has completed.
    """

    sentences: Sequence[str]
    table: ResultTable | None

    def markdown(self) -> str:
        """Return the sentences and the table as Markdown."""
        text = " ".join(map(markdown, self.sentences))
        return text if self.table is None else f"{text}\n\n{self.table.markdown()}"


def conclude(study: StudyRecord) -> Conclusion:
    """Return the conclusion of a study, whether or not its search is complete.

    Raises StoreError if the study or one of its comparisons can't be read.
    """
    if study.is_comparison:
        result = compared.comparison(study)
        return _of_comparison(study, result) if result else Conclusion(sentences=(), table=None)
    if not study.ranked:
        words = "No trial has completed yet." if study.trials else "No trial has started yet."
        return Conclusion(sentences=(words,), table=None)
    findings = Findings(study)
    sentences = (findings.generalization(), findings.best(), findings.certainty())
    return Conclusion(sentences=sentences, table=findings.table())


class Findings:
    """The findings of a search that has a complete trial, and of its latest confirmation."""

    def __init__(self, study: StudyRecord):
        self.study = study
        self.confirmation = compared.confirmation(study)
        self.groups: dict[int, Group] = {}
        if self.confirmation is not None:
            self.groups = compared.groups(study, *self.confirmation)

    @cached_property
    def ranked(self) -> list[Configuration]:
        """The configurations: confirmed ones by their mean on fresh seeds, then all others."""
        confirmed = [c for c in self.study.ranked if c.number in self.groups]
        others = [c for c in self.study.ranked if c.number not in self.groups]
        return sorted(confirmed, key=self._fresh_accuracy, reverse=True) + others

    @property
    def first(self) -> Configuration:
        """The best configuration."""
        return self.ranked[0]

    @cached_property
    def task(self) -> Task:
        """The task of the study."""
        return _run(self.first.best).task.build()

    @cached_property
    def lengths(self) -> tuple[int, int]:
        """The training length, which is the shortest length of the ladder, and the longest one."""
        spec = self.first.best.spec
        assert spec is not None
        return spec.ladder.lengths[0], spec.ladder.lengths[-1]

    def generalization(self) -> str:
        """Return a sentence on how many configurations generalize, and how sparse they are."""
        shortest, longest = self.lengths
        times = f", {longest / shortest:.3g} times the training length" * (longest != shortest)
        solving = [c for c in self.study.ranked if any(map(self._solves, c.complete))]
        trained = f"{counted(len(self.study.ranked), 'configuration')} trained to the end"
        tried = len(self.study.leaderboard.configurations)
        trained += f" (of {tried:,} tried)" * (tried > len(self.study.ranked))
        where = f"length {longest:,}{times} (at least {self.task.solved:.0%} accuracy"
        where += "" if shortest == longest else " at it and at every shorter length"
        where += ", in every phase)" if self._has_phases else ")"
        if not solving:
            closest = max(self.study.ranked, key=lambda c: _mean(c.complete, longest) or 0.0)
            accuracy = _percent(_mean(closest.complete, longest))
            return (
                f"None of {trained} solves {where}; the most accurate one at that length, "
                f"#{closest.number}, reaches {accuracy}."
            )
        shares = [share for c in solving if (share := _run(c.best).share_kept()) is not None]
        solve = "solves" if len(solving) == 1 else "solve"
        kept = _kept(shares, len(solving))
        several = max(len(c.complete) for c in self.study.ranked) > 1
        seed = " with at least one seed" * several
        return f"{len(solving):,} of {trained} {solve} {where}{seed}{kept}."

    def best(self) -> str:
        """Return a sentence on the best configuration."""
        best, run = self.first, _run(self.first.best)
        share = run.share_kept()
        kept = f"keeps {_percent(share)} of the memories at the training length and "
        keeps = "" if share is None else kept
        lengths, seeds = self.lengths, len(best.complete)
        if self.confirmation is not None and best.number in self.groups:
            _, result = self.confirmation
            group = self.groups[best.number]
            lengths, seeds = (result.lengths[0], result.lengths[-1]), group.n
            accuracies: list[float | None] = [_fresh_mean(result, group, n) for n in lengths]
            rank, fresh = "The best on fresh seeds", "fresh "
        else:
            accuracies = [_mean(best.complete, length) for length in lengths]
            rank, fresh = "The best by its score in the search", ""
        reached = [
            f"{_percent(accuracy)} at length {length:,}"
            for accuracy, length in zip(accuracies, lengths, strict=True)
        ]
        mean = f" on average over {counted(seeds, f'{fresh}seed')}" if seeds > 1 else ""
        return (
            f"{rank}, #{best.number} {run.model.legend()}, {keeps}reaches "
            f"{' and '.join(dict.fromkeys(reached))}{mean}{self._phase(best)}, where chance is "
            f"{self.task.chance:.1%}."
        )

    def certainty(self) -> str:
        """Return a sentence on what is established and what is not."""
        if self.confirmation is None or self.first.number not in self.groups:
            most = max(len(c.scores) for c in self.study.ranked)
            seeds = "one seed" if most == 1 else f"at most {most} seeds"
            return (
                f"Not established: that this holds for other seeds. Each configuration was "
                f"trained with {seeds}, and the search picked the best; "
                f"`sabtune confirm {shlex.quote(self.study.name)}` measures it on fresh seeds."
            )
        _, result = self.confirmation
        return _certainty(result, self.groups[self.first.number])

    def table(self) -> ResultTable:
        """Return the table of the best configurations."""
        shortest, longest = self.lengths
        rows = [
            Row(
                name=f"#{c.number} {_run(c.best).model.legend()}",
                run=_run(c.best),
                seeds=_seeds(c),
                first=_mean(c.complete, shortest),
                longest=_mean(c.complete, longest),
                fresh=self.groups.get(c.number),
            )
            for c in self.ranked[:SHOWN]
        ]
        count = len(rows)
        title = "The best configuration" if count == 1 else f"The {count} best configurations"
        title += ": mean accuracy by length"
        comparison = self.confirmation[1] if self.groups and self.confirmation else None
        return _table(title, rows, self.lengths, comparison)

    def _fresh_accuracy(self, configuration: Configuration) -> float:
        assert self.confirmation is not None
        result = self.confirmation[1]
        return _fresh_mean(result, self.groups[configuration.number], result.compared)

    def _solves(self, trial: TrialRecord) -> bool:
        return bool(trial.test) and solve_length(trial.test, self.task.solved) == self.lengths[1]

    @property
    def _has_phases(self) -> bool:
        """Whether lengths were measured in several phases, of which the worst decides."""
        trials = [trial for c in self.study.ranked for trial in c.complete]
        return any(result.worst_phase is not None for trial in trials for result in trial.test)

    def _phase(self, configuration: Configuration) -> str:
        """Return the accuracy in the worst phase of the longest length, if it is lower."""
        results = list(_at(configuration.complete, self.lengths[1]))
        gaps = [result.accuracy - result.least for result in results]
        if configuration.number in self.groups or max(gaps, default=0.0) < PHASE_GAP:
            return ""
        worst = min(result.least for result in results)
        return f" ({_percent(worst)} at the least favorable length modulo k_att)"


def _of_comparison(study: StudyRecord, result: Comparison) -> Conclusion:
    """Return the conclusion of a comparison on fresh seeds."""
    runs = {trial.label: trial.run for trial in study.counted if trial.run is not None}
    ordered = sorted(
        result.groups,
        key=lambda group: _fresh_mean(result, group, result.compared),
        reverse=True,
    )
    best, at = ordered[0], result.solved_at
    solving = [g for g in ordered if g.solved(result.compared, at).count == g.n]
    task = runs[best.label].task.build()
    reached = statistics.mean(result.accuracies(best, result.compared))
    sentences = (
        f"{counted(len(ordered), 'method')} on fresh seeds: {len(solving)} of them "
        f"{'solves' if len(solving) == 1 else 'solve'} length {result.compared:,} with every seed.",
        f"The most accurate there, {best.name}, reaches {_percent(reached.value)}"
        f"{_interval(reached, ' (95% interval {} to {})')}, where chance is {task.chance:.1%}.",
        _certainty(result, best),
    )
    lengths = (result.lengths[0], result.lengths[-1])
    rows = [
        Row(name=g.name, run=runs[g.label], seeds=str(g.n), first=None, longest=None, fresh=g)
        for g in ordered
    ]
    return Conclusion(
        sentences=sentences, table=_table("Mean accuracy on fresh seeds", rows, lengths, result)
    )


def _certainty(result: Comparison, group: Group) -> str:
    """Return a sentence on how a group compares with the other groups of a comparison."""
    others = [other for other in result.groups if other.label != group.label]
    solved = group.solved(result.compared, result.solved_at)
    solves = (
        f"{solved.count} of {counted(solved.n, 'fresh seed')} solved length {result.compared:,}"
        f"{_interval(solved, ' (95% interval of P(solve): {} to {})')}"
    )
    if not others:
        return f"Established: {solves}. Nothing else was trained on these seeds to compare with."
    contrasts = result.contrasts_of(group)
    readings = {
        reading: [contrast.other.name for contrast in contrasts if contrast.reading == reading]
        for reading in ("higher", "lower", NOT_DISTINGUISHABLE)
    }
    known = [solves] + [
        f"its accuracy there is {reading} than that of {_listed(readings[reading], 'and')}"
        for reading in ("higher", "lower")
        if readings[reading]
    ]
    text, unknown = f"Established: {', and '.join(known)}.", readings[NOT_DISTINGUISHABLE]
    if not unknown:
        return text
    least = min(c.difference.least_p for c in contrasts if c.reading == NOT_DISTINGUISHABLE)
    few = f"; this takes more seeds (p is at least {least:.2g} with these)"
    differs = f"that it differs from {_listed(unknown)}{few * (least >= statistics.SIGNIFICANCE)}"
    return f"{text} Not established: {differs}."


def _table(
    title: str, rows: Sequence[Row], lengths: tuple[int, int], result: Comparison | None
) -> ResultTable:
    """Return the table of configurations.

    lengths: The training length and the longest length.

    result: The comparison on fresh seeds that the rows' groups belong to, or None.
    """
    shortest, longest = lengths
    measured = [shortest] if shortest == longest else [shortest, longest]
    searched = any(row.first is not None for row in rows)
    shares = [row.run.share_kept() for row in rows]
    has_shares = any(share is not None for share in shares)
    header = ["configuration", *["share kept"] * has_shares]
    header += ["seeds", *(f"length {length:,}" for length in measured)] * searched
    fresh: list[int] = []
    if result is not None:
        fresh = list(dict.fromkeys((result.lengths[0], result.lengths[-1])))
        header += ["fresh seeds", *(f"length {length:,}" for length in fresh)]
    body = []
    for row, share in zip(rows, shares, strict=True):
        cells = [row.name]
        cells += [_percent(share)] * has_shares
        if searched:
            accuracies = (row.first, row.longest)[: len(measured)]
            cells += [row.seeds, *map(_percent, accuracies)]
        if result is not None:
            cells += list(_fresh(row.fresh, result, fresh))
        body.append(tuple(cells))
    return ResultTable(title, tuple(header), tuple(body))


def _fresh(group: Group | None, result: Comparison, lengths: Sequence[int]) -> Iterator[str]:
    """Yield the cells on fresh seeds: their number, and the mean accuracy at each length."""
    yield "–" if group is None else str(group.n)
    for length in lengths:
        if group is None:
            yield "–"
        else:
            accuracy = statistics.mean(result.accuracies(group, length))
            ends = accuracy.interval
            words = f"\n[{100 * ends.low:.1f}, {100 * ends.high:.1f}]" if ends else ""
            yield _percent(accuracy.value) + words


def _fresh_mean(result: Comparison, group: Group, length: int) -> float:
    """Return the mean accuracy of a group on fresh seeds."""
    return statistics.mean(result.accuracies(group, length)).value


def _seeds(configuration: Configuration) -> str:
    seeds, complete = len(configuration.scores), len(configuration.complete)
    return f"{seeds}" if seeds == complete else f"{seeds}, {complete} complete"


def _run(trial: TrialRecord) -> RunConfig:
    assert trial.run is not None
    return trial.run


def _at(trials: Iterable[TrialRecord], length: int) -> Iterator[LengthResult]:
    """Yield the test results of the trials at one length."""
    for trial in trials:
        yield from (result for result in trial.test if result.length == length)


def _mean(trials: Sequence[TrialRecord], length: int) -> float | None:
    """Return the mean test accuracy of the trials at one length; None if it wasn't measured."""
    results = list(_at(trials, length))
    return sum(result.accuracy for result in results) / len(results) if results else None


def _kept(shares: Sequence[float], configurations: int) -> str:
    """Return a clause on the shares of memories that configurations keep, if they have any."""
    if not shares:
        return ""
    keep = "keeps" if configurations == 1 else "keep"
    low, high = _percent(min(shares)), _percent(max(shares))
    between = low if low == high else f"{low} to {high}"
    return f" and {keep} {between} of the memories at the training length"


def _percent(share: float | None) -> str:
    """Return a share in percent, as in "12.5%" or "0.31%"; "–" for None."""
    if share is None:
        return "–"
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}"


def _interval(estimate: Estimate, words: str) -> str:
    """Return the ends of an interval in these words; "" if there is no interval."""
    interval = estimate.interval
    return words.format(_percent(interval.low), _percent(interval.high)) if interval else ""


def _listed(names: Sequence[str], word: str = "or") -> str:
    """Return names as a list in words, with semicolons because names may contain commas.

    word: What stands before the last name.
    """
    if len(names) < 3:
        return f" {word} ".join(names)
    return f"{'; '.join(names[:-1])}; {word} {names[-1]}"
