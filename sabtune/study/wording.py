"""What other people's code raises or returns, on one line of bounded length."""

from __future__ import annotations

import traceback
from pathlib import Path

import optuna

from sabtune.errors import SabtuneError

LONGEST, LONGEST_VALUE = 800, 200
"""Characters of a message, and of a value in one, that aren't ours."""


def one_line(text: str, most: int = LONGEST) -> str:
    """Return the text on one line, without control characters, cut where it is long."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    line = " ".join(printable.split())
    return line if len(line) <= most else line[:most] + "…"


def shown(value: object) -> str:
    """Return the value's `repr` on one line, or its type where it has none."""
    try:
        return one_line(repr(value), LONGEST_VALUE)
    except Exception:
        return f"a {type(value).__name__}"


def explain(path: Path, problem: BaseException) -> str:
    """Say on one line what a study file raised: the file, the line if it has one, the problem."""
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    place = f"{path}:{lines[-1]}" if lines else str(path)
    kind, text = type(problem).__name__, _text(problem)
    if isinstance(problem, SabtuneError):
        return f"{place}: {text}"
    if isinstance(problem, optuna.TrialPruned):
        return f"{place}: pruned by the space" + (f": {text}" if text else "")
    if isinstance(problem, SystemExit):
        return f"{place}: it ends the program (sys.exit): take that out"
    if isinstance(problem, SyntaxError) and not lines and problem.filename in _names(path):
        line = f":{problem.lineno}" if problem.lineno else ""
        return f"{path}{line}: {one_line(str(problem.msg))}"
    if isinstance(problem, SyntaxError) and problem.filename:
        text = f"{problem.filename}:{problem.lineno}: {problem.msg}"
    if isinstance(problem, ModuleNotFoundError):
        text += f": install it, or put it beside {path.name}"
    elif isinstance(problem, ImportError) and "relative import" in text:
        text += ": import the module beside the study file by its name alone, without a dot"
    return f"{place}: {kind}: {text}" if text else f"{place}: {kind}"


def _text(problem: BaseException) -> str:
    try:
        return one_line(str(problem))
    except Exception:
        return "(its message can't be shown)"


def _names(path: Path) -> tuple[str | None, ...]:
    """What a compiler calls the file; nothing, where it couldn't even read it."""
    return None, str(path), str(path.resolve())
