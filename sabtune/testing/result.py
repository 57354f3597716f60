"""The result of the checks of a part, and the line that describes a failed one."""

from __future__ import annotations

import contextlib
import inspect
import math
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch

from sabtune.config import PARTS
from sabtune.errors import ConfigError, ConformanceError
from sabtune.schema import Config, shown
from sabtune.wording import counted

MAX_REASON_CHARACTERS = 600
"""The maximum length of the message of an exception that a part raised, in characters."""

CHECKED = "checked"
"""The name of a class that has no import path, during its checks."""

Check = Callable[[], str | None]
"""A check of a part. It raises an exception if it fails, and returns a note if it is incomplete."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of checking a part that keeps its contract.

    Args:
        part: The name of the part's configuration.
        checks: The names of the checks that the part passed, in their order.
        notes: What was not checked, with the reason.
        sequences_per_second: How fast a task draws training sequences on this machine, in batches
            of up to 32; None for other parts.

    Example:
        >>> import sabtune as sab
        >>> print(sab.testing.check_schedule(sab.Linear(start=9)))
        Linear passes 3 checks: config, values, ends
    """

    part: str
    checks: tuple[str, ...]
    notes: tuple[str, ...] = ()
    sequences_per_second: float | None = None

    def __str__(self) -> str:
        lines = [f"{self.part} passes {counted(len(self.checks), 'check')}: "]
        lines[0] += ", ".join(self.checks)
        if self.sequences_per_second is not None:
            lines.append(f"{self.sequences_per_second:,.0f} sequences per second")
        return "\n".join([*lines, *self.notes])


class Broken(Exception):  # noqa: N818  # never leaves this package
    """A promise that a part does not keep, in words."""


def expect(kept: bool, reason: str) -> None:
    """Raise `Broken` with the reason unless the promise is kept."""
    if not kept:
        raise Broken(reason)


def run_checks(base: type[Config], config: Config, checks: Sequence[Check]) -> CheckResult:
    """Run the checks in order, up to the first that fails.

    The global random generators and PyTorch's gradient mode are restored at the end. A class that
    can't be imported elsewhere, such as one in a notebook, is checked all the same, with a note.

    Raises:
        ConformanceError: A check failed, or the part raised an exception.
    """
    __tracebackhide__ = True
    with ExitStack() as stack:
        notes = []
        try:
            PARTS[base].identify(type(config))
        except ConfigError as problem:
            stack.enter_context(PARTS[base].including(CHECKED, type(config)))
            notes.append(f"config: a search would refuse this part, because {problem}")
        return _run(config, checks, notes)


def _run(config: Config, checks: Sequence[Check], notes: list[str]) -> CheckResult:
    """Run the checks, and add their notes to the others."""
    __tracebackhide__ = True
    part = name_of(type(config))
    names = [check.__name__.replace("_", " ") for check in checks]
    for name, check in zip(names, checks, strict=True):
        try:
            with _isolated():
                note = check()
        except Broken as broken:
            raise _error(part, name, str(broken)) from None
        except Exception as problem:
            raise _error(part, name, _raised(problem, config, check)) from problem
        if note:
            notes.append(f"{name}: {note}")
    return CheckResult(part=part, checks=tuple(names), notes=tuple(notes))


def is_whole(value: object, least: int) -> bool:
    """Return whether a value is an int, not a bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def wrong(name: str, value: object, wanted: str) -> str:
    """Return the reason for refusing a value."""
    return f"{name} is {shown(value)}: give {wanted}"


def type_of(value: object) -> str:
    """Return the type of a value in words, which is faster than the `repr` of tensors."""
    return "None" if value is None else f"a {type(value).__name__}"


def name_of(cls: type) -> str:
    """Return the name of a class as a person writes it, as in "Copying.Config"."""
    return cls.__qualname__.rpartition("<locals>.")[2]


def seed_globally(seed: int) -> None:
    """Seed the global generators of PyTorch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Seed the global random generators, enable gradients, and restore both afterwards."""
    theirs, ours = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            seed_globally(0)
            yield
    finally:
        np.random.set_state(theirs)
        random.setstate(ours)


def _error(part: str, name: str, reason: str) -> ConformanceError:
    error = ConformanceError(f"{part} fails the check {name!r}: {reason}")
    error.check = name
    return error


def _raised(problem: Exception, config: Config, check: Check) -> str:
    """Return which method raised the exception, what it says, and what the check is about."""
    where = _method(problem, type(config).__module__)
    text = " ".join(str(problem).split())
    if len(text) > MAX_REASON_CHARACTERS:
        text = text[:MAX_REASON_CHARACTERS] + "…"
    text = f"{where}raised {type(problem).__name__}" + (f": {text}" if text else "")
    return f"{text} (the check: {promise(check)})"


def promise(check: Check) -> str:
    """Return what a check is about, the first paragraph of its docstring, without "Check that"."""
    text = " ".join((inspect.getdoc(check) or "").split("\n\n")[0].split())
    return text.removeprefix("Check that ").removesuffix(".")


def _method(problem: Exception, module: str) -> str:
    """Return the outermost function of the part's module that the exception passed through.

    If there is none, the result is the outermost function of sabtune, or "".
    """
    frames = [frame for frame, _ in traceback.walk_tb(problem.__traceback__)]
    outside = [frame for frame in frames if not _module(frame).startswith(__package__)]
    own = [frame for frame in outside if _module(frame) == module]
    known = own or [frame for frame in outside if _module(frame).startswith("sabtune.")]
    if not known:
        return ""
    return known[0].f_code.co_qualname.rpartition("<locals>.")[2] + " "


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
