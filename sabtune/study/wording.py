"""Format exceptions and values of users' code on one line of bounded length."""

from __future__ import annotations

import ast
import functools
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import optuna

from sabtune.errors import SabtuneError

MAX_MESSAGE_CHARACTERS = 800
"""The maximum number of characters of an exception's message."""

MAX_VALUE_CHARACTERS = 200
"""The maximum number of characters of a value in a message."""


def one_line(text: str, max_characters: int = MAX_MESSAGE_CHARACTERS) -> str:
    """Return the text on one line, without control characters, truncated if it is too long."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 4 * max_characters])
    line = " ".join(printable.split())
    return line if len(line) <= max_characters else line[:max_characters] + "…"


def shown(value: object) -> str:
    """Return the value's `repr` on one line, or its type if `repr` fails."""
    try:
        return one_line(repr(value), MAX_VALUE_CHARACTERS)
    except Exception:
        return f"a {type(value).__name__}"


def explain(path: Path, problem: BaseException) -> str:
    """Return a one-line message for an exception of a study file: FILE:LINE: TYPE: MESSAGE."""
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    place = f"{path}:{lines[-1]}" if lines else str(path)
    kind, text = type(problem).__name__, _text(problem)
    if isinstance(problem, SabtuneError):
        return f"{place}: {text}"
    if isinstance(problem, optuna.TrialPruned):
        return f"{place}: pruned by the space" + (f": {text}" if text else "")
    if isinstance(problem, SystemExit):
        return f"{place}: it ends the program (sys.exit): remove that call"
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


def location(path: Path, definition: str | Callable[..., Any]) -> str:
    """Return FILE:LINE of a function, or of the first assignment to a name; FILE if unknown."""
    line = None
    if isinstance(definition, str) and path.is_file():
        for node in ast.parse(path.read_bytes()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            names = [getattr(target, "id", getattr(target, "name", None)) for target in targets]
            if isinstance(node, ast.AnnAssign):
                names = [getattr(node.target, "id", None)]
            if definition in names:
                line = node.lineno
                break
    elif callable(definition):
        code = code_of(definition)
        if code is not None and Path(code.co_filename) == path.resolve():
            line = code.co_firstlineno
    return f"{path}:{line}" if line else str(path)


def function_of(definition: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that a callable calls: that of a partial, a method or an object."""
    while isinstance(definition, functools.partial):
        definition = definition.func
    if inspect.isroutine(definition) or inspect.isclass(definition):
        function: Callable[..., Any] = inspect.unwrap(definition)
    else:
        function = inspect.unwrap(type(definition).__call__)
    return function


def code_of(definition: Callable[..., Any]) -> CodeType | None:
    """Return the code of the function that a callable calls; None if it isn't Python code."""
    code = getattr(function_of(definition), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _text(problem: BaseException) -> str:
    try:
        return one_line(str(problem))
    except Exception:
        return "(its message can't be shown)"


def _names(path: Path) -> tuple[str | None, ...]:
    """Return the file names of a SyntaxError in the file; None is that of an unreadable file."""
    return None, str(path), str(path.resolve())
