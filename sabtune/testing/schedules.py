"""The checks of a schedule."""

from __future__ import annotations

from itertools import product

from sabtune.config import RunConfig
from sabtune.models import SAB
from sabtune.models.sab import ALL
from sabtune.schedule import Moving, Schedule
from sabtune.schema import shown
from sabtune.testing.configs import check_argument, check_config
from sabtune.testing.result import CheckResult, expect, name_of, run_checks, seed_globally

FINALS = (1, 5, 20, ALL)
DENSE = (1, 8, 21)
POINTS = tuple(step / 40 for step in range(41))
"""The shares of training at which schedules are read."""


def check_schedule(config: Schedule) -> CheckResult:
    """Check that a schedule keeps the contract of `sabtune.schedule.Schedule`.

    The checks, in this order, up to the first that fails:

    - config: the configuration is read from JSON as it was, and has a hash.
    - values: `k_top` is an int of at least 1, and depends on nothing but its arguments.
    - ends: `k_top` is `final` at progress 1. A schedule that derives from `Moving` also has its
      start value up to `warmup`, its final value from `share` on, and values between the two.

    Args:
        config: The schedule.

    Returns:
        The names of the checks.

    Raises:
        ConformanceError: A check failed. The message is one line that names the check, the value
            and what the contract wants.
        ConfigError: `config` is not a schedule.

    Example:
        >>> import sabtune as sab
        >>> sab.testing.check_schedule(sab.Cosine(start=12)).checks
        ('config', 'values', 'ends')
    """
    __tracebackhide__ = True
    check_argument(config, Schedule, "Linear(start=12)")
    checks = ScheduleChecks(config)
    return run_checks(Schedule, config, [checks.config, checks.values, checks.ends])


class ScheduleChecks:
    """The checks of one schedule."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.method = f"{name_of(type(schedule))}.k_top"

    def config(self) -> None:
        """Check that the configuration is read from JSON as it was, and has a hash."""

        def read(run: RunConfig) -> Schedule:
            model = run.model
            assert isinstance(model, SAB.Config)
            return model.schedule

        check_config(self.schedule, read)

    def values(self) -> None:
        """Check that `k_top` is an int of at least 1, and depends on nothing but its arguments."""
        cases = list(product(POINTS, FINALS, DENSE))
        first = {case: self.schedule.k_top(*case) for case in cases}
        for case, value in first.items():
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            expect(whole, f"{self.call(*case)} is {shown(value)}: return an int of at least 1")
        seed_globally(1)
        for case in reversed(cases):
            again = self.schedule.k_top(*case)
            same = (
                f"is {first[case]} and then {shown(again)}: return the same for the same arguments"
            )
            expect(again == first[case], f"{self.call(*case)} {same}")

    def ends(self) -> None:
        """Check that `k_top` is `final` at progress 1.

        A schedule that derives from `Moving` also keeps its other promises.
        """
        for final, dense in product(FINALS, DENSE):
            last = self.schedule.k_top(1.0, final, dense)
            wanted = f"return `final`, {final}, at progress 1"
            expect(last == final, f"{self.call(1.0, final, dense)} is {last}: {wanted}")
            if isinstance(self.schedule, Moving):
                self.moves(self.schedule, final, dense)

    def moves(self, schedule: Moving, final: int, dense: int) -> None:
        """Check the start, the end and the range of a schedule that derives from `Moving`."""
        start = dense if schedule.start == "all" else schedule.start
        for progress in POINTS:
            value, wanted = schedule.k_top(progress, final, dense), range(0)
            if progress <= schedule.warmup:
                wanted, when = range(start, start + 1), "up to `warmup`"
            elif progress >= schedule.share:
                wanted, when = range(final, final + 1), "from `share` on"
            else:
                wanted, when = range(min(start, final), max(start, final) + 1), "before `share`"
            allowed = f"{wanted[0]}" + (f" to {wanted[-1]}" if len(wanted) > 1 else "")
            remedy = f"return {allowed} {when}"
            expect(value in wanted, f"{self.call(progress, final, dense)} is {value}: {remedy}")

    def call(self, progress: float, final: int, dense: int) -> str:
        """Return the call in words."""
        return f"{self.method}({progress:g}, final={final}, dense={dense})"
